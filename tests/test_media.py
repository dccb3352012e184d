"""Sound, video and images: planted tones, clicks and colours; damage that is named."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import signal

from fdlab.core.errors import UserError
from fdlab.data import media
from fdlab.data.listing import BadMedium

pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import av  # noqa: E402
from media_files import COLOURS, SIZE, make_tone, write_video, write_wav  # noqa: E402

NEAR = 8  # of 255: what lossy encoders do to a plain colour
H264 = ("libx264", "aac")


def find_peak(samples: np.ndarray, rate: int) -> float:
    """Frequency of the strongest component, in Hz."""
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[np.abs(np.fft.rfft(samples)).argmax()])


def middle(frames: np.ndarray) -> np.ndarray:
    """(F, 3) colours in the middle of (F, 3, side, side)."""
    return frames[..., frames.shape[-2] // 2, frames.shape[-1] // 2].astype(int)


def assert_colours(frames: np.ndarray, numbers: list[int]) -> None:
    assert np.abs(middle(frames) - np.array([COLOURS[n] for n in numbers])).max() <= NEAR


def click(at: float, seconds: float, rate: int) -> np.ndarray:
    """Silence with a short click, which every encoder keeps, that is loudest at `at` seconds."""
    times = np.arange(round(seconds * rate)) / rate - at
    return (0.9 * np.exp(-((times / 5e-4) ** 2))).astype(np.float32)


# ---- spectrograms


@pytest.mark.parametrize(
    ("length", "seconds", "standardise", "columns"),
    [(20000, 3, False, 299), (90000, 3, False, 299), (7000, 10, True, 1004), (400, 1, False, 98)],
)
def test_a_spectrogram_is_scipys_of_the_tiled_and_clipped_clip(
    length, seconds, standardise, columns
):
    clip = np.random.default_rng(length).normal(0, 0.6, length)  # a tenth is beyond full scale
    tiled = np.concatenate([clip] * (16000 * seconds // length + 1))[: 16000 * seconds]
    tiled = np.where(tiled > 1, 1, np.where(tiled < -1, -1, tiled))
    expected = np.log(np.abs(signal.spectrogram(tiled, 16000, nperseg=512, noverlap=353)[2]) + 1e-7)
    if standardise:
        expected = (expected - expected.mean()) / expected.std()
    found = media.log_spectrogram(clip.astype(np.float32), 16000, seconds, standardise)
    assert found.shape == (1, 257, columns) and found.dtype == np.float16
    np.testing.assert_allclose(found[0], expected, atol=0.008)


@pytest.mark.parametrize("frequency", [0, 100, 1000, 3999, 7999])
@pytest.mark.parametrize("level", [0.0, 1e-6, 1.0, 100.0])
def test_a_logarithm_stays_where_float16_is_fine(frequency, level):
    times = np.arange(16000) / 16000
    wave = level * np.sign(np.cos(2 * np.pi * frequency * times))
    for standardise, low, high in ((False, -16.2, 0), (True, -508, 508)):
        found = media.log_spectrogram(wave, 16000, 1, standardise)
        assert np.isfinite(found).all() and low <= found.min() and found.max() <= high


# ---- sound


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_samples_at_the_asked_rate_are_read_as_they_are(tmp_path, name):
    tone = make_tone(440, 0.5, 16000)
    write_wav(tmp_path / name, tone, 16000)
    found = media.read_audio(tmp_path / name, 16000)
    assert found.dtype == np.float32 and np.abs(found - tone).max() <= 1 / 32768


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_channels_are_averaged_and_rates_resampled(tmp_path, rate):
    left, right = make_tone(1000, 2, rate, 0.8), make_tone(2500, 2, rate, 0.4)
    write_wav(tmp_path / "a.wav", np.stack([left, right], axis=1), rate)
    found = media.read_audio(tmp_path / "a.wav", 16000)
    assert found.ndim == 1 and abs(len(found) - 32000) <= 1
    assert find_peak(found, 16000) == pytest.approx(1000, abs=1)
    expected = make_tone(1000, 2, 16000, 0.4) + make_tone(2500, 2, 16000, 0.2)
    inside = slice(500, -500)  # a resampler rings where a clip begins and ends
    assert np.abs(found[inside] - expected[: len(found)][inside]).max() < 2e-3
    rows = media.log_spectrogram(found, 16000, 2)[0].mean(axis=1)
    assert rows.argmax() == round(1000 / (16000 / 512))


@pytest.mark.parametrize(
    ("name", "codecs", "rate"),
    [
        ("a.flv", ("flv", "mp3"), 44100),
        ("a.flv", ("flv", "adpcm_swf"), 44100),
        ("a.flv", H264, 44100),
        ("a.mp4", ("mpeg4", "aac"), 16000),
        ("a.mp4", H264, 48000),
        ("a.mp4", ("libx264", "mp3"), 44100),
    ],
)
def test_what_an_encoder_puts_before_the_sound_is_trimmed(tmp_path, name, codecs, rate):
    write_video(tmp_path / name, COLOURS[:2], samples=click(1.0, 2, rate), rate=rate, codecs=codecs)
    found = media.read_audio(tmp_path / name, 16000)
    off = abs(int(found.argmax()) - 16000)
    assert off <= 16 if name.endswith("flv") else off <= 1  # FLV counts in milliseconds
    if name.endswith("mp4"):
        assert abs(len(found) - 32000) <= 1
    else:
        assert 32000 <= len(found) < 32000 + 16000 * 2 * 4096 / rate


def test_sound_before_a_late_picture_stays_where_the_file_knows_its_beginning(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, COLOURS[:2], samples=click(1.0, 2, 44100), fps=50, late=3)
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        assert float(picture.start_time * picture.time_base) == pytest.approx(0.06, abs=1e-3)
    assert abs(int(media.read_audio(path, 16000).argmax()) - 16000) <= 1


def write_truncated(path: Path, share: float = 0.5) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def make_bad_sound(kind: str, folder: Path) -> Path:
    tone = make_tone(440, 1, 16000)
    path = folder / f"{kind}.{kind.split()[-1]}"
    if kind.startswith("empty"):
        path.touch()
    elif kind.startswith("no samples"):
        write_wav(path, tone[:0], 16000)
    elif kind.startswith("cut"):
        write_wav(path, tone, 16000)
        write_truncated(path)
    elif kind.startswith("short"):  # two bytes of 32044
        write_wav(path, tone, 16000)
        write_truncated(path, 1 - 2 / path.stat().st_size)
    elif kind.startswith("not finite"):
        tone[5] = np.nan
        write_wav(path, tone, 16000, "FLOAT")
    elif kind.startswith("text"):
        path.write_text("these are no samples\n" * 20, encoding="utf-8")
    elif kind.startswith("silent"):
        write_video(path, COLOURS[:1])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty wav", "empty"),
        ("empty flv", "empty"),
        ("missing wav", "missing"),
        ("missing mp4", "missing"),
        ("no samples wav", "no samples"),
        ("cut wav", "truncated"),
        ("short wav", "promises 32000 bytes of sound, 31998"),
        ("cut aiff", "truncated"),
        ("cut mp3", "truncated"),
        ("cut flac", "cannot be decoded"),
        ("not finite wav", "not finite"),
        ("text wav", "cannot be decoded"),
        ("text flv", "cannot be decoded"),
        ("silent flv", "no audio stream"),
        ("silent mp4", "no audio stream"),
    ],
)
def test_a_bad_sound_names_the_file_and_the_reason(tmp_path, kind, reason):
    path = make_bad_sound(kind, tmp_path)
    with pytest.raises(BadMedium, match=reason) as caught:
        media.read_audio(path, 16000)
    assert caught.value.file == str(path)


def test_a_streamed_wav_that_does_not_know_its_length_is_read(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, make_tone(440, 1, 16000), 16000)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data") + 4
    whole[place : place + 4] = whole[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    assert len(media.read_audio(path, 16000)) == 16000


# ---- video


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    """Five seconds of five colours with a tone, in several kinds of file."""
    folder = tmp_path_factory.mktemp("videos")
    tone = make_tone(1000, 5, 44100)
    found = {}
    for kind, codecs, options in (
        ("plain.flv", None, {}),
        ("h264.flv", H264, {}),
        ("unmeasured.flv", None, {"flvflags": "no_duration_filesize"}),
        ("plain.mp4", None, {}),
        ("h264.mp4", H264, {}),
        ("index first.mp4", H264, {"movflags": "faststart"}),
        ("fragmented.mp4", H264, {"movflags": "frag_keyframe+empty_moov"}),
    ):
        path = found[kind] = folder / kind
        write_video(path, COLOURS[:5], samples=tone, codecs=codecs, options=options)
    whole = bytearray(found["plain.flv"].read_bytes())
    place = whole.index(b"duration") + len(b"duration") + 1  # after the mark of a number
    assert 4.9 < struct.unpack(">d", whole[place : place + 8])[0] < 5.2
    whole[place : place + 8] = struct.pack(">d", 999.0)
    found["misdated.flv"] = folder / "misdated.flv"
    found["misdated.flv"].write_bytes(whole)
    return found


KINDS = [
    *("plain.flv", "h264.flv", "unmeasured.flv", "misdated.flv"),
    *("plain.mp4", "h264.mp4", "index first.mp4", "fragmented.mp4"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_the_one_shown_at_its_second(videos, kind):
    path = videos[kind]
    found = media.read_frames(path, [4.5, 0.0, 2.3, 4.5, 1.1], 40)
    assert found.shape == (5, 3, 40, 40) and found.dtype == np.uint8
    assert_colours(found, [4, 0, 2, 4, 1])
    assert_colours(media.read_frames(path, [0.5, 1.5], 8, start=2), [2, 3])
    assert media.measure_video(path) == pytest.approx(5, abs=0.01)
    frames, count = media.read_each_second(path, 6, 3, 8)
    assert count == 5 and not frames[5].any()
    assert_colours(frames[:5], [0, 1, 2, 3, 4])
    with pytest.raises(BadMedium, match=r"last frame is at 4.90 s, one at 5.60 s is needed"):
        media.read_frames(path, [0.0, 5.6], 8)


@pytest.mark.parametrize("name", ["a.flv", "a.mp4"])
def test_a_frame_is_the_nearest_one(tmp_path, name):
    write_video(tmp_path / name, COLOURS[:4], fps=1)  # frames at 0, 1, 2 and 3 s
    found = media.read_frames(tmp_path / name, [0.4, 0.6, 1.45, 1.55, 3.9], 8)
    assert_colours(found, [0, 1, 1, 2, 3])


def test_a_last_frame_is_there_for_as_long_as_its_file_shows_it(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        packets = []
        for colour in COLOURS[:2]:
            pixels = np.full((SIZE[1], SIZE[0], 3), colour, np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += stream.encode(None)
        packets[-1].duration = 40  # tenths of a second
        container.mux(packets)
    assert media.measure_video(path) == pytest.approx(4.1, abs=0.01)
    assert_colours(media.read_frames(path, [0.0, 4.0], 8), [0, 1])
    with pytest.raises(BadMedium, match=r"last frame is at 0.10 s, one at 5.00 s is needed"):
        media.read_frames(path, [0.0, 5.0], 8)


def test_a_video_begins_where_its_file_says(tmp_path):
    """An MP4 that shows its film from 2.5 s on, which is no keyframe."""
    path = tmp_path / "a.mp4"
    write_video(path, COLOURS[:5], codecs=H264)
    whole = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", whole, whole.index(b"mdhd") + 16)[0]
    place = whole.index(b"elst") + 12  # after one entry's count: its duration in ms, its begin
    begin = struct.unpack_from(">i", whole, place + 4)[0]
    struct.pack_into(">Ii", whole, place, 2500, begin + 5 * scale // 2)
    path.write_bytes(whole)
    assert media.measure_video(path) == pytest.approx(2.5, abs=0.01)
    assert_colours(media.read_frames(path, [0.0, 1.0, 2.4], 8), [2, 3, 4])


@pytest.mark.parametrize("name", ["a.flv", "a.mp4"])
def test_a_late_start_is_reached_by_a_seek_or_without_it(tmp_path, name):
    path = tmp_path / name
    write_video(path, [COLOURS[second % 10] for second in range(40)], fps=5)
    sought = media.read_frames(path, [1.5, 3.1], 8, start=31)
    assert_colours(sought, [2, 4])
    assert np.array_equal(sought, media._collect_frames(path, [32.5, 34.1], 8, seek=False))


@pytest.mark.parametrize("landed", [False, True])
def test_a_seek_that_fails_or_lands_too_late_is_made_good(tmp_path, monkeypatch, landed):
    path = tmp_path / "a.mp4"
    write_video(path, [COLOURS[second % 10] for second in range(40)], fps=5)
    seek = media._seek

    def seek_late(container, stream, seconds):
        return landed and seek(container, stream, seconds + 8)

    monkeypatch.setattr(media, "_seek", seek_late)
    assert_colours(media.read_frames(path, [1.5, 3.1], 8, start=21), [2, 4])


@pytest.mark.parametrize(
    ("seconds", "picked"), [(0.2, [0, 0, 0]), (1.5, [0, 0, 1]), (2.5, [0, 1, 2])]
)
def test_a_short_video_gives_the_least_number_of_frames(tmp_path, seconds, picked):
    write_video(tmp_path / "a.flv", COLOURS[:3], seconds=seconds)
    frames, count = media.read_each_second(tmp_path / "a.flv", 6, 3, 8)
    assert count == 3
    assert_colours(frames[:3], picked)


def test_frames_are_squeezed_to_squares_and_turned_as_the_file_says(tmp_path):
    """A quarter turn clockwise, written into the track's header, moves a bright corner."""
    path = tmp_path / "a.mp4"
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[: SIZE[1] // 2, : SIZE[0] // 2] = 250
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    whole = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert whole.count(upright) >= 1
    place = whole.index(upright, whole.index(b"tkhd"))
    for matrix, corner in (
        ((1, 0, 0, 1), (0, 0)), ((0, 1, -1, 0), (0, 1)), ((-1, 0, 0, -1), (1, 1)),
        ((0, -1, 1, 0), (1, 0)),
    ):  # fmt: skip
        a, b, c, d = (value << 16 for value in matrix)
        whole[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(whole)
        frame = media.read_frames(path, [0.0], 32)[0, 0]
        quarters = frame.reshape(2, 16, 2, 16).mean(axis=(1, 3))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
        assert quarters.max() > 230 and np.sort(quarters.ravel())[-2] < 20


@pytest.mark.parametrize("read", ["sound", "frames", "length"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_video_that_was_cut_off_is_never_a_shorter_one(videos, tmp_path, kind, read):
    whole = videos[kind].read_bytes()
    if kind.endswith("flv"):
        with av.open(str(videos[kind])) as container:
            places = [p.pos + p.size // 2 for p in container.demux() if p.size > 40][::7]
    else:
        places = [int(len(whole) * share) for share in (0.03, 0.2, 0.5, 0.8, 0.97)]
    assert len(places) >= 5
    for place in places:
        path = tmp_path / kind
        path.write_bytes(whole[:place])
        with pytest.raises(BadMedium, match=r"truncated|cannot be decoded") as caught:
            if read == "sound":
                media.read_audio(path, 16000)
            elif read == "frames":
                media.read_frames(path, [0.0], 8)
            else:
                media.measure_video(path)
        assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("name", "codecs"),
    [("a.mkv", H264), ("a.webm", ("libvpx", "libopus")), ("a.avi", ("mpeg4", "mp3"))],
)
def test_other_containers_that_were_cut_off_are_told_too(tmp_path, name, codecs):
    path = tmp_path / name
    write_video(path, COLOURS[:3], samples=make_tone(1000, 3, 48000), rate=48000, codecs=codecs)
    whole = path.read_bytes()
    assert media.find_truncation(path) == ""
    assert media.measure_video(path) == pytest.approx(3, abs=0.11)  # an AVI has a frame too many
    assert find_peak(media.read_audio(path, 16000), 16000) == pytest.approx(1000, abs=2)
    for share in (0.2, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadMedium, match=r"truncated: it is \d+ bytes short"):
            media.measure_video(path)


def test_an_incomplete_packet_is_told_even_where_the_walk_sees_nothing(
    videos, tmp_path, monkeypatch
):
    whole = videos["plain.flv"].read_bytes()
    with av.open(str(videos["plain.flv"])) as container:
        packet = [p for p in container.demux(video=0) if p.size > 40][-1]
    (tmp_path / "a.flv").write_bytes(whole[: packet.pos + packet.size // 2])
    monkeypatch.setattr(media, "find_truncation", lambda path: "")
    with pytest.raises(BadMedium, match="a packet of it is incomplete"):
        media.measure_video(tmp_path / "a.flv")


def test_a_sound_track_that_changes_its_rate_is_no_clip(tmp_path):
    whole = b""
    for rate in (44100, 32000):
        with av.open(str(tmp_path / "a.mp2"), "w") as container:
            stream = container.add_stream("mp2", rate=rate)
            stream.layout = "mono"
            values = (make_tone(440, 1, rate) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
        whole += (tmp_path / "a.mp2").read_bytes()
    (tmp_path / "a.mp2").write_bytes(whole)
    with pytest.raises(BadMedium, match="changes its rate: 32000, 44100 Hz"):
        media.read_audio(tmp_path / "a.mp2", 16000)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("empty", "empty"), ("missing", "missing"), ("text", "cannot be"), ("sound", "no video")],
)
def test_a_bad_video_names_the_file_and_the_reason(tmp_path, kind, reason):
    path = tmp_path / "a.flv"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * 100, encoding="utf-8")
    elif kind == "sound":
        path = tmp_path / "a.wav"
        write_wav(path, make_tone(440, 1, 16000), 16000)
    for read in (lambda: media.read_frames(path, [0.0], 8), lambda: media.measure_video(path)):
        with pytest.raises(BadMedium, match=reason) as caught:
            read()
        assert caught.value.file == str(path)


# ---- images


def make_picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_an_image_is_pillows_in_rgb_resized(tmp_path, mode):
    picture = make_picture().convert(mode)
    name = "a.tiff" if mode == "CMYK" else "a.png"
    picture.save(tmp_path / name)
    expected = np.asarray(picture.convert("RGB").resize((20, 20), Image.Resampling.BILINEAR))
    found = media.read_image(tmp_path / name, 20)
    assert found.dtype == np.uint8 and np.array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))]
)
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, corner):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    quarters = media.read_image(tmp_path / "a.jpg", 20)[0].reshape(2, 10, 2, 10).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tiff", "a.webp", "a.bmp"])
def test_an_image_that_was_cut_off_is_never_half_an_image(tmp_path, name):
    path = tmp_path / name
    make_picture().save(path)
    whole = path.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share) + 1])
        with pytest.raises(BadMedium) as caught:
            media.read_image(path, 8)
        assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "empty"),
        ("missing", "missing"),
        ("text", "not an image"),
        ("deep", "8-bit"),
        ("bomb", "more than 700 pixels"),
        ("large", "more than 700 pixels"),
    ],
)
def test_a_bad_image_names_the_file_and_the_reason(tmp_path, monkeypatch, kind, reason):
    path = tmp_path / "a.png"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("<html>404</html>", encoding="utf-8")
    elif kind == "deep":
        Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(path)
    elif kind in ("bomb", "large"):  # beyond twice the limit, and beyond it
        Image.new("RGB", (100 if kind == "bomb" else 30, 30)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(BadMedium, match=reason) as caught:
        media.read_image(path, 8)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("library", "name"), [("av", "a.flv"), ("soundfile", "a.wav"), ("soxr", "a.wav")]
)
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, library, name):
    if name == "a.wav":
        write_wav(tmp_path / name, make_tone(440, 0.1, 44100), 44100)
    else:
        write_video(tmp_path / name, COLOURS[:1])
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r'pip install "fdlab\[media\]"'):
        media.read_audio(tmp_path / name, 16000)
