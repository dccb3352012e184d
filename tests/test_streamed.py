"""Rows that are read from disk ahead of time are the rows of the array."""

import numpy as np
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.data import paired
from fdlab.data.paired import PairedData
from fdlab.data.streamed import Streamed

CPU = torch.device("cpu")
ARRAY = np.arange(60, dtype=np.float32).reshape(20, 3)


def split(count: int = 20, size: int = 6) -> list[torch.Tensor]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return list(order.split(size))


@pytest.mark.parametrize("ahead", [0, 1, 3, 9])
def test_batches_come_as_they_are_asked_for(ahead):
    source = Streamed(ARRAY, CPU, lambda rows: 2 * rows, ahead)
    for _ in range(2):  # two epochs
        batches = split()
        source.expect(batches)
        for rows in batches:
            assert torch.equal(source[rows], torch.from_numpy(2 * ARRAY[rows.numpy()]))
    assert not source.plans


def test_two_readers_each_have_their_order_and_a_batch_may_be_left_out():
    source = Streamed(ARRAY, CPU, ahead=2)
    one, two = split(), split(size=4)
    source.expect(one, "one")
    source.expect(two, "two")
    asked = [one[0], two[0], two[1], one[2], torch.tensor([7]), two[4], one[3]]
    for rows in asked:
        assert torch.equal(source[rows], torch.from_numpy(ARRAY[rows.numpy()]))
    assert not source.plans


def test_what_was_left_of_a_plan_goes_with_the_next():
    source = Streamed(ARRAY, CPU, ahead=2)
    for _ in range(3):
        batches = split()
        source.expect(batches)
        assert torch.equal(source[batches[1]], torch.from_numpy(ARRAY[batches[1].numpy()]))
    assert set(source.plans) == set(map(id, batches[2:]))


def test_no_more_than_asked_for_is_read_ahead():
    read = []
    source = Streamed(ARRAY, CPU, lambda rows: read.append(len(rows)) or rows, ahead=2)
    batches = split(size=2)
    source.expect(batches)
    source[batches[0]]
    source.reader.shutdown(wait=True)
    assert len(read) == 3


def test_an_error_of_reading_reaches_the_one_who_asks():
    def fail(rows):
        raise UserError("the disk is gone")

    source = Streamed(ARRAY, CPU, fail, ahead=2)
    batches = split()
    source.expect(batches)
    with pytest.raises(UserError, match="the disk is gone"):
        source[batches[0]]


def test_streamed_inputs_are_the_resident_ones(digits):
    names = ["audio", "image", "text"]
    held, sent = (PairedData.load(digits, names, CPU, 16, resident=x) for x in (True, False))
    assert (held.is_resident, sent.is_resident) == (True, False)
    for name in names:
        for batch in held.rows["test"].split(64):
            views = [
                d.draw(name, len(batch), torch.Generator().manual_seed(1)) for d in (held, sent)
            ]
            one, two = (d.batch(name, batch, v) for d, v in zip((held, sent), views, strict=True))
            assert torch.equal(one, two)
            assert torch.equal(held.targets(name, batch), sent.targets(name, batch))


def test_the_choice_follows_the_free_memory(digits, monkeypatch):
    size = sum(digits.read(name).nbytes for name in ("audio", "image"))
    for free, resident in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(paired, "count_free_bytes", lambda device, free=free: free)
        assert PairedData.load(digits, ["audio", "image"], CPU).is_resident == resident
