"""CIRKDv2: cross-image relations of pixels, regions and channels (Yang et al.)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fdlab.data.dataset import IGNORED
from fdlab.losses.features import mse, normalise
from fdlab.losses.logits import cross_entropy, kl_divergence
from fdlab.losses.maps import average_to, resize
from fdlab.losses.pixels import memory_relations, pair_relations
from fdlab.methods.adapt import Norm
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen

PATCH = 4  # side of the squares of positions that are averaged before channels are compared
WEIGHTS = (
    *("kd_weight", "hint_weight", "pixel_weight", "memory_pixel_weight", "memory_region_weight"),
    *("channel_weight", "memory_channel_weight", "channel_mse_weight"),
)


class CIRKD(Method):
    """L = CE + Σ of eight terms, each with its weight, on the map that the decoder takes in.

    s: the student's, refined by `Refiner`; t: the teacher's. τ = 0.1; "relations" are the rows of
    softmax(x yᵀ / τ) of vectors of length 1, compared by KL(teacher ‖ student), mean over rows:

        kd              KL of the logits at T = 1, mean over the pixels
        hint            mean (A s - t)², A a 1×1 convolution
        pixel           relations of each image's positions to those of every image of the batch
        memory_pixel    relations of P s and of t to positions that a memory of the teacher's holds
        memory_region   likewise to its means over an image's positions of one class
        channel         relations of each image's channels Q s and t, vectors over 4 × 4 averages
                        of the positions, to those of every image of the batch
        memory_channel  likewise to channels of the teacher's that a memory holds
        channel_mse     mean (q̂ - t̂)² of the same channels

    P, Q: 1×1 convolution, batch norm, ReLU, 1×1 convolution. Weights 1, 1, 1, 0.1, 0.1, 1, 0.1 and
    100, and the memories' sizes: released code, for Cityscapes. A batch is remembered before it is
    compared; of each class of an image its mean and up to 16 positions, of the batch up to 256
    channels. A memory of positions or means has places for each class and is sampled evenly over
    classes.

    The release stores an image's first positions in place of the class's own; here they are the
    class's. Our choices: the memories start empty, and an empty place is never compared with (the
    release's are random vectors); none is larger than what the training images bring in one epoch;
    draws are made for each class apart; a position's class is that of the pixel at its middle.
    `positions` bounds the positions of an image that the pixel terms see, a larger map is averaged
    down (the release: 4 × 4 from 256 × 256 on). Maps under 16 a side are averaged to no fewer than
    4 a side before channels are compared, where the release's 4 × 4 would leave a single position.
    The student's map is resized to the teacher's. Only labelled pixels count in kd. The auxiliary
    classifier of the release's networks, and its loss, are left out.
    """

    name = "cirkd"
    summary = "relations of pixels, regions and channels across images, with memories"
    source = "Yang et al., CVPR 2022; CIRKDv2, released code"
    tasks = ("segmentation",)
    needs = ("logits", "context")
    compares = (
        *("kd", "hint", "pixel", "memory_pixel", "memory_region"),
        *("channel", "memory_channel", "channel_mse"),
    )
    strength = WEIGHTS

    @dataclass(frozen=True)
    class Options:
        """refine: whether the student's map is refined first. pixel_memory, region_memory: places
        for each class. pixel_samples, region_samples: drawn of all classes together.
        pixel_additions: positions of one class and image that are remembered."""

        kd_weight: float = 1.0
        hint_weight: float = 1.0
        pixel_weight: float = 1.0
        memory_pixel_weight: float = 0.1
        memory_region_weight: float = 0.1
        channel_weight: float = 1.0
        memory_channel_weight: float = 0.1
        channel_mse_weight: float = 100.0
        temperature: float = 0.1
        refine: bool = True
        pixel_memory: int = 20_000
        region_memory: int = 2_000
        channel_memory: int = 10_000
        pixel_samples: int = 4_096
        region_samples: int = 1_024
        channel_samples: int = 2_048
        pixel_additions: int = 16
        channel_additions: int = 256
        positions: int = 256

        def __post_init__(self):
            require_weights(self, *WEIGHTS)
            require_positive(self, "temperature", "positions")
            for kind in ("pixel", "region", "channel"):
                require_positive(self, f"{kind}_memory", f"{kind}_samples")
            require_positive(self, "pixel_additions", "channel_additions")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        (self.names,) = sizes.pair("context")
        ((mine, theirs),) = sizes.pair_channels("context")
        self.refiner = Refiner(mine) if options.refine else nn.Identity()
        self.hint = nn.Conv2d(mine, theirs, 1, bias=False)
        self.embed_pixels, self.embed_channels = (embed(mine, theirs) for _ in range(2))
        images = math.inf if sizes.labels is None else len(sizes.labels)
        self.pixels, self.regions = (
            Memory(sizes.classes, min(size, most), theirs)
            for size, most in (
                (options.pixel_memory, options.pixel_additions * images),
                (options.region_memory, images),
            )
        )
        (shape,) = sizes.teacher.pick("context").values()
        size = min(options.channel_memory, theirs * images)
        self.channels = Memory(1, size, math.prod(shrink_by_patch(shape[1:])))
        # Of its own, so that its draws do not shift those of a student's dropout.
        self.seed = int(torch.randint(2**31, ()))
        self.generator: torch.Generator | None = None

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        if self.generator is None:
            self.generator = torch.Generator(student.logits.device).manual_seed(self.seed)
        options = self.options
        theirs = torch.relu(teacher.find(self.names[1]).detach())
        mine = resize(self.refiner(torch.relu(student.find(self.names[0]))), theirs)
        divergence = kl_divergence(student.logits, teacher.logits.detach())
        terms = {"kd": divergence, "hint": mse(self.hint(mine), theirs)}
        grid = bound(theirs.shape[2:], options.positions)
        terms |= self.compare_pixels(
            average_to(mine, grid), average_to(theirs, grid), batch.pixels.locate(grid)
        )
        grid = shrink_by_patch(theirs.shape[2:])
        terms |= self.compare_channels(average_to(mine, grid), average_to(theirs, grid))
        task = cross_entropy(student.logits, batch.labels)
        weighted = {name: getattr(options, f"{name}_weight") * x for name, x in terms.items()}
        return {"task": task, **weighted}

    def compare_pixels(
        self, mine: torch.Tensor, theirs: torch.Tensor, labels: torch.Tensor
    ) -> LossTerms:
        """Of maps (N, C, h, w), and (N, h · w) the classes of their positions."""
        options = self.options
        direct = pair_relations(list_positions(mine), list_positions(theirs), options.temperature)
        units = normalise(widen(list_positions(theirs)))
        if self.training:
            self.remember_pixels(units, labels)
        embedded = normalise(widen(list_positions(self.embed_pixels(mine))))
        counted = (labels != IGNORED).flatten().to(units.dtype)
        terms = {"pixel": direct}
        for name, memory, samples in (
            ("memory_pixel", self.pixels, options.pixel_samples),
            ("memory_region", self.regions, options.region_samples),
        ):
            drawn = memory.draw(samples // self.sizes.classes + 1, self.generator)
            rows = (x.flatten(0, 1) for x in (embedded, units))
            terms[name] = memory_relations(*rows, *drawn, counted, options.temperature)
        return terms

    def compare_channels(self, mine: torch.Tensor, theirs: torch.Tensor) -> LossTerms:
        """Of maps (N, C, h, w) with as many positions as a remembered channel has."""
        options = self.options
        pair = [normalise(widen(x.flatten(2))) for x in (self.embed_channels(mine), theirs)]
        rows = [x.flatten(0, 1) for x in pair]
        if self.training:
            keys = self.draw_keys(len(rows[1]))
            chosen = keys.topk(min(options.channel_additions, len(keys))).indices
            self.channels.add(rows[1][chosen][None], torch.ones_like(chosen[None], dtype=bool))
        drawn = self.channels.draw(options.channel_samples, self.generator)
        counted = rows[1].new_ones(len(rows[1]))
        return {
            "channel": pair_relations(*pair, options.temperature),
            "memory_channel": memory_relations(*rows, *drawn, counted, options.temperature),
            "channel_mse": mse(*pair),
        }

    @torch.no_grad()
    def remember_pixels(self, units: torch.Tensor, labels: torch.Tensor) -> None:
        """units (N, Q, C) of length 1, labels (N, Q): of each class of an image its mean and some
        of its positions, for all classes at once."""
        classes = self.sizes.classes
        own = functional.one_hot(labels.clamp_max(classes), classes + 1)[..., :-1].mT  # (N, K, Q)
        sums = own.to(units.dtype) @ units  # the mean's direction
        self.regions.add(normalise(sums).transpose(0, 1), own.any(dim=2).T)
        keys = torch.where(own > 0, self.draw_keys(*labels.shape)[:, None], -1.0)
        keys, place = keys.topk(min(self.options.pixel_additions, labels.shape[1]), dim=2)
        image = torch.arange(len(labels), device=labels.device)[:, None, None]
        chosen = units[image, place]  # (N, K, n, C)
        self.pixels.add(
            chosen.transpose(0, 1).flatten(1, 2), (keys >= 0).transpose(0, 1).flatten(1)
        )

    def draw_keys(self, *shape: int) -> torch.Tensor:
        """Uniform numbers, of which the largest choose."""
        return torch.rand(shape, device=self.generator.device, generator=self.generator)


class Memory(nn.Module):
    """The newest `size` vectors of each of several groups; in no state dict.

    Everything is done for all groups at once and nothing is read back from the device. The place
    after the last takes what is not kept.
    """

    def __init__(self, groups: int, size: int, width: int):
        super().__init__()
        self.size = size
        for name, value in (
            ("entries", torch.zeros(groups, size + 1, width)),
            ("next", torch.zeros(groups, dtype=torch.int64)),
            ("filled", torch.zeros(groups, dtype=torch.int64)),
        ):
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def add(self, vectors: torch.Tensor, there: torch.Tensor) -> None:
        """vectors (G, E, W), there (G, E): those to keep, in their order, over the oldest."""
        rank, count = there.cumsum(dim=1) - 1, there.sum(dim=1)
        newest = there & (count[:, None] - rank <= self.size)
        place = torch.where(newest, (self.next[:, None] + rank) % self.size, self.size)
        group = torch.arange(len(place), device=place.device)[:, None]
        self.entries[group, place] = vectors.to(self.entries.dtype)
        self.next.copy_((self.next + count) % self.size)
        self.filled.copy_((self.filled + count).clamp_max(self.size))

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` of each group (G · count, W), each at most once, and (G · count,) whether there
        was one left."""
        groups, count = len(self.entries), min(count, self.size)
        device = self.entries.device
        keys = torch.rand(groups, self.size, device=device, generator=generator)
        empty = torch.arange(self.size, device=device) >= self.filled[:, None]
        keys, place = keys.masked_fill_(empty, -1.0).topk(count, dim=1)
        group = torch.arange(groups, device=device)[:, None]
        return self.entries[group, place].flatten(0, 1), (keys >= 0).flatten()


class Refiner(nn.Module):
    """(N, C, h, w) → the same shape: every position also sees the others (a non-local block).

    With q, k, v 1×1 convolutions to d = C/2: R(concatenation of x and R(softmax(qᵀk / √d) v)), each
    R a 1×1 convolution, batch norm and ReLU.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(channels // 2, 1)
        self.query, self.key, self.value = (
            nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3)
        )
        self.back, self.join = (
            nn.Sequential(nn.Conv2d(size, channels, 1, bias=False), Norm(channels), nn.ReLU())
            for size in (inner, 2 * channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (list_positions(f(x)) for f in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(query, key, value)  # (N, Q, d)
        seen = self.back(seen.mT.unflatten(2, x.shape[2:]))
        return self.join(torch.cat([x, seen], dim=1))


def embed(channels: int, width: int) -> nn.Sequential:
    """The release's projection head."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        Norm(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
    )


def list_positions(map_: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, h · w, C)."""
    return map_.flatten(2).mT


def bound(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Height and width, shrunk alike to at most so many positions."""
    scale = min(math.sqrt(most / math.prod(size)), 1.0)
    height, width = (max(math.floor(length * scale), 1) for length in size)
    return min(height, most // min(width, most)), min(width, most // min(height, most))


def shrink_by_patch(size: tuple[int, int]) -> tuple[int, int]:
    """A quarter of height and width, but no fewer than 4 where there are so many."""
    return tuple(max(math.ceil(length / PATCH), min(length, PATCH)) for length in size)
