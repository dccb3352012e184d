"""A data set on its device: one tensor per modality, row i of each the same event."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from fdlab.core.device import count_free_bytes
from fdlab.data.augment import (
    Augmentation,
    View,
    crop,
    draw_view,
    find_augmentation,
    jitter_hsv,
    pad_flip,
    pick_frames,
    shift,
)
from fdlab.data.boxes import move_boxes
from fdlab.data.dataset import IGNORED, SPLITS
from fdlab.data.store import Store
from fdlab.data.streamed import Streamed

EVALUATION_BATCH = 256  # rows of one forward pass where no gradient is kept
DENSE_BATCH = 32  # likewise where every pixel has scores
CHUNK = 256  # rows that are read or resized at once
_scales: dict[tuple[str, str], tuple] = {}  # measured once per process, from gigabytes
SHARE = 0.5  # of the device's free memory that a data set may take
MARGIN = 8 / 7  # stored side over the network's, from which images are shrunk once: 256 over 224


@dataclass(frozen=True)
class PairedData:
    """Inputs and labels of every event, on one device.

    inputs: modality → (N, …), as stored, on the device, or streamed to it where all of them take
    more than half of its free memory; `batch` turns rows into what a network takes.
    labels: (N,) int64, the class or the kind of scene. rows: split → row numbers, on the device,
    or on the host where inputs are streamed.
    scale: modality → (shift, factor) for images and depth, floats or one per channel.
    masks: (N, H, W) uint8 class of every pixel, for segmentation. boxes: (N, B, 5), for detection,
    on the labels' device. there: modality → (N,) frames
    that are there. sizes: modality → (height, width) that a network sees. augmentations: modality
    → its own.
    """

    store: Store
    inputs: dict[str, torch.Tensor | Streamed]
    labels: torch.Tensor
    rows: dict[str, torch.Tensor]
    scale: dict[str, tuple]
    masks: torch.Tensor | Streamed | None = None
    boxes: torch.Tensor | None = None
    there: dict[str, torch.Tensor] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    augmentations: dict[str, Augmentation | None] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        store: Store,
        modalities: list[str],
        device: torch.device,
        side: int = 0,
        resident: bool = True,
        task: str = "",
    ) -> PairedData:
        """side: shorter side of the images that a network sees, 0 as stored. Images stored larger
        than 8/7 of it are shrunk to that once; the rest is for random crops. resident: False to
        stream them whatever their size. task: what the networks learn, "" for what the data set's
        own do."""
        definition = store.dataset
        arrays = {name: store.read(name) for name in modalities}
        sizes = {
            name: fit_size(array.shape[-2:], side)
            for name, array in arrays.items()
            if is_picture(array)
        }
        task = task or definition.task
        if task == "segmentation":
            arrays["mask"] = store.read("mask")
        if resident:
            taken = sum(_count_bytes(array, sizes.get(name)) for name, array in arrays.items())
            resident = taken <= SHARE * count_free_bytes(device)

        def bring(name: str) -> torch.Tensor | Streamed:
            array = arrays[name]
            change = _prepare if name not in sizes else lambda x: _prepare(shrink(x, sizes[name]))
            if resident:
                return torch.from_numpy(change(array)).to(device)
            return Streamed(array, device, change)

        place = device if resident else torch.device("cpu")
        return cls(
            store=store,
            inputs={name: bring(name) for name in modalities},
            labels=torch.from_numpy(np.array(store.labels)).to(device),
            rows={split: torch.from_numpy(store.rows(split)).to(place) for split in SPLITS},
            scale={name: _find_scale(store, name, device) for name in sizes},
            masks=bring("mask") if "mask" in arrays else None,
            boxes=(
                torch.from_numpy(np.array(store.read("boxes"))).to(device)
                if task == "detection"
                else None
            ),
            there={
                name: torch.from_numpy(count_frames(store, name)).to(device)
                for name in modalities
                if definition.modalities[name].frames
            },
            sizes=sizes,
            augmentations={
                name: find_augmentation(definition.modalities[name].augment) for name in modalities
            },
        )

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def is_resident(self) -> bool:
        return not any(isinstance(x, Streamed) for x in self.inputs.values())

    def find_places(self, split: str) -> torch.Tensor:
        """(N,) row number → its place among the rows of a split, -1 where it is in none."""
        places, rows = torch.full_like(self.labels, -1), self.rows[split]
        places[rows] = torch.arange(len(rows), device=places.device)
        return places

    def expect(self, modality: str, batches: Iterable[torch.Tensor], user: Hashable = None) -> None:
        """Rows that a user will ask `batch` for in this order, by these very tensors; where inputs
        are streamed they are read ahead."""
        for source in (self.inputs[modality], self.masks):
            if isinstance(source, Streamed):
                source.expect(batches, user)

    @property
    def is_dense(self) -> bool:
        """Whether answers have places in the image."""
        return self.masks is not None or self.boxes is not None

    @property
    def evaluation_batch(self) -> int:
        """Rows of one forward pass where no gradient is kept."""
        return DENSE_BATCH if self.is_dense else EVALUATION_BATCH

    def draw(self, modality: str, count: int, generator: torch.Generator) -> View | None:
        """A random view of `count` events for a modality; None where nothing of it is random."""
        frames = self.store.dataset.modalities[modality].frames
        own = self.augmentations[modality]
        return draw_view(own, count, frames, generator) if own or frames else None

    def complete_view(self, view: View, modality: str, generator: torch.Generator) -> View:
        """A view with what `modality` wants beside its geometry: colours, frames."""
        own, frames = self.augmentations[modality], self.store.dataset.modalities[modality].frames
        drawn = 0 if view.frames is None else view.frames.shape[1]
        if view.colour is None and own and own.hsv:
            colour = torch.rand(view.count, 3, generator=generator, device=generator.device)
            view = replace(view, colour=colour)
        if frames and drawn != frames:
            chosen = torch.rand(view.count, frames, generator=generator, device=generator.device)
            view = replace(view, frames=chosen)
        return view

    def share_view(self, one: str, other: str) -> bool:
        """Whether two modalities are seen in one and the same random view."""
        first, second = self.augmentations[one], self.augmentations[other]
        return bool(first and second and first.shares_view(second))

    def batch(self, modality: str, rows: torch.Tensor, view: View | None = None) -> torch.Tensor:
        """Network input of some rows, as `view` sees them: token ids as int64, all else float32.

        Images (uint8) are standardised by the mean and deviation of the training split's pixels,
        each colour by its own, depth (uint16 millimetres, float32 metres) likewise, where 0, no
        reading, becomes the mean; spectrograms (float16) go as stored. Without a view images are
        resized whole, and of frames the middle ones are taken. In float32 under autocast too, which
        would round a crop's corners.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._read(modality, rows, view)

    def _read(self, modality: str, rows: torch.Tensor, view: View | None) -> torch.Tensor:
        values = self.inputs[modality][rows]
        if values.dtype == torch.int32:
            return values.long()
        if modality in self.there:
            count = self.store.dataset.modalities[modality].frames
            draws = None if view is None else view.frames
            values = pick_frames(values, self.there[modality][rows], count, draws)
        is_depth = values.dtype in (torch.int16, torch.float32)
        values = values.float()
        if modality not in self.scale:
            return values
        if values.ndim == 5:
            return self._finish(modality, values.flatten(0, 1), view, is_depth).unflatten(
                0, values.shape[:2]
            )
        return self._finish(modality, values, view, is_depth)

    def _finish(
        self, modality: str, values: torch.Tensor, view: View | None, is_depth: bool
    ) -> torch.Tensor:
        """(N, C, H, W) as stored → standardised and as the view sees it; a view of fewer events
        than there are images repeats for the frames of each."""
        own = self.augmentations[modality]
        repeat = 1 if view is None else len(values) // view.count  # images of one event
        if view is not None and own and own.hsv and view.colour is not None:
            colour = view.colour.repeat_interleave(repeat, dim=0)
            values = 255 * jitter_hsv(values / 255, colour)
        values = self._pad(values, modality, view, repeat)
        shift_by, factor = self.scale[modality]
        scaled = (values - shift_by) * factor
        if is_depth:
            scaled = scaled.masked_fill(values == 0, 0.0)
        return self._place(scaled, modality, view, repeat, "bilinear")

    def _pad(
        self,
        values: torch.Tensor,
        modality: str,
        view: View | None,
        repeat: int = 1,
        fill: float = 0.0,
    ) -> torch.Tensor:
        """Stored images as a view with a border sees them: black there, before they are scaled."""
        own = self.augmentations[modality]
        if view is None or view.box is None or own is None or own.geometry != "pad":
            return values
        return pad_flip(values, view.box.repeat_interleave(repeat, dim=0), fill)

    def _place(
        self, values: torch.Tensor, modality: str, view: View | None, repeat: int, mode: str
    ) -> torch.Tensor:
        """The geometry of a view, or the whole image at the network's size."""
        size, own = self.sizes[modality], self.augmentations[modality]
        if view is not None and own:
            if view.corner is not None:
                whole = self._place(values, modality, None, repeat, mode)
                return shift(whole, view.corner.repeat_interleave(repeat, dim=1))
            if view.box is not None and own.geometry == "crop":
                return crop(values, view.box.repeat_interleave(repeat, dim=0), own.area, size, mode)
        if values.shape[-2:] == size:
            return values
        if mode == "nearest":
            return functional.interpolate(values, size, mode="nearest-exact")
        return functional.interpolate(values, size, mode=mode, antialias=True)

    def list_boxes(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, B, 5) boxes of some rows, in pixels of the whole images that the networks see."""
        return self.targets(next(iter(self.inputs)), rows)

    def targets(self, modality: str, rows: torch.Tensor, view: View | None = None) -> torch.Tensor:
        """What a student of `modality` learns to say of some rows: (n,) classes, or for
        segmentation (n, H, W) int64 classes of the pixels that it sees, 255 where there is none, or
        for detection (n, B, 5) boxes in pixels that it sees."""
        if self.boxes is not None:
            stored, size = self.store.read(modality).shape[-2:], self.sizes[modality]
            held, own = find_held(stored, size), self.augmentations[modality]
            return move_boxes(self.boxes[rows], stored, held, size, own, view)
        if self.masks is None:
            return self.labels[rows]
        masks = self._pad(self.masks[rows][:, None].float(), modality, view, fill=IGNORED)
        with torch.autocast(self.device.type, enabled=False):
            return self._place(masks, modality, view, 1, "nearest")[:, 0].long()


def _prepare(array: np.ndarray) -> np.ndarray:
    """Stored rows as a copy in memory that torch can index: millimetres below 32 m as int16."""
    kept = np.array(array)
    return np.minimum(kept, 32767).astype(np.int16) if kept.dtype == np.uint16 else kept


def _count_bytes(array: np.ndarray, size: tuple[int, int] | None) -> int:
    """Of an array as it is held, its images shrunk."""
    if size is None:
        return array.nbytes
    stored, held = math.prod(array.shape[-2:]), math.prod(round(n * MARGIN) for n in size)
    return array.nbytes * min(stored, held) // stored


def _find_scale(store: Store, name: str, device: torch.device) -> tuple:
    key = (store.digest, name)
    if key not in _scales:
        array, frames = store.read(name), store.dataset.modalities[name].frames
        counts = count_frames(store, name) if frames else None
        _scales[key] = measure_scale(array, store.rows("train"), counts)
    return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in _scales[key])


def is_picture(array: np.ndarray) -> bool:
    """Whether rows are images or depth maps, (…, C, H, W) but no stored spectrogram."""
    return array.dtype in (np.uint8, np.uint16) or (array.dtype == np.float32 and array.ndim >= 4)


def count_frames(store: Store, modality: str) -> np.ndarray:
    """(N,) int64, how many of an event's stored frames are there: all, where the store does not
    say."""
    if f"{modality}_frames.npy" in store.manifest["files"]:
        return np.array(store.read(f"{modality}_frames")).astype(np.int64)
    array = store.read(modality)
    return np.full(len(array), array.shape[1])


def fit_size(stored: tuple[int, ...], side: int) -> tuple[int, int]:
    """(height, width) with the shorter one at `side` and the stored aspect; 0: as stored."""
    shorter = min(stored)
    if not side:
        return int(stored[0]), int(stored[1])
    return round(stored[0] * side / shorter), round(stored[1] * side / shorter)


def measure_scale(array: np.ndarray, rows: np.ndarray, counts: np.ndarray | None = None) -> tuple:
    """Mean and 1 / deviation of the pixels of some rows, read in chunks.

    counts: (N,) how many frames of each row (F, C, H, W) are there; others do not count.

    One pair of floats for a single channel, (C, 1, 1) tensors for colours and for float32. A depth
    of 0 is no reading and does not count.
    """
    if array.dtype == np.float32:
        return _measure_channels(array, rows)  # depth has no frames
    levels, channels = 256 if array.dtype == np.uint8 else 65536, array.shape[-3]
    found = np.zeros((channels, levels), np.int64)
    for chosen in _chunk(rows):
        part = np.asarray(array[chosen])
        if counts is not None:
            part = part[np.arange(part.shape[1]) < np.asarray(counts[chosen])[:, None]]
        for channel in range(channels):
            values = part[..., channel, :, :].reshape(-1)
            found[channel] += np.bincount(values, minlength=levels)
    if array.dtype == np.uint16:
        found[:, 0] = 0
    level, total = np.arange(levels), np.maximum(found.sum(axis=1), 1)
    mean = (found * level).sum(axis=1) / total
    variance = (found * (level - mean[:, None]) ** 2).sum(axis=1) / total
    factor = 1.0 / np.maximum(variance, 1e-12) ** 0.5
    if channels == 1:
        return float(mean[0]), float(factor[0])
    return tuple(torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (mean, factor))


def _measure_channels(array: np.ndarray, rows: np.ndarray) -> tuple:
    sums = np.zeros((3, array.shape[-3]))
    for chosen in _chunk(rows):
        part = np.asarray(array[chosen])
        values = np.moveaxis(part.astype(np.float64), -3, 0).reshape(array.shape[-3], -1)
        there = values != 0
        sums += np.stack([there.sum(axis=1), values.sum(axis=1), (values**2).sum(axis=1)])
    count = np.maximum(sums[0], 1)
    mean = sums[1] / count
    deviation = np.sqrt(np.maximum(sums[2] / count - mean**2, 1e-12))
    return tuple(torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (mean, 1 / deviation))


def find_held(stored: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image as it lies in memory, for a network that sees `size`."""
    target = tuple(round(length * MARGIN) for length in size)
    return stored if all(a <= b for a, b in zip(stored, target, strict=True)) else target


def shrink(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images at `MARGIN` times `size` where they are stored larger; depth by its nearest pixels."""
    target = find_held(array.shape[-2:], size)
    if target == array.shape[-2:]:
        return array
    small = np.empty((*array.shape[:-2], *target), array.dtype)
    for start in range(0, len(array), CHUNK):
        part = torch.from_numpy(np.array(array[start : start + CHUNK]).astype(np.float32))
        flat = part.reshape(-1, 1, *part.shape[-2:])
        if array.dtype == np.uint8:
            flat = functional.interpolate(flat, target, mode="bilinear", antialias=True)
            flat = flat.round().clamp(0, 255)
        else:
            flat = functional.interpolate(flat, target, mode="nearest-exact")
        small[start : start + CHUNK] = flat.reshape(*part.shape[:-2], *target).numpy()
    return small


def _chunk(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
