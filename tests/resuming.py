"""A training that is cut, each time written to disk, and gone on with by new objects."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fdlab.training.checkpoint import read_checkpoint, write_checkpoint
from fdlab.training.loop import Course, Trained, train_in_step


class Cut(Exception):
    pass


def train_in_pieces(make: Callable[[], Course], cuts: list[int]) -> Trained:
    """cuts: steps after which the training ends as if it were killed once its file is written."""
    path, before = None, 0
    for cut in [*cuts, None]:
        course = make()
        if path is not None:
            torch.manual_seed(12345)  # a new process has other random numbers
            course.load(*read_checkpoint(path))
            assert course.step == before

        def rest(course=course, cut=cut):
            if course.step == cut:  # where a keeper writes too, among the training's own numbers
                raise Cut(write_checkpoint("0" * 16, course, {}), cut)

        try:
            train_in_step([course], rest)
        except Cut as end:
            path, before = end.args
    return course.finish()


def assert_same(one: Trained, two: Trained, about: str) -> None:
    """Every number that a training leaves, bit for bit."""
    assert one.curves == two.curves, about
    assert one.chosen == two.chosen, about
    assert one.weights.keys() == two.weights.keys()
    pairs = [(one.weights[moment], two.weights[moment]) for moment in one.weights]
    for first, second in [*pairs, (one.predictions, two.predictions), (one.probes, two.probes)]:
        assert first.keys() == second.keys(), about
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0, atol=0, equal_nan=True)
