"""Several processes that train one run: what they say is what one process says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from joined import (
    agree_on_things,
    build_norm,
    change,
    normalise,
    normalise_parts,
    run_together,
    train_all,
)

from fdlab.core import paths, processes
from fdlab.core.errors import UserError
from fdlab.studies.plan import make_plan
from fdlab.training.checkpoint import VARIABLE, list_checkpoints
from fdlab.training.ensure import ensure_run
from fdlab.training.runs import complete

CLOSE = 1e-9  # in float64; 3e-12 was measured


def test_batch_norm_over_processes_is_that_of_the_whole_batch():
    """Outputs, gradients, running statistics, over unequal parts and an empty one."""
    random = np.random.default_rng(0)
    cases = []
    for kind, options, shape, sizes in (
        ("2d", {}, (7, 3, 4, 5), [4, 3]),
        ("2d", {"momentum": None}, (6, 3, 2, 2), [6, 0]),
        ("1d", {"affine": False, "eps": 0.1}, (5, 3, 6), [1, 4]),
        ("1d", {}, (2, 3), [1, 1]),  # one value per channel and process
        ("own", {"momentum": 0.3}, (2, 3, 1, 1), [1, 1]),
        ("2d", {}, (3, 3, 1, 2), [0, 3]),
    ):
        x, pull = random.normal(3, 2, size=shape), random.normal(size=shape)
        cases.append((kind, options, x, pull, sizes))
    parts = run_together(2, normalise_parts, cases)
    for (kind, options, x, pull, _), *found in zip(cases, *parts, strict=True):
        norm = build_norm(kind, **options)
        whole = normalise(norm, torch.from_numpy(x), torch.from_numpy(pull))
        assert {name for each in found for name in each} == set(whole)
        for name, value in whole.items():
            mine = [each[name] for each in found]
            if name.startswith("same"):
                joined = [mine[0], mine[1]]
            elif name.startswith("sum"):
                joined = [mine[0] + mine[1]]
            else:
                joined = [np.concatenate(mine)]
            for each in joined:
                np.testing.assert_allclose(each, value, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("size", "total"), [(2, 5), (3, 2)])
def test_what_processes_tell_each_other(size, total):
    found = run_together(size, agree_on_things, total)
    rows = np.arange(total, dtype=float)
    slope = 2 * ((rows**2).sum() - 50) * 2 * rows + 6 * 3 * rows**2
    for rank, each in enumerate(found):
        assert each["shared"] == {"step": 3, "names": ["ä", 0]}
        assert each["nothing"] == ("", False) and each["due"] == ("", True)
        assert each["reason"] == ("SIGTERM", False)  # the lowest rank's
        assert each["decided"] == 0
        assert each["gathered"] == ["read"]
        np.testing.assert_array_equal(each["feature"], rows[:, None] ** 2)
        # A gradient is averaged over the processes, so each part's comes that many times.
        np.testing.assert_allclose(each["gradient"], size * np.array_split(slope, size)[rank])
        assert each["code"] == 2
    views = [each["view"] for each in found if "view" in each]
    assert sum(count for count, _ in views) == total and len(views) == min(size, total)
    for name, width in {"corner": 1, "box": 5, "colour": 3, "frames": 4}.items():
        joined = np.concatenate([view[name] for _, view in views], axis=int(name == "corner"))
        assert joined.size == total * width * (1 + (name == "corner"))
        np.testing.assert_array_equal(joined.ravel(), np.arange(joined.size))
    said = "".join(each["said"] for each in found)
    assert said.startswith("fdlab: error: fdlab runs does not run as one of") and (
        said.count("\n") == 1
    )


def assert_close(one: dict, two: dict, about: str, close: float = CLOSE) -> None:
    assert one.keys() == two.keys(), about
    for name, value in one.items():
        scale = max(np.abs(value).max(), 1e-3)  # what should be 0 is rounding alone
        near = close if value.dtype == np.float64 else 1e-6  # predictions are kept in float32
        np.testing.assert_allclose(
            two[name], value, rtol=near, atol=near * scale, err_msg=f"{about}: {name}"
        )


def test_two_processes_train_what_one_trains(plan):
    """Losses that compare samples, memories, peers, a drifting teacher, two views, maps."""
    cases = {
        "fdcmkd": ("image", "audio"),
        "rkd": ("audio", "image"),
        "crd": ("audio", "image"),
        "dml": ("audio", "image"),
        "ofd_released": ("audio", "image"),
        "mlkd": ("image", "audio"),
        "afd": ("image", "audio"),
    }
    configs = {}
    for name, (student, teacher) in cases.items():
        config = complete(plan.configure(student, name, teacher))
        configs[name] = change(config, batch_size=67)  # 67 and 66 of 133 samples
    one = train_all(configs)
    for found in run_together(2, train_all, configs):
        for name in configs:
            assert_close(one[name], found[name], name)


def test_a_process_without_a_part_of_the_last_batch(plan):
    """Batches of 2 leave nothing of a gradient but rounding where a map has one position."""
    recipe = {"batch_size": 131, "learning_rate": 0.001, "epochs": 1}
    configs = {"none": change(complete(plan.configure("audio")), **recipe)}
    one = train_all(configs)
    for found in run_together(3, train_all, configs):  # of the last 2 rows the third has none
        assert_close(one["none"], found["none"], "none", close=1e-6)


def test_what_is_not_made_for_several_is_refused(monkeypatch, plan):
    for name, value in zip(processes.VARIABLES, ["1", "1", "2", "here", "1"], strict=True):
        monkeypatch.setenv(name, value)
    from fdlab.training.pool import ensure_runs

    with pytest.raises(UserError, match="does not run as one of 2 processes"):
        ensure_runs([plan.configure("audio")])
    with (
        pytest.raises(UserError, match=r"cuda:1.*each of 2 processes takes a device of its own"),
        processes.joining("cuda:1"),
    ):
        pass


# --- torchrun


def start_torchrun(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "fdlab", "train", "--preset", "smoke"]
    return subprocess.Popen(
        [*command, "--device", "cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_torchrun_trains_one_run_that_one_process_finds(home, plan):
    process = start_torchrun("--direction", "audio2image", "--method", "kd")
    try:
        said, errors = process.communicate(timeout=400)
    finally:
        end(process)
    assert process.returncode == 0, errors
    assert said.count("fdlab: run at ") == 1 == said.count("67 test samples")
    assert not errors.strip(), errors
    folders = sorted(path for path in paths.runs().iterdir() if path.is_dir())
    made = {path: path.stat().st_mtime_ns for path in folders}
    run = ensure_run(plan.configure("image", "kd", "audio"))
    assert run.folder in folders and len(folders) == 2  # the other is its teacher
    assert {path: path.stat().st_mtime_ns for path in folders} == made
    assert run.record.processes == 2 and run.record.device.startswith("2 × ")
    assert f"fdlab: run at {run.folder}" in said
    assert not list(paths.checkpoints().glob("*")) if paths.checkpoints().is_dir() else True


def test_sigterm_stops_all_with_one_checkpoint_from_which_one_goes_on(home, plan, monkeypatch):
    config = make_plan("digits", "smoke", seeds=[0], epochs=16).configure("audio")
    monkeypatch.setenv(VARIABLE, "0")
    process = start_torchrun("--student", "audio", "--epochs", "16")
    try:
        limit = time.monotonic() + 300
        while not list(paths.checkpoints().glob("*/*.safetensors")):
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=200)
    finally:
        end(process)
    monkeypatch.delenv(VARIABLE)
    (folder,) = paths.checkpoints().iterdir()
    step, path = list_checkpoints(folder.name)[0]
    assert "fdlab: run at" not in said
    lines = [line for line in errors.splitlines() if line.startswith("fdlab:")]
    assert len(lines) == 1 and f"stopped (SIGTERM) at step {step} of 48" in lines[0]
    assert str(path) in lines[0]
    run = ensure_run(config)
    assert [session.first for session in run.record.sessions] == [0, step]
    devices = [session.device for session in run.record.sessions]
    assert devices == [f"2 × {run.record.device}", run.record.device]
    assert run.record.processes == 1 and len(run.record.curves["lr"]) == 16
