"""Where the time of a training step goes, by what its operations are for."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.bounds import wait
from fdlab.data.paired import PairedData
from fdlab.training.trainer import Trainer

PARTS = ("convolution", "batch norm", "optimiser", "losses", "data", "copies", "other")
BACKWARD = "autograd::engine::evaluate_function"
NAMES = {  # of operations, outside the labelled parts
    "convolution": ("conv", "aten::linear", "aten::addmm", "aten::mm", "Addmm", "MmBackward"),
    "batch norm": ("batch_norm", "BatchNorm"),
    "copies": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous", "Memcpy"),
}


def profile_steps(trainer: Trainer, batches: Iterable[torch.Tensor]) -> dict[str, float]:
    """Part → seconds of a step, mean over the batches, all but the first of which count.

    Time on the device's own operations; on the CPU also that of starting each. A step's operations
    are taken one by one: a recorded step runs the same without the gaps between them. A network's
    matrix products count as convolutions, since the package writes some of those so; activations,
    pooling and residual sums are "other".
    """
    device, batches = trainer.device, list(batches)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with trainer.fast.running(device), ExitStack() as stack:
        for context in _label(trainer):
            stack.enter_context(context)
        trainer.start_epoch(trainer.config.train.learning_rate, 1.0)
        trainer.step(batches[0])
        wait(device)
        with profile(activities=activities) as found:
            for rows in batches[1:]:
                trainer.step(rows)
            wait(device)
    events = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CPU]
    totals = dict.fromkeys(PARTS, 0.0)
    forward = _find_forward(events)
    for event in events:
        spent = event.self_cpu_time_total
        if cuda:  # a label's own span is no kernel
            spent = sum(k.duration for k in event.kernels if k.name != event.name)
        if spent:
            totals[_classify(event, forward)] += spent
    return {part: 1e-6 * value / (len(batches) - 1) for part, value in totals.items()}


def _label(trainer: Trainer) -> list:
    """Contexts that name the parts of a step which are functions of the package."""

    def name(label: str, owner: object, function: str):
        inner = getattr(owner, function)

        def named(*args, **kwargs):
            with record_function(label):
                return inner(*args, **kwargs)

        return mock.patch.object(owner, function, named)

    return [
        *(name("data", PairedData, each) for each in ("batch", "draw", "targets")),
        name("losses", trainer.learner.method, "forward"),
        name("losses", trainer.tally, "add"),
        name("optimiser", trainer.optimiser, "step"),
    ]


def _find_forward(events: list) -> dict[int, str]:
    """Number of a node of the backward pass → the label under which its forward operation ran."""
    found = {}
    for event in events:
        if event.sequence_nr >= 0 and not any(x.startswith(BACKWARD) for x in _chain(event)):
            found[event.sequence_nr] = _find_label(event)
    return found


def _chain(event) -> list[str]:
    """Names of an event and of those that it ran in, from the inside out."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _find_label(event) -> str:
    return next((name for name in _chain(event) if name in PARTS), "")


def _classify(event, forward: dict[int, str]) -> str:
    if label := _find_label(event):
        return label
    names, node = _chain(event), event
    while node is not None:
        if node.name.startswith(BACKWARD) and forward.get(node.sequence_nr) == "losses":
            return "losses"
        node = node.cpu_parent
    for part, words in NAMES.items():
        if any(word in name for word in words for name in names):
            return part
    return "other"
