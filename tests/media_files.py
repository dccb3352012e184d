"""Small media files and data sets in the official layouts, made by real encoders.

Every clip has a planted tone and a plain colour for each of its seconds, so that what a decoder
gives can be told from the file's name alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

COLOURS = (
    (200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (200, 40, 200),
    (40, 200, 200), (230, 230, 230), (20, 20, 20), (120, 200, 80), (200, 120, 80),
)  # fmt: skip
CODECS = {".flv": ("flv", "mp3"), ".mp4": ("mpeg4", "aac")}
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
SIZE = (64, 48)  # width and height of a frame


def make_tone(frequency: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    """float32 (samples,) sine."""
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def write_wav(path: Path, samples: np.ndarray, rate: int, subtype: str | None = None) -> None:
    """samples: (N,) or (N, channels). subtype: 16-bit integers unless the format has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


def write_video(
    path: Path,
    colours: Sequence[tuple[int, int, int]],
    *,
    seconds: float | None = None,
    samples: np.ndarray | None = None,
    rate: int = 44100,
    fps: int = 10,
    late: int = 0,
    codecs: tuple[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Second i of the picture has the plain colour i; samples (N,) are its sound at `rate` Hz.

    late: frames by which the picture begins after the sound.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_codec, sound_codec = codecs or CODECS[path.suffix]
    seconds = len(colours) if seconds is None else seconds
    with av.open(str(path), "w", options=options or {}) as container:
        picture = container.add_stream(picture_codec, rate=fps)
        (picture.width, picture.height), picture.pix_fmt = SIZE, "yuv420p"
        sound = None
        if samples is not None:
            sound = container.add_stream(sound_codec, rate=rate)
            sound.layout = "mono"
            sound.codec_context.format = "s16" if "adpcm" in sound_codec else "fltp"
        for number in range(round(seconds * fps)):
            pixels = np.empty((SIZE[1], SIZE[0], 3), np.uint8)
            pixels[:] = colours[min(number // fps, len(colours) - 1)]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + late, Fraction(1, fps)
            container.mux(picture.encode(frame))
        if sound is not None:
            kind = sound.codec_context.format.name
            values = (samples * 32767).astype(np.int16) if kind == "s16" else samples
            frame = av.AudioFrame.from_ndarray(values[None], format=kind, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux([*sound.encode(frame), *sound.encode(None)])
        container.mux(picture.encode(None))


def write_cremad(root: Path, actors: int = 4, sentences: Sequence[str] = ("IEO",)) -> list[str]:
    """CREMA-D's folders, and the lists `train.csv` and `test.csv`; the stems, sorted.

    Every actor speaks every sentence in every emotion. The tone says the emotion: 500 Hz and 250 Hz
    more for each; the first frame's colour says it too. The last actor's clips are the test list,
    apart from the first emotion, which is everybody's in training; the first actor's second emotion
    is in the test list. Clips last two and a half seconds.
    """
    names = [
        f"{1001 + actor}_{sentence}_{emotion}_XX"
        for actor in range(actors) for sentence in sentences for emotion in EMOTIONS
    ]  # fmt: skip
    lists: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in names:
        actor, _, emotion, _ = name.split("_")
        kind = EMOTIONS.index(emotion)
        tone = make_tone(500 + 250 * kind, 2.5, 16000)
        write_wav(root / "AudioWAV" / f"{name}.wav", tone, 16000)
        colours = [COLOURS[kind], COLOURS[kind + 1], COLOURS[kind + 2]]
        write_video(
            root / "VideoFlash" / f"{name}.flv", colours, seconds=2.5,
            samples=make_tone(500 + 250 * kind, 2.5, 44100),
        )  # fmt: skip
        held_out = (actor, kind) == ("1001", 1) or (int(actor) == 1000 + actors and kind > 0)
        lists["test" if held_out else "train"].append((name, emotion))
    for word, rows in lists.items():
        with (root / f"{word}.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(reversed(rows))  # CRLF, as in the common lists
    return sorted(names)


def write_ave(
    root: Path,
    classes: Sequence[str] = ("Bark", "Church bell"),
    train: int = 2,
    header: bool = True,
) -> dict[str, list[str]]:
    """AVE's layout below `root/AVE_Dataset`; split → its rows, in order.

    Each class has `train` training videos and one each for validation and test; of ten seconds,
    with a tone of 400 Hz and 400 Hz more for each class, and a colour for each second, the class's
    first.
    """
    base = root / "AVE_Dataset"
    base.mkdir(parents=True)
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for kind, category in enumerate(classes):
        tone = make_tone(400 * (kind + 1), 10, 16000)
        for number, split in enumerate(["train"] * train + ["val", "test"]):
            video = f"video_{kind:02d}-{number:02d}"
            colours = [COLOURS[(kind + second) % len(COLOURS)] for second in range(10)]
            write_video(base / "AVE" / f"{video}.mp4", colours, samples=tone, rate=16000, fps=5)
            rows[split].append(f"{category}&{video}&good&0&10")
    first = ["Category&VideoID&Quality&StartTime&EndTime"] if header else []
    for split, lines in rows.items():
        (base / f"{split}Set.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = [*first, *(line for lines in rows.values() for line in lines)]
    (base / "Annotations.txt").write_text("\n".join(everything), encoding="utf-8")
    return rows


def write_vggsound(
    root: Path, classes: Sequence[str] = ("bird chirping, tweeting", "rain", "wind noise"),
    train: int = 2,
) -> list[tuple[str, int, str, str]]:  # fmt: skip
    """`vggsound.csv` and `video/`; the rows (id, start, label, split).

    Each class has `train` training videos and one for testing; of six seconds, with a tone of
    400 Hz and 400 Hz more for each class, and a colour for each second. The last class's test
    video has its start without leading zeros; the first class's first training video is not there.
    """
    rows = []
    for kind, label in enumerate(classes):
        tone = make_tone(400 * (kind + 1), 6, 16000)
        colours = [COLOURS[kind + second] for second in range(6)]
        for number in range(train + 1):
            row = (
                f"-vid{kind:02d}_{number:02d}",
                30 + kind,
                label,
                "test" if number == train else "train",
            )
            rows.append(row)
            last = kind == len(classes) - 1 and number == train
            name = f"{row[0]}_{row[1]}.mp4" if last else f"{row[0]}_{row[1]:06d}.mp4"
            if kind or number:
                write_video(root / "video" / name, colours, samples=tone, rate=16000, fps=5)
    with (root / "vggsound.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
    return rows
