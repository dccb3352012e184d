"""Augmentation of a whole batch on its device, with random numbers from a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fdlab.core.errors import name_unknown

SHIFT = 2  # pixels
PADDING = 8  # an image's side over what "pad" adds on each side: 4 pixels of 32, 8 of 64
HUE, SATURATION, VALUE = 0.05, 0.3, 0.3
CONTRAST = 0.4
CUTOUT = 0.5  # of the shorter side, at most
WORD_LOSS = 0.15


@dataclass(frozen=True)
class Augmentation:
    """What happens to a modality's training inputs, drawn anew for every sample and epoch.

    geometry: "shift", "crop" or "pad" (a border of black, a crop of the old size anywhere in it,
    and a flip), the same draw for every modality of an event and its mask. area: least and largest
    part of the image that a crop keeps. hsv: whether the colours change too.
    """

    geometry: str
    area: tuple[float, float] = (0.08, 1.0)
    hsv: bool = False

    def shares_view(self, other: Augmentation) -> bool:
        """Whether one draw of the geometry serves both."""
        return (self.geometry, self.area) == (other.geometry, other.area)


# FD-CMKD: random resized crop and flip of images, random HSV besides for NYUv2's RGB; ranges are
# not given. Crops of photographs are torchvision's; a scene keeps at least half, our choice, so
# that its objects keep a context. The CIFAR benchmark (Tian et al., 2020) pads.
AUGMENTATIONS = {
    "shift": Augmentation("shift"),
    "pad_flip": Augmentation("pad"),
    "crop_flip": Augmentation("crop"),
    "scene": Augmentation("crop", (0.5, 1.0)),
    "scene_hsv": Augmentation("crop", (0.5, 1.0), hsv=True),
}


def find_augmentation(name: str) -> Augmentation | None:
    """The named augmentation; None for the empty name."""
    if not name:
        return None
    if name not in AUGMENTATIONS:
        raise name_unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


@dataclass(frozen=True)
class View:
    """One random look at each of N events, shared by the modalities that see it alike.

    count: N.
    corner: (2, N, 1) int64, rows and columns of a shift. box: (N, 5) uniform numbers behind a crop:
    area, aspect, row, column, flip; or (N, 3) of the last three behind a padded one. colour: (N, 3)
    uniform numbers for hue, saturation and value.
    frames: (N, F) uniform numbers that choose frames.
    """

    count: int
    corner: torch.Tensor | None = None
    box: torch.Tensor | None = None
    colour: torch.Tensor | None = None
    frames: torch.Tensor | None = None


def draw_view(
    augmentation: Augmentation | None, count: int, frames: int, generator: torch.Generator
) -> View:
    """Draw the random numbers of `count` events; frames: how many are chosen of each, or 0."""
    device = generator.device
    found: dict[str, torch.Tensor] = {}
    if augmentation is not None and augmentation.geometry == "shift":
        found["corner"] = torch.randint(
            0, 2 * SHIFT + 1, (2, count, 1), generator=generator, device=device
        )
    widths = {
        "box": 0 if augmentation is None else {"crop": 5, "pad": 3}.get(augmentation.geometry, 0),
        "colour": 3 if augmentation is not None and augmentation.hsv else 0,
        "frames": frames,
    }
    for name, width in widths.items():
        if width:
            found[name] = torch.rand(count, width, generator=generator, device=device)
    return View(count, **found)


def shift(batch: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Move each image (N, C, H, W) by up to `SHIFT` pixels a side, edges repeated."""
    count, _, height, width = batch.shape
    padded = torch.nn.functional.pad(batch, [SHIFT] * 4, mode="replicate")
    corner = corner.to(batch.device)
    rows = corner[0] + torch.arange(height, device=batch.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=batch.device)  # (N, W)
    first = torch.arange(count, device=batch.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def pad_flip(batch: torch.Tensor, box: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
    """Crop each image (N, C, H, W) at random out of itself with a border, and flip one in two.

    box: (N, 3) uniform numbers for row, column and flip. The border is H/8 and W/8 wide and holds
    `fill`; of 32 × 32 these are the benchmark's 4 pixels.
    """
    size = tuple(batch.shape[-2:])
    edges, starts, mirror = find_start(box.to(batch.device), size)
    padded = functional.pad(batch, [edges[1]] * 2 + [edges[0]] * 2, value=fill)
    rows, columns = (
        start[:, None] + torch.arange(side, device=batch.device)
        for start, side in zip(starts, size, strict=True)
    )
    columns = torch.where(mirror[:, None] < 0, columns.flip(1), columns)
    first = torch.arange(len(batch), device=batch.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def find_start(
    box: torch.Tensor, size: tuple[int, int]
) -> tuple[list[int], list[torch.Tensor], torch.Tensor]:
    """Where `pad_flip` crops: the border's height and width; the first row and column (N,) in the
    image with its border; and (N,) -1 where it is then flipped, else 1."""
    row, column, flip = box.unbind(1)
    edges = [side // PADDING for side in size]
    starts = [
        (part * (2 * edge + 1)).long() for part, edge in zip((row, column), edges, strict=True)
    ]
    return edges, starts, _mirror(flip)


def _mirror(flip: torch.Tensor) -> torch.Tensor:
    return torch.where(flip < 0.5, -1.0, 1.0)


def crop(
    batch: torch.Tensor,
    box: torch.Tensor,
    area: tuple[float, float],
    size: tuple[int, int],
    mode: str = "bilinear",
) -> torch.Tensor:
    """Random resized crop and flip: (N, C, H, W) float → (N, C, *size).

    As torchvision's: a share of the image's area, uniform in `area`, and an aspect (width over
    height, in pixels) log-uniform in 3/4 to 4/3, anywhere inside; then flipped in one of two cases.
    Where such a box does not fit, its longer side is cut to the image's (torchvision draws again,
    which would make the number of draws random). mode: "bilinear", or "nearest" for masks.
    """
    (high, wide), (down, across), mirror = find_crop(
        box.to(batch.device), area, tuple(batch.shape[-2:])
    )
    zero = torch.zeros_like(wide)
    across = torch.stack([mirror * wide, zero, across], dim=1)
    down = torch.stack([zero, high, down], dim=1)
    grid = functional.affine_grid(
        torch.stack([across, down], dim=1), [len(batch), 1, *size], align_corners=False
    )
    return functional.grid_sample(
        batch, grid.to(batch.dtype), mode, padding_mode="border", align_corners=False
    )


def find_crop(
    box: torch.Tensor, area: tuple[float, float], size: tuple[int, int]
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """What `crop` cuts out of an image of `size`, each (N,): the shares of its height and width;
    the middle down and across, the image's edges being -1 and 1; and -1 where it is then flipped,
    else 1."""
    height, width = size
    part, aspect, row, column, flip = box.unbind(1)
    part = area[0] + (area[1] - area[0]) * part
    aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3)) * (height / width)
    wide = (part * aspect).sqrt().clamp_max(1)
    high = (part / aspect).sqrt().clamp_max(1)
    middles = [(2 * row - 1) * (1 - high), (2 * column - 1) * (1 - wide)]
    return [high, wide], middles, _mirror(flip)


def jitter_hsv(batch: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Turn the hue and scale saturation and value of RGB images (N, 3, H, W) in 0 to 1.

    Hue by up to `HUE` of a turn either way, saturation and value by factors of 1 ± `SATURATION` and
    1 ± `VALUE`; the ranges are our choice.
    """
    turn, rich, bright = (2 * colour.to(batch.device) - 1)[:, :, None, None].unbind(1)
    value, _ = batch.max(dim=1)  # (N, H, W)
    spread = value - batch.amin(dim=1)
    red, green, blue = batch.unbind(1)
    safe = spread.clamp_min(1e-8)
    hue = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + 6 * HUE * turn
    saturation = (spread / value.clamp_min(1e-8) * (1 + SATURATION * rich)).clamp(0, 1)
    value = (value * (1 + VALUE * bright)).clamp(0, 1)
    channels = []
    for offset in (5, 3, 1):  # red, green, blue: v - v s max(0, min(k, 4 - k, 1)), k = offset + hue
        k = (offset + hue) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def pick_frames(
    values: torch.Tensor, there: torch.Tensor, count: int, draws: torch.Tensor | None
) -> torch.Tensor:
    """`count` frames of each event: (N, F, C, H, W) → (N, count, C, H, W), (N, C, H, W) for one.

    there: (N,) how many of the F are there. They are cut into `count` equal parts, and of each part
    one frame is taken: at random by `draws` (N, count) in 0 to 1, or its middle one.
    """
    part = torch.arange(count, device=values.device)
    offset = 0.5 if draws is None else draws.to(values.device)
    place = ((part + offset) * (there[:, None] / count)).long()
    place = torch.minimum(place, there[:, None].long() - 1)
    chosen = values[torch.arange(len(values), device=values.device)[:, None], place]
    return chosen[:, 0] if count == 1 else chosen


def strengthen(
    batch: torch.Tensor, generator: torch.Generator, first: int = 0, total: int | None = None
) -> torch.Tensor:
    """A stronger view of inputs that are augmented already, for methods that compare two views.

    Images and spectrograms (N, C, H, W), or frames (N, F, C, H, W): contrast by 0.6 to 1.4 and a
    square of up to half the shorter side set to 0, the inputs' mean (Cutout). Token ids (N, L):
    each word left out with probability 0.15, but a sentence keeps at least one. Our choice: the
    published recipe (RandAugment) is made for photographs.

    first, total: where the inputs are rows of a larger batch, the first of them and its length; the
    random numbers are then drawn for all of it.
    """
    device = batch.device
    total = len(batch) if total is None else total
    if batch.ndim == 5:  # frames, each a picture of its own
        frames = batch.shape[1]
        flat = strengthen(batch.flatten(0, 1), generator, first * frames, total * frames)
        return flat.unflatten(0, batch.shape[:2])

    def draw(count: int, *shape: int) -> torch.Tensor:
        drawn = torch.rand(total, *shape, generator=generator, device=generator.device)
        return drawn[first : first + count].to(device)

    if not batch.is_floating_point():
        kept = draw(*batch.shape) >= WORD_LOSS
        kept |= ~(kept & (batch != 0)).any(dim=1, keepdim=True)
        return batch * kept
    count, _, height, width = batch.shape
    batch = batch * (1 + CONTRAST * (2 * draw(count, 1, 1, 1) - 1))
    side = (draw(count) * min(height, width) * CUTOUT).round()
    inside = []
    for size in (height, width):
        start = (draw(count) * (size + 1 - side)).floor()
        place = torch.arange(size, device=device)
        inside.append((place >= start[:, None]) & (place < (start + side)[:, None]))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return batch.masked_fill(hole, 0.0)
