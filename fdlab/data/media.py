"""Sound, video and images, decoded from files that may be damaged.

Whatever is wrong with a file is a `BadMedium` with the file's name as passed and a reason. Decoders
read a file that was cut off as a shorter one, most of them without a word; so the lengths that the
file itself announces are checked first (`find_truncation`).
"""

from __future__ import annotations

import importlib
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data.dataset import PICTURES
from fdlab.data.listing import BadMedium

NPERSEG, NOVERLAP = 512, 353
LOG_FLOOR = 1e-7
# A list of other files (a playlist) is no medium: it would be followed out of the folder.
CONTAINERS = {
    "protocol_whitelist": "file",
    "format_whitelist": "aac,ac3,aiff,amr,asf,au,avi,flac,flv,gif,h264,hevc,m4v,matroska,webm,mov,"
    "mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,ogg,wav,w64",
}
SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au")  # read by soundfile
PRIMING = 0.1  # s; a longer lead of the sound over the picture is no encoder's delay
SLACK = 0.5  # s that a frame may be asked for after the last one
SEEK_FROM = 10.0  # s; what comes earlier is reached sooner by decoding than by seeking
USUAL_RATE = 25  # frames per second, where a file says nothing at all
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # parts of Matroska
STREAMED = 0x7FFF0000  # a length from here on is a writer's that could not know it


def read_audio(path: Path, rate: int) -> np.ndarray:
    """The sound of a file: mono float32 (samples,) at `rate` Hz, full scale being 1.

    Channels are averaged; another rate is resampled by soxr at its high quality, which may
    overshoot full scale a little. Sound files go through soundfile, anything else (FLV, MP4)
    through PyAV, its first sound track. Encoders put some silence first (AAC 1024 samples, MP3
    1105). MP4 says how much, and the decoder leaves it out; FLV does not, but its picture starts
    later by as much, so that what sounds up to 0.1 s before the picture is cut there (exact to
    FLV's millisecond). MP4 also says where the sound ends; FLV's padding at the end stays.

    Raises `BadMedium` for a file that is missing, empty, cut off, undecodable, or without a sound
    track, without samples, or with samples that are not finite.
    """
    _require_whole(path)
    if path.suffix.lower() in SOUND_FILES:
        samples, found = _read_sound_file(path)
    else:
        samples, found = _read_sound_track(path)
    if not len(samples):
        raise BadMedium(str(path), "holds no samples")
    if not np.isfinite(samples).all():
        raise BadMedium(str(path), "holds samples that are not finite")
    if found != rate:
        samples = _load("soxr").resample(samples, found, rate)
        if not len(samples):
            raise BadMedium(str(path), f"is too short for one sample at {rate} Hz")
    return samples.astype(np.float32, copy=False)


def log_spectrogram(
    samples: np.ndarray, rate: int, seconds: float, standardise: bool = False
) -> np.ndarray:
    """Log power spectrogram of a clip (samples,): float16 (1, 257, T), low to high frequency.

    FD-CMKD's released preprocessing: the clip repeated until it covers `seconds`, cut there,
    clipped to ±1, `scipy.signal.spectrogram` with nperseg 512 and noverlap 353, log(|S| + 1e-7);
    T is 299 for 3 s and 1004 for 10 s at 16 kHz. The release repeats a fixed number of times, which
    is the same wherever that is long enough. standardise: minus the mean and over the deviation of
    this one clip, as in the second released script (257 x 1004). As released that one reads at
    22.05 kHz and so covers 7.3 s with its 160,000 samples; here 10 s mean 10 s.

    float16 is safe: the logarithm is at least log(1e-7) = -16.1, and below 0 at 16 kHz, since
    samples within ±1, their mean removed, have no more power in a bin than 8(Σw)²/(rate·Σw²) =
    0.24, w being the window. A z-score of n cells is at most √(n-1), 508 for 257 x 1004. Neither
    comes near 65504; rounding moves a logarithm by at most 0.008.
    """
    from scipy import signal

    length = round(rate * seconds)
    if not len(samples) or length < NPERSEG:
        raise ValueError(f"{len(samples)} samples and {length} asked for: expected 1 and {NPERSEG}")
    clip = np.tile(samples, -(-length // len(samples)))[:length]
    clip = np.clip(clip.astype(np.float64), -1, 1)
    _, _, power = signal.spectrogram(clip, rate, nperseg=NPERSEG, noverlap=NOVERLAP)
    logs = np.log(np.abs(power) + LOG_FLOOR)
    if standardise:
        logs = (logs - logs.mean()) / (logs.std() + 1e-9)  # silence becomes 0
    return logs[None].astype(np.float16)


def read_frames(path: Path, times: list[float], side: int, start: float = 0) -> np.ndarray:
    """Frames of a video, those nearest to `times`: uint8 (F, 3, side, side), RGB, in that order.

    times: seconds after `start`, which is in seconds after the first frame. Frames are resized by
    bilinear interpolation to a square whatever their shape, as the released test transform does to
    224 x 224; that squares are stored is our choice. An orientation that the file states is
    honoured. One frame is decoded at a time, onwards from the beginning, or for a late `start` from
    where a seek led if that is early enough; durations and indices of files are not believed.

    Raises `BadMedium` for a file that is missing, empty, cut off or undecodable, and for a video
    without a frame or that ends more than half a second before one of `times`.
    """
    _require_whole(path)
    targets = [start + time for time in times]
    if min(targets) > SEEK_FROM:
        frames = _collect_frames(path, targets, side, seek=True)
        if frames is not None:
            return frames
    return _collect_frames(path, targets, side, seek=False)


def measure_video(path: Path) -> float:
    """Seconds from a video's first frame to the end of its last, from its packets alone.

    Nothing is decoded, and the duration in the file's header is not asked: FLV often has a wrong
    one or none. Raises `BadMedium` as `read_frames` does.
    """
    _require_whole(path)
    stamps, end, count = [], 0.0, 0
    with _open(path) as container:
        stream = _find_stream(path, container, "video")
        base = float(stream.time_base)
        for packet in _demux(path, container, stream):
            if packet.size == 0 or packet.is_discard:  # discarded: before MP4's stated beginning
                continue
            count += 1
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                stamps.append(stamp * base)
                end = max(end, (stamp + (packet.duration or 0)) * base)
        rate = float(stream.average_rate or USUAL_RATE)
    if not count:
        raise BadMedium(str(path), "holds no frame")
    if len(stamps) < 2:
        return count / rate
    stamps.sort()
    return max(end, 2 * stamps[-1] - stamps[-2]) - stamps[0]  # FLV gives no duration of a frame


def read_each_second(path: Path, most: int, least: int, side: int) -> tuple[np.ndarray, int]:
    """One frame at each whole second of a video: uint8 (most, 3, side, side), and how many of them
    are there; the rest is 0.

    Of a video that has fewer than `least` whole seconds, `least` frames that divide it evenly: the
    released preprocessing draws frames at random to make up the number, and even places are our
    choice. Raises `BadMedium` as `read_frames` does.
    """
    seconds = measure_video(path)
    count = min(most, max(1, int(np.ceil(seconds - 1e-3))))
    times = [float(second) for second in range(count)]
    if count < least:
        times = [seconds * i / least for i in range(least)]
    frames = np.zeros((most, 3, side, side), np.uint8)
    frames[: len(times)] = read_frames(path, times, side)
    return frames, len(times)


def read_image(path: Path, side: int) -> np.ndarray:
    """An image: uint8 (3, side, side), RGB, resized by bilinear interpolation to a square whatever
    its shape. What is transparent shows its colour. Raises `BadMedium` as `load_picture` does."""
    return _to_square(load_picture(path, "RGB"), side)


def load_picture(path: Path, mode: str = "") -> Any:
    """A whole pillow image, turned as its EXIF orientation says. mode: that it is converted to, ""
    for the file's own.

    Raises `BadMedium` for a file that is missing, empty, cut off, no image, larger than pillow's
    limit against decompression bombs, or of more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    _require_whole(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is odd and not needed
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURES) as image:
                if image.mode[0] in "IF":  # pillow would clip it to white
                    raise BadMedium(str(path), f"has mode {image.mode}: expected 8-bit colour")
                turned = ImageOps.exif_transpose(image)
                return turned.convert(mode) if mode else turned
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise BadMedium(str(path), reason) from None
    except Image.UnidentifiedImageError:
        raise BadMedium(str(path), "is not an image") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        struct.error,
    ) as bad:
        # Pillow's readers raise any of these on damaged files.
        raise BadMedium(str(path), f"cannot be decoded: {bad}") from None


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(3, H, W) or (1, H, W) uint8 to (…, height, width): means over areas, or bilinear where it
    grows."""
    if image.shape[1:] == (height, width):
        return np.ascontiguousarray(image)
    from PIL import Image

    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    whole = Image.fromarray(np.ascontiguousarray(pixels))
    if whole.width % width == 0 and whole.height % height == 0:  # one rounding, not one a side
        resized = whole.reduce((whole.width // width, whole.height // height))
    else:
        shrinks = height <= whole.height and width <= whole.width
        way = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        resized = whole.resize((width, height), way)
    return np.ascontiguousarray(np.atleast_3d(np.asarray(resized)).transpose(2, 0, 1))


def find_nearest(size: int, stored: int) -> np.ndarray:
    """The pixel of `size` at the centre of each of `stored` equal parts."""
    return (2 * np.arange(stored) + 1) * size // (2 * stored)


@contextmanager
def naming_from(root: Path) -> Iterator[None]:
    """Within it a `BadMedium` names its file relative to `root`, as a decoder owes it."""
    try:
        yield
    except BadMedium as bad:
        file = PurePath(bad.file)
        name = file.relative_to(root) if file.is_relative_to(root) else file
        raise BadMedium(name.as_posix(), bad.reason) from None


def find_truncation(path: Path) -> str:
    """Where a WAV, AIFF, FLV, MP4, AVI or Matroska file announces more bytes than it holds, in
    words; else "".

    A walk over the outermost parts of the file, by their own lengths. It stops without a verdict
    at anything that is no such part, and cannot see a file that was cut exactly between two.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(12)
        if head[:4] in (b"RIFF", b"RIFX", b"FORM") and head[8:] in (b"WAVE", b"AIFF", b"AIFC"):
            return _walk_chunks(handle, size, "<" if head[:4] == b"RIFF" else ">")
        if head[:3] == b"FLV":
            return _walk_tags(handle, size, int.from_bytes(head[5:9], "big"))
        if head[4:8] == b"ftyp":
            return _walk_boxes(handle, size)
        if head[:4] == EBML:
            return _walk_elements(handle, size)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            short = 8 + int.from_bytes(head[4:8], "little") - size
            return f"it is {short} bytes short" if short > 0 else ""
    return ""


def _walk_chunks(handle: BinaryIO, size: int, order: str) -> str:
    """WAV and AIFF: a name, a length, data, a byte of padding where the length is odd."""
    place = 12
    while place + 8 <= size:
        handle.seek(place)
        name, length = struct.unpack(f"{order}4sI", handle.read(8))
        if length >= STREAMED:
            return ""
        if name in (b"data", b"SSND") and place + 8 + length > size:
            return f"its header promises {length} bytes of sound, {size - place - 8} are there"
        place += 8 + length + length % 2
    return ""


def _walk_tags(handle: BinaryIO, size: int, place: int) -> str:
    """FLV: the length of the tag before, then a kind, a length in 3 bytes, 7 bytes more, data."""
    place += 4
    while place < size:
        handle.seek(place)
        head = handle.read(11)
        if head[0] & 0x1F not in (8, 9, 18):  # sound, picture, script
            return ""
        place += 11 + int.from_bytes(head[1:4], "big")
        if len(head) < 11 or place > size:
            return "its last tag is incomplete"
        place += 4
    return ""


def _walk_boxes(handle: BinaryIO, size: int) -> str:
    """MP4: a length that counts itself, a name, data; 1 means a longer length, 0 to the end."""
    place = 0
    while place + 8 <= size:
        handle.seek(place)
        length, name = struct.unpack(">I4s", handle.read(8))
        if length == 1:
            length = int.from_bytes(handle.read(8), "big")
        if length < 8 or not name.isalnum():
            return ""
        place += length
        if place > size:
            return f"its part {name.decode()} is {place - size} bytes short"
    return ""


def _walk_elements(handle: BinaryIO, size: int) -> str:
    """Matroska and WebM: a header, then one segment; each a name of 4 bytes, a length, data. A
    length's first byte says by its leading zeros how many more follow; all ones means unknown."""
    place = 0
    while place < size:
        handle.seek(place)
        name, first = handle.read(4), handle.read(1)
        if name not in (EBML, SEGMENT) or not first or not first[0]:
            return ""
        more = 8 - first[0].bit_length()
        bits = 7 * (more + 1)
        length = int.from_bytes(first + handle.read(more), "big") & ((1 << bits) - 1)
        if length == (1 << bits) - 1:
            return ""
        place += 5 + more + length
        if place > size:
            return f"it is {place - size} bytes short"
    return ""


def _require_whole(path: Path) -> None:
    """Refuse what is no file, has no bytes, or fewer than it announces."""
    try:
        if not path.is_file():
            raise BadMedium(str(path), "is missing")
        if not path.stat().st_size:
            raise BadMedium(str(path), "is empty (0 bytes)")
        reason = find_truncation(path)
    except OSError as error:
        raise BadMedium(str(path), f"cannot be read: {error.strerror}") from None
    if reason:
        raise BadMedium(str(path), f"is truncated: {reason}")


def _read_sound_file(path: Path) -> tuple[np.ndarray, int]:
    """Mono float32 (samples,) and its rate in Hz, through soundfile."""
    soundfile = _load("soundfile")
    try:
        with soundfile.SoundFile(str(path)) as sound:
            samples = sound.read(dtype="float32", always_2d=True)
            promised, rate = sound.frames, sound.samplerate
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip() or "format not recognised"
        raise BadMedium(str(path), f"cannot be decoded: {reason}") from None
    if len(samples) < promised:
        reason = f"its header promises {promised} samples, {len(samples)} are there"
        raise BadMedium(str(path), f"is truncated: {reason}")
    return samples.mean(axis=1), rate


def _read_sound_track(path: Path) -> tuple[np.ndarray, int]:
    """Mono float32 (samples,) and its rate in Hz, of the first sound track, through PyAV."""
    pieces, rates = [], set()
    with _open(path) as container:
        stream = _find_stream(path, container, "audio")
        begin = None
        for _, frame in _decode(path, container, stream):
            if begin is None:
                begin = frame.time or 0.0
            rates.add(frame.sample_rate)
            pieces.append(_mix(frame))
        lead = 0.0
        if begin is not None and container.streams.video and "flv" in container.format.name:
            picture = container.streams.video[0]
            if picture.start_time is not None:
                lead = picture.start_time * float(picture.time_base) - begin
        length = None
        if "mp4" in container.format.name and stream.duration:
            length = stream.duration * stream.time_base
    if not pieces:
        raise BadMedium(str(path), "holds no samples")
    if len(rates) > 1:
        raise BadMedium(str(path), f"changes its rate: {', '.join(map(str, sorted(rates)))} Hz")
    (rate,) = rates
    samples = np.concatenate(pieces)
    if 0 < lead <= PRIMING:
        samples = samples[round(lead * rate) :]
    return samples if length is None else samples[: round(length * rate)], rate


def _mix(frame: Any) -> np.ndarray:
    """The mean over channels of an audio frame, float32 (samples,), full scale being 1."""
    values = frame.to_ndarray()  # (channels, samples), or packed (1, samples x channels)
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        return values.mean(axis=0, dtype=np.float32)
    middle = 128.0 if values.dtype.kind == "u" else 0.0
    scale = 2.0 ** (8 * values.dtype.itemsize - 1)
    return ((values.mean(axis=0) - middle) / scale).astype(np.float32)


def _collect_frames(
    path: Path, targets: list[float], side: int, *, seek: bool
) -> np.ndarray | None:
    """Frames nearest to `targets`, seconds after the first frame; None where a seek went wrong."""
    waiting = sorted(range(len(targets)), key=targets.__getitem__, reverse=True)
    frames = np.empty((len(targets), 3, side, side), np.uint8)
    with _open(path) as container:
        stream = _find_stream(path, container, "video")
        origin = None if stream.start_time is None else stream.start_time * float(stream.time_base)
        if seek and (origin is None or not _seek(container, stream, origin + min(targets) - 1)):
            return None
        before, last, gap = None, 0.0, 0.0
        for number, frame in _decode(path, container, stream):
            if seek and before is None and (frame.time is None or frame.time > min(targets)):
                return None
            time = (
                number / float(stream.average_rate or USUAL_RATE)
                if frame.time is None
                else frame.time
            )
            origin = time if origin is None else origin
            time -= origin
            while waiting and time >= targets[waiting[-1]]:
                target = targets[waiting[-1]]
                nearer = before is not None and target - last <= time - target
                frames[waiting.pop()] = _show(before if nearer else frame, side)
            if not waiting:
                return frames
            gap = 0.0 if before is None else time - last
            gap = max(gap, frame.duration * float(stream.time_base))
            before, last = frame, time
        if before is None:
            raise BadMedium(str(path), "holds no frame")
        for row in waiting:
            if targets[row] > last + max(gap, SLACK):
                reason = f"its last frame is at {last:.2f} s, one at {targets[row]:.2f} s is needed"
                raise BadMedium(str(path), reason)
        frames[waiting] = _show(before, side)
    return frames


def _seek(container: Any, stream: Any, seconds: float) -> bool:
    """Go to the keyframe before, where the file lets one."""
    try:
        container.seek(int(seconds / stream.time_base), stream=stream, backward=True)
    except (_load("av").FFmpegError, OSError):
        return False
    return True


def _show(frame: Any, side: int) -> np.ndarray:
    """A video frame as (3, side, side) uint8, upright."""
    from PIL import Image

    image = frame.to_image()
    turn = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180}
    turn |= {-180: Image.Transpose.ROTATE_180, -90: Image.Transpose.ROTATE_270}
    if frame.rotation in turn:
        image = image.transpose(turn[frame.rotation])
    return _to_square(image, side)


def _to_square(image: Any, side: int) -> np.ndarray:
    """A pillow image in RGB as (3, side, side) uint8."""
    from PIL import Image

    square = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A PyAV container; what goes wrong with it is a `BadMedium`."""
    av = _load("av")
    try:
        with av.open(str(path), container_options=CONTAINERS) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadMedium(str(path), f"cannot be decoded: {reason}") from None


def _find_stream(path: Path, container: Any, kind: str) -> Any:
    """The first stream of a kind, "audio" or "video", that is not a cover picture."""
    av = _load("av")
    for stream in container.streams:
        cover = stream.disposition & av.stream.Disposition.attached_pic
        if stream.type == kind and not cover and stream.codec_context is not None:
            stream.codec_context.thread_count = 1  # several files are decoded side by side
            return stream
    raise BadMedium(str(path), f"holds no {kind} stream")


def _demux(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, the empty one at the end included."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise BadMedium(str(path), "is truncated or damaged: a packet of it is incomplete")
        yield packet


def _decode(path: Path, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
    """(number, frame) of a stream, in the order in which they are shown."""
    frames = (frame for packet in _demux(path, container, stream) for frame in packet.decode())
    yield from enumerate(frames)


def _load(name: str) -> ModuleType:
    """A library of the extra `media`, imported where it is needed: others do without."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs
        raise UserError(
            f'reading sound and video needs {name} ({error}): pip install "fdlab[media]"'
        ) from None
