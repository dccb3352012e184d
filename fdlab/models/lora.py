"""Low-rank adapters of linear layers (LoRA; Hu et al., 2022).

An adapted layer computes W x + b + (α / r) · B A x. W and b keep their names and are frozen; A and
B stand beside them as `lora_a` and `lora_b`, and α / r as `lora_scale`, so that a state dict says
all that merging needs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.models.network import Network

DROPOUT = 0.05  # FreqKD's release
PARTS = ("lora_a", "lora_b", "lora_scale")


class AdaptedLinear(nn.Linear):
    """A linear layer of a network, with its adapter; made in place by `adapt`."""

    def adapt(self, rank: int, alpha: float, dropout: float) -> None:
        """B starts at 0, so that nothing changes; A as a linear layer of torch does, which is the
        authors' code, where their text has a normal distribution."""
        like = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        self.register_buffer("lora_scale", torch.tensor(alpha / rank, **like))
        self.dropout = dropout
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = functional.dropout(x, self.dropout, self.training)
        low = functional.linear(functional.linear(read, self.lora_a), self.lora_b)
        return super().forward(x) + self.lora_scale * low


def add_adapters(
    model: Network, rank: int, alpha: float | None = None, dropout: float = DROPOUT
) -> Network:
    """Give every linear layer that `model.adapters` names an adapter and freeze all the rest; in
    place. alpha: None for the rank, so that α / r = 1."""
    if rank < 1:
        raise UserError(f"adapters of rank {rank}: expected a rank of 1 or more")
    layers = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.endswith(model.adapters)
    ]
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no layers for low-rank adapters: expected a network with "
            "attention, such as vit_small or swin_t"
        )
    model.requires_grad_(False)
    for layer in layers:
        layer.__class__ = AdaptedLinear
        layer.adapt(rank, float(alpha if alpha is not None else rank), dropout)
    return model


def merge_state(state: dict[str, torch.Tensor], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The state dict of an adapted network as one without adapters: W + scale · (α / r) · B A.

    scale: 1 is what was learned, 0 the base. A state dict without adapters comes back as it is.
    """
    merged = {name: x for name, x in state.items() if name.rpartition(".")[2] not in PARTS}
    for name in state:
        layer, _, part = name.rpartition(".")
        if part == "lora_a":
            a, b, own = (state[f"{layer}.{part}"] for part in PARTS)
            weight = merged[f"{layer}.weight"]
            merged[f"{layer}.weight"] = weight + scale * own * (b @ a)
    return merged


def merge_adapters(model: Network, scale: float = 1.0) -> Network:
    """Add every adapter to its layer as `merge_state` does and take it away; in place. Afterwards
    everything trains."""
    merged = merge_state(model.state_dict(), scale)
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            for part in (*PARTS, "dropout"):
                delattr(layer, part)
            layer.__class__ = nn.Linear
    model.load_state_dict(merged)
    return model.requires_grad_(True)
