"""Swin-T (Liu et al., 2021), through the modules of `transformers`.

They are built from numbers and never fetched; what is here walks through them once and keeps every
block's end as a map.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fdlab.models.frames import require_image
from fdlab.models.grids import fit_patches, spread_tokens
from fdlab.models.library import import_transformers, rename
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool

DEPTHS, HEADS = (2, 2, 6, 2), (3, 6, 12, 24)
SMALL, LARGE = 48, 128  # sides from which patches, and windows too, are as published
STAGES = ("layer1", "layer2", "layer3", "layer4")
DEVIATION = 0.02
PREFIX = "swin."  # in files of a network with the library's head
NAMES = (  # in published files, and in the library's modules
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.self.relative", "attention.relative_position_bias.relative"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("classifier.", "fc."),
)


class SwinEncoder(Network):
    """(N, C, H, W) → the maps and blocks of `ModelOutput`; the last stage has 12 · width channels.

    Swin-T at width 64: stages of 96, 192, 384 and 768 channels in heads of 32; others in
    proportion. Patches of 4 pixels and windows of 7 positions, as published, where `shape`, that of
    one image, has a side of 128 pixels or more. Below, windows of 4, and below 48 pixels patches of
    2, so that images of 64 and of 32 pixels still fill several windows: our choice.
    Images of other sizes will do; for sides that the patch does not divide see `fit_patches`. Where
    windows do not divide a map it is filled up at the right and at the bottom, and where it is no
    larger than a window nothing is shifted, as published; but windows never shrink to a smaller
    map. No stochastic depth: it is a recipe's.
    Maps: "stem", the patches' embeddings, and "layer1" to "layer4", each stage's end before the
    patches are merged and before any norm. blocks: the end of every block.
    The library's initialisation: N(0, 0.02²), biases and position biases 0.
    """

    entry = "embeddings.patch_embeddings.projection.weight"
    adapters = (
        *("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        *("mlp.fc1", "mlp.fc2"),
    )

    def __init__(self, shape: tuple[int, ...], width: int = 64):
        super().__init__()
        require_image("swin_t", shape)
        self.patch = 4 if max(shape[1:]) >= SMALL else 2
        self.window = 7 if max(shape[1:]) >= LARGE else 4
        size = HEADS[0] * max(1, width // 2)
        library = import_transformers("swin_t")
        config = library.SwinConfig(
            num_channels=shape[0],
            image_size=max(shape[1:]),
            patch_size=self.patch,
            window_size=self.window,
            embed_dim=size,
            depths=DEPTHS,
            num_heads=HEADS,
            drop_path_rate=0.0,
            attn_implementation="sdpa",
        )
        whole = library.SwinModel(config)
        self.embeddings, self.encoder = whole.embeddings, whole.encoder
        self.layernorm = whole.layernorm
        self.channels = [size * 2**place for place in range(len(DEPTHS))]
        self.feature_width = self.channels[-1]

    def forward(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        x, grid = self.embeddings(fit_patches(x, self.patch))
        maps, blocks = {"stem": spread_tokens(x, grid)}, {}
        for name, stage in zip(STAGES, self.encoder.layers, strict=True):
            fits = min(grid) <= self.window
            for place, block in enumerate(stage.blocks):
                block.shift_size = 0 if fits or place % 2 == 0 else self.window // 2
                x, _ = block(x, grid, always_partition=True)
                maps[name] = blocks[f"{name}.{place}"] = spread_tokens(x, grid)
            if stage.downsample is not None:
                x = stage.downsample(x, grid)
                grid = tuple((side + 1) // 2 for side in grid)
        return maps, blocks

    def find_levels(self, maps: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What a dense head reads: the stages' ends, each normalised over its channels, the last by
        the final norm, the others without weights."""
        *early, last = (maps[name].permute(0, 2, 3, 1) for name in STAGES)
        levels = [functional.layer_norm(x, x.shape[3:]) for x in early]
        return [x.permute(0, 3, 1, 2) for x in (*levels, self.layernorm(last))]

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Published weights, with or without the prefix of a network with a head."""
        found = {rename(NAMES, name.removeprefix(PREFIX)): value for name, value in state.items()}
        return {k: value for k, value in found.items() if not k.endswith("relative_position_index")}


class Swin(SwinEncoder):
    """(N, C, H, W) → `ModelOutput`, D = 12 · width.

    `feature` is the mean over the positions after the final norm, which is not a map's mean; the
    linear classifier reads it, as published.
    """

    optional = ("fc.",)
    pools_maps = False

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 64):
        super().__init__(shape, width)
        self.fc = nn.Linear(self.feature_width, classes)
        nn.init.normal_(self.fc.weight, 0, DEVIATION)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        maps, blocks = super().forward(x)
        feature = pool(self.find_levels(maps)[-1])  # (N, D, h, w) → (N, D)
        return ModelOutput(classify(feature, self.fc), feature, maps, blocks)


def build_swin_t(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> Swin:
    """Swin-T (Liu et al., 2021), for images (C, H, W)."""
    return Swin(shape, classes, width)
