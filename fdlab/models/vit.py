"""Vision transformers as DINOv2 with registers has them (Oquab et al., 2024; Darcet et al., 2024).

The modules are those of `transformers`, built from numbers and never fetched; what is here walks
through them once and keeps every block's end as a map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from fdlab.models.frames import require_image
from fdlab.models.grids import fit_patches, fit_side, spread_tokens
from fdlab.models.library import import_transformers, rename
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool

MAPS = 4  # of the blocks' ends, how many are given as maps
DEVIATION = 0.02
PREFIX = "dinov2_with_registers."  # in files of a network with the library's own head
NAMES = (  # in published files, and in the library's modules
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)


@dataclass(frozen=True)
class Size:
    """patch: pixels along its sides. heads: each of `each` times the width in channels. depth:
    blocks. native: side in pixels for which the position embedding is made; 0 for the images' own.
    """

    patch: int
    heads: int
    depth: int
    native: int = 0
    each: int = 1


SIZES = {
    "vit_small": Size(4, 2, 6, each=2),
    "vit_s14": Size(14, 6, 12, 518),
    "vit_l14": Size(14, 16, 24, 518),
}


class ViTEncoder(Network):
    """(N, C, H, W) → the maps and blocks of `ModelOutput`, of heads · each · width channels.

    name: of `SIZES`. "vit_s14" and "vit_l14" at width 64 are the published ViT-S/14 and ViT-L/14
    with four registers; "vit_small" is our choice for small images: patches of 4 pixels, 6 blocks
    and 2 heads of twice the width, with as many registers. Fewer and wider heads, because those of
    8 channels took most of a CPU's time at width 8.
    shape: of one image. Images of other sizes will do: the position embedding is interpolated, as
    the library does it (bicubic), whose gradient has no deterministic form on CUDA. For sides that
    the patch does not divide see `fit_patches`.
    Grids leave out the class token and the registers. blocks: the end of every block, "block0" and
    so on. Maps: of those the ends of the four quarters of the depth, before any norm.
    The library's initialisation: N(0, 0.02²), biases and registers 0.
    """

    entry = "embeddings.patch_embeddings.projection.weight"
    # The released code adapts one layer for query, key and value together, whose three parts share
    # what they read. Of three layers each has its own: a rank here can give all that the same rank
    # gives there, with half as many parameters again in the attention.
    adapters = (
        *("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        *("mlp.fc1", "mlp.fc2"),
    )

    def __init__(self, name: str, shape: tuple[int, ...], width: int = 64):
        super().__init__()
        require_image(name, shape)
        size, library = SIZES[name], import_transformers(name)
        native = size.native or fit_side(max(shape[1:]), size.patch)
        config = library.Dinov2WithRegistersConfig(
            num_channels=shape[0],
            image_size=native,
            patch_size=size.patch,
            hidden_size=size.heads * size.each * width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            attn_implementation="sdpa",
        )
        whole = library.Dinov2WithRegistersModel(config)
        self.embeddings, self.encoder = whole.embeddings, whole.encoder
        self.layernorm = whole.layernorm
        self.embeddings.mask_token = None  # of the pre-training alone: no gradient would reach it
        self.patch, self.channels = size.patch, [config.hidden_size]
        self.before = 1 + config.num_register_tokens  # tokens before those of the patches
        self.shown = [f"block{math.ceil((i + 1) * size.depth / MAPS) - 1}" for i in range(MAPS)]
        self.feature_width = config.hidden_size

    def forward(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        x, blocks = fit_patches(x, self.patch), {}
        grid = tuple(side // self.patch for side in x.shape[2:])
        x = self.embeddings(x)
        for place, layer in enumerate(self.encoder.layer):
            x = layer(x)
            blocks[f"block{place}"] = spread_tokens(x[:, self.before :], grid)
        return {name: blocks[name] for name in self.shown}, blocks

    def find_levels(self, maps: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What a dense head reads: the last map after the final norm, (N, C, h, w)."""
        last = maps[self.shown[-1]].permute(0, 2, 3, 1)
        return [self.layernorm(last).permute(0, 3, 1, 2)]

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Published weights, with or without the prefix of a network with a head, of which the head
        reads the class token too and is left out, as is the token of the pre-training."""
        found = {rename(NAMES, k.removeprefix(PREFIX)): value for k, value in state.items()}
        left_out = ("embeddings.mask_token", "classifier.weight", "classifier.bias")
        return {name: value for name, value in found.items() if name not in left_out}


class ViT(ViTEncoder):
    """(N, C, H, W) → `ModelOutput`, D = heads · each · width.

    `feature` is the mean over the patches after the final norm, which is not a map's mean; the
    linear classifier reads it. Published weights have no such classifier: it stays as drawn.
    """

    optional = ("fc.",)
    pools_maps = False

    def __init__(self, name: str, shape: tuple[int, ...], classes: int, width: int = 64):
        super().__init__(name, shape, width)
        self.fc = nn.Linear(self.feature_width, classes)
        nn.init.trunc_normal_(self.fc.weight, 0, DEVIATION)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        maps, blocks = super().forward(x)
        feature = pool(self.find_levels(maps)[0])  # (N, D, h, w) → (N, D)
        return ModelOutput(classify(feature, self.fc), feature, maps, blocks)


def build_vit_small(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ViT:
    """A small vision transformer after DINOv2 (Oquab et al., 2024), for images (C, H, W)."""
    return ViT("vit_small", shape, classes, width)


def build_vit_s14(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ViT:
    """DINOv2's ViT-S/14 with registers (Darcet et al., 2024), for images (C, H, W)."""
    return ViT("vit_s14", shape, classes, width)


def build_vit_l14(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ViT:
    """DINOv2's ViT-L/14 with registers (Darcet et al., 2024), for images (C, H, W)."""
    return ViT("vit_l14", shape, classes, width)
