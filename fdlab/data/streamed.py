"""An array too large for the device: its rows are read from disk, and sent ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

AHEAD = 3  # batches that are read before they are asked for


class Streamed:
    """Rows of an array on disk, indexed like a tensor on `device`, one axis alone.

    array: (N, …) memory map. change: what happens to the rows that were read, such as shrinking
    images. ahead: how many of the batches that `expect` names are read in advance by a thread; 0 on
    the CPU, whose cores have better things to do. On CUDA rows go through pinned memory and a
    stream of their own, so that copying overlaps with arithmetic.
    """

    def __init__(
        self,
        array: np.ndarray,
        device: torch.device,
        change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
        ahead: int | None = None,
    ):
        self.array, self.device, self.change = array, device, change
        self.cuda = device.type == "cuda"
        self.ahead = (AHEAD if self.cuda else 0) if ahead is None else ahead
        self.reader = ThreadPoolExecutor(1) if self.ahead else None
        self.stream = torch.cuda.Stream(device) if self.cuda else None
        self.plans: dict[int, _Plan] = {}  # id of a batch's row numbers → the plan it belongs to
        self.latest: dict[Hashable, _Plan] = {}

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n,) row numbers → (n, …) on the device."""
        plan = self.plans.get(id(rows))
        values, copied = self._send(rows) if plan is None else plan.take(rows)
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            values.record_stream(stream)
        return values

    def expect(self, batches: Iterable[torch.Tensor], user: Hashable = None) -> None:
        """Batches that a user will ask for in this order, by these very tensors; what is left of
        those that it named before is dropped."""
        if self.reader is not None:
            if user in self.latest:
                self.latest[user].drop()
            self.latest[user] = _Plan(self, list(batches))

    def _send(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """The rows on the device, and when their copy is done."""
        values = torch.from_numpy(self.change(np.asarray(self.array[rows.cpu().numpy()])))
        if not self.cuda:
            return values, None
        with torch.cuda.stream(self.stream):
            sent = values.pin_memory().to(self.device, non_blocking=True)
            return sent, self.stream.record_event()


class _Plan:
    """Batches in the order of their use, the first few of which are on their way."""

    def __init__(self, owner: Streamed, batches: list[torch.Tensor]):
        self.owner, self.left = owner, deque(batches)
        self.going: deque[tuple[torch.Tensor, Future]] = deque()
        owner.plans |= dict.fromkeys(map(id, batches), self)
        for _ in range(owner.ahead):
            self._start_next()

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """What was read for `rows`; batches before it were left out by their user."""
        while True:
            self._start_next()
            due, future = self.going.popleft()
            self._forget(due)
            if due is rows:
                return future.result()

    def drop(self) -> None:
        for rows in (*self.left, *(due for due, _ in self.going)):
            self._forget(rows)
        self.left.clear()
        self.going.clear()

    def _forget(self, rows: torch.Tensor) -> None:
        if self.owner.plans.get(id(rows)) is self:  # another user may have named it since
            del self.owner.plans[id(rows)]

    def _start_next(self) -> None:
        if self.left:
            rows = self.left.popleft()
            self.going.append((rows, self.owner.reader.submit(self.owner._send, rows)))
