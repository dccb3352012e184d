"""What one of several processes does for `test_processes`; without pytest, so that it starts
fast."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from teaching import CPU, build_teacher
from torch import nn

from fdlab.core import processes
from fdlab.core.config import RunConfig
from fdlab.data.augment import View
from fdlab.data.paired import PairedData
from fdlab.data.store import prepare
from fdlab.models.norm import Norm, join_norms
from fdlab.models.output import ModelOutput
from fdlab.training.loop import Trained, train
from fdlab.training.together import cut_view, gather

DEADLINE = 400  # seconds

# --- in the process of the tests


def run_together(size: int, work, *given) -> list:
    """Results of `work(*given)` of each of `size` processes that have joined."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["fdlab.training.ensure", "fdlab.data.digits", "fdlab.models.resnet", "torch._dynamo"]
    )
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    home = os.environ["FDLAB_HOME"]
    started = [
        context.Process(target=_join, args=(rank, size, port, home, sender, work, given))
        for rank, (_, sender) in enumerate(pipes)
    ]
    try:
        for process, (_, sender) in zip(started, pipes, strict=True):
            process.start()
            sender.close()
        found = []
        for rank, (receiver, _) in enumerate(pipes):
            assert receiver.poll(DEADLINE), f"process {rank} says nothing"
            found.append(receiver.recv())
        return found
    finally:
        for process in started:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


# --- in each of the processes


def _join(rank: int, size: int, port: int, home: str, sender, work, given) -> None:
    torch.set_num_threads(1)
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    values |= {"MASTER_ADDR": "127.0.0.1", "FDLAB_HOME": home}
    os.environ.update({name: str(value) for name, value in values.items()})
    with processes.joining("cpu") as device:
        assert device == "cpu"
        found = work(*given)
    sender.send(found)


def flatten(trained: Trained) -> dict[str, np.ndarray]:
    found = {f"curve/{name}": np.array(values) for name, values in trained.curves.items()}
    for moment, weights in trained.weights.items():
        found |= {f"{moment}/{name}": x.numpy() for name, x in weights.items()}
    return found | {f"said/{name}": x.numpy() for name, x in trained.predictions.items()}


def train_one(config: RunConfig, data: PairedData) -> dict[str, np.ndarray]:
    """A run with a teacher as initialised, for the time's sake."""
    teacher = build_teacher(data, config.teacher, config.width)
    return flatten(train(config, data, teacher, CPU))


@contextlib.contextmanager
def in_double():
    """Networks and their inputs in float64. In float32 sums of another order turn the sign of a
    ReLU's input now and then, and a training that has just begun at a high rate makes much of it.
    """
    read, kind = PairedData.batch, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)

    def batch(self, *given):
        values = read(self, *given)
        return values.double() if values.is_floating_point() else values

    PairedData.batch = batch
    try:
        yield
    finally:
        PairedData.batch = read
        torch.set_default_dtype(kind)


def train_all(
    configs: dict[str, RunConfig], double: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    first = next(iter(configs.values()))
    sides = {side: None for c in configs.values() for side in (c.student, c.teacher) if side}
    data = PairedData.load(prepare(first.dataset, first.data_options), [*sides], CPU)
    with in_double() if double else contextlib.nullcontext():
        return {name: train_one(config, data) for name, config in configs.items()}


def build_norm(kind: str, **options) -> nn.Module:
    norm = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "own": Norm}[kind](3, **options).double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return norm


def normalise(norm: nn.Module, x: torch.Tensor, pull: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two steps of batch norm under a given gradient of its output, and what they leave."""
    found, x = {}, x.clone().requires_grad_()
    for step in range(2):
        y = norm(x * (1 + step))
        (y * pull).sum().backward()
        found[f"output {step}"] = y.detach()
    found["input"] = x.grad
    found |= {f"sum {name}": p.grad for name, p in norm.named_parameters()}
    found |= {f"same {name}": b for name, b in norm.named_buffers()}
    found["eval"] = norm.eval()(x).detach()
    return {name: value.detach().numpy() for name, value in found.items()}


def normalise_parts(cases: list[tuple[str, dict, Any, Any, list[int]]]) -> list[dict]:
    """Each process its part of the rows, by the last of a case."""
    found = []
    for kind, options, x, pull, sizes in cases:
        norm = build_norm(kind, **options)
        join_norms(norm)
        rank = processes.rank()
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        found.append(normalise(norm, torch.from_numpy(x)[own], torch.from_numpy(pull)[own]))
    return found


def agree_on_things(total: int) -> dict[str, Any]:
    """Words of the processes to each other, and one gathered output with its gradient."""
    rank, count = processes.rank(), processes.count()
    reasons = {1: "SIGTERM", 2: "the time budget is over"}
    found: dict[str, Any] = {
        "shared": processes.share({"step": 3 + rank, "names": ["ä", rank]}),
        "nothing": processes.agree("", due=rank > 0),
        "due": processes.agree("", due=rank == 0),
        "reason": processes.agree(reasons.get(rank, ""), due=False),
        "decided": processes.decide(lambda: rank),
    }
    width = -(-total // count)
    rows = torch.arange(total, dtype=torch.float64)
    part = rows[rows.tensor_split(count)[rank].long()].clone().requires_grad_()
    assert len(part) <= width
    maps = {"read": part[:, None, None] * torch.ones(1, 2, 3), "unread": part[:, None]}
    output = gather(ModelOutput(part[:, None], part[:, None] ** 2, maps), total)
    loss = (output.feature.sum() - 50) ** 2 + output.find("read").pow(3).sum()
    loss.backward()
    found |= {"feature": output.feature.detach().numpy(), "gradient": part.grad.numpy()}
    found["gathered"] = sorted(output.maps.whole)
    names = {"corner": (2, total, 1), "box": (total, 5), "colour": (total, 3), "frames": (total, 4)}
    drawn = {name: torch.arange(math.prod(shape)).view(shape) for name, shape in names.items()}
    if view := cut_view(View(total, **drawn)):
        found["view"] = view.count, {name: getattr(view, name).numpy() for name in names}
    from fdlab.cli import main

    with contextlib.redirect_stderr(io.StringIO()) as said:
        found["code"] = main(["runs", "list"])
    found["said"] = said.getvalue()
    processes.wait()  # the store, which the first one keeps, is asked by all
    return found


def change(config: RunConfig, **fields) -> RunConfig:
    return replace(config, train=replace(config.train, **fields))
