"""One run over several processes, as torchrun starts them: who is who, and what they agree on.

Each of them runs the same program; the first (rank 0) alone speaks and writes files. They tell each
other numbers and JSON through a group of their own on the host, so that a device is never waited
for; nothing that they send is a pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fdlab.core.errors import UserError

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=30)  # the first may wait for a lock while others wait for it
PACE = 10  # on CUDA, steps between two agreements, so that the device is kept busy
LOST = ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
LOSS = "a process of this training was lost; the same command goes on from the last checkpoint"
SPOKE = "fdlab/spoke"


@dataclass(frozen=True)
class _Group:
    rank: int
    count: int
    pace: int
    side: Any  # a process group of gloo


_group: _Group | None = None
_store: Any = None


def count_started() -> int:
    """Processes that torchrun started for this command; 1 without it."""
    if not all(os.environ.get(name) for name in VARIABLES):
        return 1
    return int(os.environ["WORLD_SIZE"])


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return count_started() == 1 or os.environ["RANK"] == "0"


def count() -> int:
    """Processes that train together at the moment; 1 for one alone."""
    return _group.count if _group else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return _group.rank if _group else 0


def require_one(what: str) -> None:
    """Refuse what is not made for several processes."""
    if count_started() > 1:
        raise UserError(
            f"{what} does not run as one of {count_started()} processes: expected `fdlab train` "
            "under torchrun, and everything else without it"
        )


@contextmanager
def joining(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, where it did; yields the name of the own device.

    device: "auto", "cpu" or "cuda". On CUDA each process takes the device of its LOCAL_RANK and
    they exchange tensors through nccl, on the CPU through gloo.
    """
    global _group
    if count_started() == 1:
        yield device
        return
    import torch
    from torch import distributed

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"device is {device!r}: expected auto, cpu or cuda, as each of {count_started()} "
            "processes takes a device of its own"
        )
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    own = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    if cuda:
        _require_device(torch.cuda.device_count(), int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    number, size = int(os.environ["RANK"]), count_started()
    distributed.init_process_group(
        "nccl" if cuda else "gloo",
        store=distributed.PrefixStore("fdlab", _open_store()),
        rank=number,
        world_size=size,
        device_id=torch.device(own) if cuda else None,
    )
    side = distributed.new_group(backend="gloo", timeout=PATIENCE)
    _group = _Group(number, size, PACE if cuda else 1, side)
    try:
        yield own
        wait()  # whoever ends first would take the store, or torchrun's patience, along
        distributed.destroy_process_group()
    finally:
        # After an error the groups are left to the end of the process: others may be lost, and
        # taking leave of them could wait for ever.
        _group = None


def _require_device(visible: int, local: int) -> None:
    if local >= visible:
        raise UserError(
            f"{count_started()} processes, but {visible} CUDA devices are visible: expected "
            "--nproc-per-node of at most as many, or --device cpu"
        )


def share(value: Any) -> Any:
    """The first process's value, which fits into JSON, at all of them; others' are ignored."""
    if _group is None:
        return value
    return _send(value, 0)


def decide(ask: Callable[[], Any]) -> Any:
    """What the first process finds, at all of them; the others do not look for themselves."""
    return share(ask() if rank() == 0 else None)


def wait() -> None:
    """Until all have come here."""
    share(None)


def agree(reason: str, due: bool) -> tuple[str, bool]:
    """A reason to stop, if any of them has one, of the lowest rank that has; and whether the first
    says that something is due."""
    if _group is None:
        return reason, due
    import torch
    from torch import distributed

    # The lowest rank with a reason wins: a maximum of count - rank, 0 for none.
    mine = (_group.count - _group.rank) if reason else 0
    flags = torch.tensor([mine, int(due and _group.rank == 0)])
    distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=_group.side)
    most, is_due = flags.tolist()
    return _send(reason, _group.count - most) if most else "", bool(is_due)


def has_come(step: int) -> bool:
    """Whether the processes agree after this step, see `PACE`."""
    return _group is None or step % _group.pace == 0


def _send(value: Any, source: int) -> Any:
    import torch
    from torch import distributed

    mine = _group.rank == source
    content = torch.tensor(list(json.dumps(value).encode()) if mine else [], dtype=torch.uint8)
    size = torch.tensor([len(content)])
    distributed.broadcast(size, source, group=_group.side)
    if not mine:
        content = torch.empty(int(size), dtype=torch.uint8)
    distributed.broadcast(content, source, group=_group.side)
    return json.loads(bytes(content.tolist()))


def speaks() -> bool:
    """Whether this process is to say what went wrong: the first that asks, of all of them.

    One alone always. So an error that all of them meet is said once, and one that a single process
    meets is said by it, not by those that lose it.
    """
    if count_started() == 1:
        return True
    try:
        return _open_store().add(SPOKE, 1) == 1
    except RuntimeError:  # the store is gone, and with it whoever kept it
        return is_first()


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process was lost."""
    from torch import distributed

    known = isinstance(error, (distributed.DistError, distributed.DistBackendError))
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in LOST))


def _open_store():
    """What torchrun keeps for its processes, whether they have joined or not."""
    global _store
    if _store is None:
        from torch.distributed.rendezvous import rendezvous

        _store, _, _ = next(iter(rendezvous("env://")))
    return _store
