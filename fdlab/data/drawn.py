"""What the data sets that are made here have in common: draws, splits, and work side by side."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np


def draw_generator(seed: int, event: int, purpose: int) -> np.random.Generator:
    """A generator of its own for each event and purpose, so that order does not matter.

    No purpose is 0: numpy seeds [s, e] and [s, e, 0] alike.
    """
    return np.random.default_rng([seed, int(event), purpose])


def split_evenly(
    labels: np.ndarray, held_out: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Split of every event, uint8 (N,), each stratified by label; held_out: events of the
    validation and the test split, the rest is for training."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    validation, test = held_out
    split = np.zeros(len(labels), np.uint8)
    chosen = order[_spread(len(order), validation + test)]
    split[chosen] = 1
    split[chosen[_spread(len(chosen), test)]] = 2
    return split


def choose_events(labels: np.ndarray, split: np.ndarray, limit: int) -> np.ndarray:
    """Ascending event numbers: all, or `limit` of them in the proportions of split and label."""
    order = np.lexsort((labels, split))
    return np.sort(order[_spread(len(order), limit or len(order))])


def work_all(
    work: Callable[[Any], Any], tasks: Sequence[Any], workers: int, chunk: int
) -> Iterator:
    """`work` of every task, in their order, by `workers` processes; one means this one."""
    if workers == 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, tasks, chunksize=chunk)


def _spread(total: int, count: int) -> np.ndarray:
    """Mask (total,) with `count` true values as evenly spaced as can be."""
    steps = np.arange(total + 1) * count // total
    return np.diff(steps) == 1
