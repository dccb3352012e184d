"""One training over several processes: parts of a batch, and outputs of all of it.

Every process has the same course of batches, random views and rates. Its networks see its own part
of each batch; what they say is gathered, so that the method sees the whole batch everywhere, and
losses that compare samples are those of one process. All that is left to add up are the networks'
gradients, which `DistributedDataParallel` does, and batch norm's sums (`fdlab.models.norm`). So
curves and weights are those of one process up to the order of sums: to 1e-12 in float64, and in
float32 as near as one process is to itself when the rows of its batches are reversed, since a sum's
last bit may turn the sign of a ReLU's input.

Dropout is the exception: each process draws the masks of its own part, other ones than the rest,
so networks that have it agree in distribution alone. What methods draw comes from generators of
their own, which are the same everywhere.

In a process alone every function here gives back what it is given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fdlab.core import processes
from fdlab.data.augment import View
from fdlab.models.norm import join_norms
from fdlab.models.output import ModelOutput


def find_span(total: int) -> tuple[int, int]:
    """Where this process's part of `total` rows begins and ends; parts differ by one row at most,
    and are empty where there are more processes than rows."""
    return _span(total, processes.rank())


def _span(total: int, rank: int) -> tuple[int, int]:
    share, extra = divmod(total, processes.count())
    start = rank * share + min(rank, extra)
    return start, start + share + (rank < extra)


def cut(rows: torch.Tensor) -> torch.Tensor:
    """This process's part of some rows."""
    if processes.count() == 1:
        return rows
    start, stop = find_span(len(rows))
    return rows[start:stop]


def cut_view(view: View | None) -> View | None:
    """A random view of this process's part; None where that is empty, or nothing is random."""
    if view is None or processes.count() == 1:
        return view
    start, stop = find_span(view.count)
    if start == stop:
        return None
    names = ("box", "colour", "frames")
    own = {n: x[start:stop] for n in names if (x := getattr(view, n)) is not None}
    if view.corner is not None:
        own["corner"] = view.corner[:, start:stop]
    return replace(view, count=stop - start, **own)


class Parts:
    """This process's parts of batches; always the same tensor for the same batch, as reading ahead
    asks for (`PairedData.expect`)."""

    def __init__(self):
        self.found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def expect(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        """The parts of the batches to come; earlier ones are forgotten."""
        self.found = {id(rows): (rows, cut(rows)) for rows in batches}
        return [part for _, part in self.found.values()]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        known = self.found.get(id(rows))
        return cut(rows) if known is None else known[1]


def collect(part: torch.Tensor, total: int) -> torch.Tensor:
    """The rows of all processes, `total` of them, in their order; without gradient."""
    if processes.count() == 1:
        return part
    width = math.ceil(total / processes.count())  # what is sent has to be of one size
    padded = part.new_zeros(width, *part.shape[1:])
    padded[: len(part)] = part.detach()
    # As bytes, since not every backend knows every type.
    mine = padded.view(torch.uint8) if padded.ndim > 1 else padded[:, None].view(torch.uint8)
    found = [torch.empty_like(mine) for _ in range(processes.count())]
    distributed.all_gather(found, mine)
    sizes = [stop - start for start, stop in (_span(total, r) for r in range(len(found)))]
    rows = [x.view(part.dtype)[:size] for x, size in zip(found, sizes, strict=True)]
    return torch.cat(rows).view(total, *part.shape[1:])


class _Gather(torch.autograd.Function):
    """`collect` with gradient. Every process computes the same loss of the whole batch, so what it
    needs is at hand; times the number of processes, since their gradients are averaged."""

    @staticmethod
    def forward(ctx, part: torch.Tensor, total: int) -> torch.Tensor:
        ctx.total = total
        return collect(part, total)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        start, stop = find_span(ctx.total)
        return processes.count() * gradient[start:stop], None


class _Maps(Mapping):
    """Maps of the whole batch, each gathered when it is first read: most methods read few, and all
    processes read the same ones in the same order."""

    def __init__(self, parts: dict[str, torch.Tensor], total: int):
        self.parts, self.total = parts, total
        self.whole: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.whole:
            self.whole[name] = _Gather.apply(self.parts[name], self.total)
        return self.whole[name]

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def gather(output: ModelOutput, total: int) -> ModelOutput:
    """What a network says of a whole batch of `total` rows, from what it said of the parts."""
    if processes.count() == 1:
        return output
    second = output.second
    return ModelOutput(
        _Gather.apply(output.logits, total),
        _Gather.apply(output.feature, total),
        _Maps(output.maps, total),
        _Maps(output.blocks, total),
        None if output.mask is None else collect(output.mask, total),
        None if second is None else gather(second, total),
        None if output.boxes is None else _Gather.apply(output.boxes, total),
    )


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """A network that trains, for its forward pass: with batch norm over all processes, gradients
    averaged, and the first process's weights everywhere. The network itself keeps its names."""
    if processes.count() == 1:
        return model
    join_norms(model)
    spread(model)
    own = [device] if device.type == "cuda" else None
    # Of convolutions over one pixel, whose memory order has two names.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name that older versions need
        return DistributedDataParallel(model, device_ids=own, broadcast_buffers=False)


@torch.no_grad()
def spread(module: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers."""
    for x in (*module.parameters(), *module.buffers()) if processes.count() > 1 else ():
        sent = x.detach().contiguous()
        distributed.broadcast(sent, 0)
        x.copy_(sent)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Of what sees the whole batch everywhere. On the CPU they are the same to the bit already; on
    CUDA some sums have no fixed order, and networks would drift apart."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if processes.count() == 1 or not gradients or gradients[0].device.type == "cpu":
        return
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joined)
    joined /= processes.count()
    parts = joined.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def find_any(bad: torch.Tensor) -> torch.Tensor:
    """Whether a scalar of truth holds in any process."""
    if processes.count() == 1:
        return bad
    found = bad.to(torch.int32)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.bool()
