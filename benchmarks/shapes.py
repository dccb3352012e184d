"""What the training benchmark trains on: synthetic events, as a store and as single files."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fdlab.core import paths
from fdlab.core.files import read_json, write_json
from fdlab.data import DATASETS
from fdlab.data.dataset import Built, Dataset, Modality
from fdlab.data.ingest import FORMAT
from fdlab.data.store import Store, prepare, write_store

AUDIO, IMAGE = "audio", "image"
DIRECTIONS = {"audio2image": (AUDIO, IMAGE), "image2audio": (IMAGE, AUDIO)}  # teacher, student
PICTURES = 64  # different ones; an event's is one of them, moved
QUALITY = 90  # of the JPEG files
GRAIN = 8  # pixels of noise, as deviation, on top of a smooth picture


@dataclass(frozen=True)
class Shape:
    """Inputs, networks and counts of one case.

    audio: a spectrogram (1, F, T). image: what a network sees (C, H, W). stored: shorter side of
    the stored images. frames: how many of them an event has, of which one is seen; 0 for no such
    axis. counts: events for training, validation and test; both of the latter are judged after
    every epoch. epochs: of a whole run, for rates of students.
    """

    name: str
    audio: tuple[int, int, int]
    image: tuple[int, int, int]
    stored: int
    frames: int
    augment: str
    classes: int
    width: int
    counts: tuple[int, int, int]
    batch: int = 64
    epochs: int = 100
    learning_rate: float = 0.01

    @property
    def samples(self) -> int:
        return self.counts[0]

    @property
    def side(self) -> int:
        """As `TrainConfig.side`: 0 where images are seen as they are stored."""
        return 0 if self.stored == self.image[1] else self.image[1]

    def shrink(self) -> Shape:
        """The same case so small that it runs in a second, for a test."""
        small = {"audio": (1, 33, 33), "image": (self.image[0], 32, 32)}
        stored = 36 if self.side else 32
        return replace(
            self, **small, stored=stored, width=8, batch=8, counts=(20, 6, 7), epochs=2,
            frames=min(self.frames, 2),
        )  # fmt: skip


# The paper's spectrograms and images; of CREMA-D six frames are stored and one is drawn, of
# VGGSound three. The judged share is that of the package's own CREMA-D store. "digits" has the
# embedded data set's shapes and counts at preset quick. "small" is CREMA-D's case for a CPU.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("digits", (1, 32, 32), (1, 32, 32), 32, 0, "shift", 10, 16, (997, 300, 500),
              epochs=16, learning_rate=0.05),
        Shape("cremad", (1, 257, 299), (3, 224, 224), 256, 6, "crop_flip", 6, 64, (3000, 334, 370)),
        Shape("vggsound", (1, 257, 1004), (3, 224, 224), 256, 3, "crop_flip", 6, 64,
              (1500, 167, 185)),
        Shape("small", (1, 65, 75), (3, 56, 56), 64, 0, "crop_flip", 6, 16, (256, 28, 32)),
    )
}  # fmt: skip


def build_events(shape: Shape, seed: int = 0) -> Built:
    """Synthetic events: smooth pictures with some grain, so that a JPEG of one is about as large as
    a photograph's, and spectrograms of normal noise; labels are random."""
    rng = np.random.default_rng(seed)
    count = sum(shape.counts)
    channels, side = shape.image[0], shape.stored
    bank = np.stack([_draw_picture(rng, channels, side) for _ in range(PICTURES)])
    frames = max(shape.frames, 1)
    images = np.empty((count, frames, channels, side, side), np.uint8)
    moves = rng.integers(0, side, (count, frames, 2))
    which = rng.integers(0, PICTURES, (count, frames))
    for event in range(count):
        for frame in range(frames):
            move = tuple(moves[event, frame].tolist())
            images[event, frame] = np.roll(bank[which[event, frame]], move, axis=(1, 2))
    audio = rng.standard_normal((count, *shape.audio), np.float32).astype(np.float16)
    return Built(
        modalities={AUDIO: audio, IMAGE: images if shape.frames else images[:, 0]},
        labels=np.arange(count) % shape.classes,
        split=np.repeat(np.arange(3, dtype=np.uint8), shape.counts),
        ids={"event": [str(number) for number in range(count)]},
    )


def _draw_picture(rng: np.random.Generator, channels: int, side: int) -> np.ndarray:
    """(C, side, side) uint8."""
    coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8)
    smooth = _to_image(coarse).resize((side, side), Image.Resampling.BICUBIC)
    values = np.asarray(smooth, np.float32).reshape(side, side, channels)
    values = values + GRAIN * rng.standard_normal(values.shape, np.float32)
    return values.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def _to_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 with one or three channels."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def make_store(shape: Shape, built: Built) -> Store:
    """The events as a store below `$FDLAB_HOME`, under the name `bench_<shape>`."""
    modalities = {
        AUDIO: Modality("resnet18"),
        IMAGE: Modality("resnet18", shape.augment, frames=min(shape.frames, 1)),
    }
    return put_store(f"bench_{shape.name}", shape.classes, modalities, tuple(DIRECTIONS), built)


def put_store(
    name: str,
    classes: int,
    modalities: dict[str, Modality],
    directions: tuple[str, ...],
    built: Built,
) -> Store:
    """Events as a store below `$FDLAB_HOME`.

    It is written as that of a data set which is made here, and its manifest then says, as that of
    one which is read from files does, what the data set is; so it opens by its name.
    """
    kind = "folder"
    dataset = Dataset(name, "synthetic", classes, modalities, DATASETS[kind].options, directions)
    folder = paths.stores() / name
    write_store(folder, dataset, {}, built)
    manifest = read_json(folder / "manifest.json") | {
        "kind": kind,
        "name": name,
        "format": FORMAT,
        "version": DATASETS[kind].source.version,
        "task": dataset.task,
        "scenes": [],
        "classes": [str(number) for number in range(classes)],
        "directions": list(directions),
    }
    write_json(folder / "manifest.json", manifest)
    return prepare(name)


def write_files(folder: Path, built: Built) -> None:
    """The events as the files that a plain loop reads: `<event>.jpg`, of several frames the first,
    as one is read of a sample anyhow, and `<event>.pkl`, the spectrogram (F, T) in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    images = built.modalities[IMAGE]
    images = images[:, 0] if images.ndim == 5 else images
    for event, (pixels, sound) in enumerate(zip(images, built.modalities[AUDIO], strict=True)):
        picture = _to_image(pixels.transpose(1, 2, 0))
        picture.save(folder / f"{event}.jpg", quality=QUALITY)
        with (folder / f"{event}.pkl").open("wb") as handle:
            pickle.dump(sound[0].astype(np.float64), handle)
