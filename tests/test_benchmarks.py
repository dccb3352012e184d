"""The training benchmark: its file's schema, its plain loop against the package, its counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks import pairs
from benchmarks.bounds import count_bytes, count_flops
from benchmarks.ours import Case
from benchmarks.plain import Files, PlainLoop
from benchmarks.shapes import (
    AUDIO,
    DIRECTIONS,
    IMAGE,
    SHAPES,
    build_events,
    make_store,
    write_files,
)
from benchmarks.training import main
from fdlab.studies.timings import read_timing
from fdlab.training.fast import FEATURES, Fast

CPU = torch.device("cpu")
ROW = {
    "name": str,
    "kind": str,
    "features": list,
    "method": str,
    "direction": str,
    "samples_per_second": float,
    "low": float,
    "high": float,
    "repeats": int,
    "ratio": (float, type(None)),
    "floor_share": (float, type(None)),
    "peak_bytes": (int, type(None)),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A tiny case without augmentation, and the folder with its files."""
    shape = replace(SHAPES["small"].shrink(), augment="", stored=32)
    folder = tmp_path_factory.mktemp("case")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(folder / "home"))
        built = build_events(shape)
        make_store(shape, built)
        write_files(folder / "files", built)
        yield Case.open(shape, CPU), folder / "files"


def test_a_quick_run_writes_its_shape_and_keeps_the_others(tmp_path):
    out, threads = tmp_path / "training.json", torch.get_num_threads()
    out.write_text(json.dumps({"shapes": {"cremad": "kept", "digits": "replaced"}}))
    try:
        main(["--quick", "--device", "cpu", "--shapes", "digits", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    assert found["kind"] == "cpu" and found["shapes"].pop("cremad") == "kept"
    out.write_text(json.dumps(found))
    assert set(read_timing(out).shapes) == {"digits"}  # as the page of these files reads it
    digits = found["shapes"]["digits"]
    assert digits["inputs"] == {"audio": [1, 33, 33], "image": [1, 32, 32]}
    assert (digits["batch"], digits["samples"], digits["width"]) == (8, 20, 8)
    rows = digits["rows"]
    for row in rows:
        for name, kind in ROW.items():
            assert isinstance(row[name], kind), (row["name"], name)
        assert 0 < row["low"] <= row["samples_per_second"] <= row["high"] and row["repeats"] > 0
        assert set(row["features"]) <= set(FEATURES)
        assert row["direction"] in ("both", *DIRECTIONS)
    assert {row["kind"] for row in rows} == {"plain", "ours", "floor", "bound"}
    rates = {(r["name"], r["method"], r["direction"]): r["samples_per_second"] for r in rows}
    assert len(rates) == len(rows)
    plain = max(r["samples_per_second"] for r in rows if r["kind"] == "plain")
    for row in rows:
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["samples_per_second"] / plain, rel=1e-3)
    forms = [r["features"] for r in rows if r["name"].startswith("+ ") and r["ratio"]]
    assert forms[0] == ["resident"]
    assert all(set(one) <= set(two) for one, two in pairwise(forms))
    assert sum(part["share"] for part in digits["profile"]) == pytest.approx(1, abs=1e-3)
    assert [pack["size"] for pack in digits["pack"]] == [1, 2] and digits["pack"][0]["ratio"] == 1


def test_plain_loop_and_package_learn_alike(case):
    """Float32, the same rows in the same order, nothing augmented: losses of the first steps."""
    case, folder = case
    data, trainers, networks = case.load(), {}, {}
    for direction in DIRECTIONS:
        trainer = trainers[direction] = case.build_trainer(direction, Fast())
        learner = trainer.learner
        networks[direction] = (trainer.read_teacher.model, learner.student, learner.method)
        trainer.learner.train()
    labels = data.labels.numpy()
    loop = PlainLoop(case.shape, folder, labels, data.scale[IMAGE], networks, CPU)
    for student in loop.students.values():
        student.train()
    for rows in data.rows["train"].split(case.shape.batch)[:2]:
        inputs = {name: data.batch(name, rows) for name in (AUDIO, IMAGE)}
        plain = loop.step(inputs, data.labels[rows])
        for direction, trainer in trainers.items():
            terms = trainer.compare(rows)[0]
            loss = sum(term.item() for term in terms.values())
            assert loss == pytest.approx(plain[direction], rel=1e-4)
            trainer.update(terms)


def test_files_hold_what_the_store_holds(case):
    case, folder = case
    data = case.load()
    rows = data.rows["test"]
    files = Files(
        folder, case.shape, rows.tolist(), data.labels[rows].tolist(), data.scale[IMAGE], ""
    )
    for place, row in enumerate(rows):
        sound, picture, label = files[place]
        assert torch.equal(sound, data.batch(AUDIO, row[None])[0])
        apart = (picture - data.batch(IMAGE, row[None])[0]).abs().mean()
        assert apart < 0.25 * picture.std() and label == data.labels[row]  # a JPEG's error


def test_augmented_files_are_standardised_and_random(case):
    case, folder = case
    scale = case.load().scale[IMAGE]
    for augment in ("crop_flip", "shift"):
        files = Files(folder, case.shape, [0], [0], scale, augment)
        one, two = files[0][1], files[0][1]
        assert one.shape == case.shape.image and one.dtype == torch.float32
        assert not torch.equal(one, two) or augment == "shift"
    moved = [Files(folder, case.shape, [0], [0], scale, "shift")[0][1] for _ in range(20)]
    assert len({tuple(x.flatten().tolist()) for x in moved}) > 5  # of 25 places


def test_flops_of_a_convolution_step_are_the_closed_form():
    count, inside, outside, height, width, kernel = 2, 3, 8, 10, 12, 3
    layer = torch.nn.Conv2d(inside, outside, kernel, padding=1, bias=False)
    inputs = torch.randn(count, inside, height, width, requires_grad=True)
    product = 2 * count * outside * inside * kernel**2 * height * width
    assert count_flops(lambda: layer(inputs)) == product
    assert count_flops(lambda: layer(inputs).sum().backward()) == 3 * product


def test_flops_of_ffts_are_counted():
    rows, length = 4, 64
    values, grid = torch.randn(rows, length), torch.randn(3, 8, 16)
    one_way = rows * 5 * length * math.log2(length)
    assert count_flops(lambda: torch.fft.rfft(values)) == one_way
    assert count_flops(lambda: torch.fft.irfft(torch.fft.rfft(values), n=length)) == 2 * one_way
    assert count_flops(lambda: torch.fft.rfft2(grid)) == 3 * 5 * 128 * math.log2(128)


def test_bytes_are_those_read_and_written():
    one, two = torch.randn(2, 30, 20)
    size = one.numel() * 4
    assert count_bytes(lambda: one + two) == 3 * size
    assert count_bytes(lambda: one.t()[3:].view_as(one.t()[3:])) == 0
    assert count_bytes(lambda: one.half()) == size + size // 2
    assert count_bytes(lambda: one.add_(two)) == 3 * size
    assert count_bytes(lambda: one.copy_(two)) == 2 * size
    assert count_bytes(lambda: torch._foreach_add_([one, two], [two, one])) == 6 * size
    row = torch.randn(20)
    assert count_bytes(lambda: one + row.expand(30, 20)) == 2 * size + 80
    layer = torch.nn.Linear(20, 5, bias=False)
    forward = 4 * np.array([30 * 20, 20 * 5, 30 * 5]).sum()
    with torch.no_grad():
        assert count_bytes(lambda: layer(one)) == forward


def test_a_pair_is_timed_beside_its_floor(tmp_path):
    out, threads = tmp_path / "pairs.json", torch.get_num_threads()
    try:
        pairs.main(["--quick", "--device", "cpu", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    rates = {(row["kind"], row["method"]): row for row in found["rows"]}
    assert set(rates) == {(k, m) for k in ("ours", "floor") for m in ("none", "kd", "figkd")}
    for (kind, method), row in rates.items():
        assert 0 < row["low"] <= row["samples_per_second"] <= row["high"]
        if kind == "ours":
            floor = rates["floor", method]["samples_per_second"]
            assert row["floor_share"] == pytest.approx(row["samples_per_second"] / floor, rel=2e-3)
    assert (found["pair"], found["samples"], found["target"]) == ("resnet14-resnet8", 256, 0.6)
