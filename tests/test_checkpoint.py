"""Checkpoints: what was interrupted goes on bit for bit, and damage is named."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from resuming import assert_same, train_in_pieces
from teaching import CLASSIFIERS, CPU, build_teacher

from fdlab.core import files, paths, stop
from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.training import checkpoint, ensure, runs
from fdlab.training.ensure import ensure_pack, ensure_run
from fdlab.training.loop import Course, train
from fdlab.training.runs import complete, find_name


@pytest.fixture(autouse=True)
def home(home, monkeypatch):
    """Every test has its own, and writes checkpoints as seldom as a command does."""
    monkeypatch.delenv(checkpoint.VARIABLE, raising=False)
    return home


def cut_and_compare(data, config, cuts):
    def make():
        return Course(config, data, build_teacher(data, config.teacher), CPU)

    whole = train(config, data, build_teacher(data, config.teacher), CPU)
    assert_same(whole, train_in_pieces(make, cuts), config.label)


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_every_method_goes_on_bit_for_bit(plan, data, method):
    """Cut inside the first epoch, at its very end, and inside the second."""
    teacher = "image" if METHODS[method].needs else None
    cut_and_compare(data, complete(plan.configure("audio", method, teacher)), [1, 3, 5])


@pytest.mark.parametrize(
    "change",
    [
        {"student": "text", "teacher": "image", "method": "kd"},  # dropout
        {"student": "image", "teacher": "audio", "method": "fdcmkd", "probes": 12, "epochs": 5},
        {"student": "audio", "teacher": "image", "method": "kd", "teacher_kind": "shuffled"},
        {"student": "audio", "teacher": "text", "method": "feat", "teacher_kind": "constant"},
        {"student": "audio", "teacher": "image", "method": "crd", "options": {"negatives": 40}},
        {"optimiser": "adam", "learning_rate": 0.001, "final_learning_rate": 0.001},
        {"momentum": 0.0},
        {"on_nonfinite": "skip"},
    ],
)
def test_every_part_of_a_run_goes_on_bit_for_bit(plan, data, change):
    """Dropout's numbers, probes, controls, sampled negatives, other optimisers."""
    fields = {field.name for field in dataclasses.fields(plan.train)}
    recipe = {name: change.pop(name) for name in list(change) if name in fields}
    config = plan.configure(**{"student": "audio", "method": "none"} | change)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **recipe))
    cut_and_compare(data, complete(config), [2, 4, 13][: 2 + (config.train.epochs > 4)])


def test_a_drifting_teachers_norms_go_on(plan, data):
    config = complete(plan.configure("audio", "ofd_released", "image"))
    cut_and_compare(data, config, [2])


# --- runs on disk


def describe(run) -> tuple:
    """All of a run that has to be the same at every repeat."""
    return json.dumps(run.record.outcome, sort_keys=True), run.record.fast, run.record.versions


@pytest.fixture(scope="module")
def config(plan):
    return plan.configure("audio", "fdcmkd", "image", options={"cutoff": 0.25})


@pytest.fixture
def whole(config, home, tmp_path_factory, monkeypatch):
    """The run, never interrupted, trained elsewhere."""
    other = tmp_path_factory.mktemp("whole")
    (other / "outputs").mkdir()
    (other / "outputs" / "stores").symlink_to(paths.stores().resolve())
    with monkeypatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(other))
        found = describe(ensure_run(config))
        ensure_teacher = other / "outputs" / "runs"
        shutil.copytree(ensure_teacher, home / "outputs" / "runs")
        shutil.rmtree(home / "outputs" / "runs" / locate(config))
    return found


def locate(config) -> str:
    return find_name(complete(config))


def stop_after(monkeypatch, steps: int, reason: str = "SIGTERM"):
    """Ask for a stop at the end of the step of this number, once."""
    count = 0

    def find_reason():
        nonlocal count
        count += 1
        return reason if count == steps + 1 else ""  # the first look is before the first step

    monkeypatch.setattr(stop, "find_reason", find_reason)


def test_a_stopped_run_says_where_it_stands_and_goes_on(config, whole, home, monkeypatch, capsys):
    stop_after(monkeypatch, 4)
    with pytest.raises(stop.Stopped) as stopped:
        ensure_run(config)
    path = next((home / "outputs" / "checkpoints" / locate(config)).iterdir())
    assert str(stopped.value) == (
        f"{config.label} stopped (SIGTERM) at step 4 of 6 (epoch 2 of 2); the same command goes on "
        f"from there, checkpoint {path}"
    )
    run = ensure_run(config)
    assert f"{config.label} goes on from step 4 of 6 (epoch 2 of 2)" in capsys.readouterr().err
    assert describe(run) == whole
    assert [session.first for session in run.record.sessions] == [0, 4]
    assert not path.parent.exists()


def test_the_record_says_what_is_needed_to_trust_it(config, whole, home):
    run = ensure_run(config)
    record = run.record.as_dict()
    assert record["package"] and len(record["code"]) == 16 == len(record["fingerprint"])
    assert record["config"]["seed"] == 0 and record["config"]["teacher_seed"] == 0
    assert len(record["data"]) == 16 and record["device"] and record["versions"]["torch"]
    (session,) = run.record.sessions
    assert session.command and session.started <= run.record.finished
    assert session.seconds == run.record.seconds > 0


def test_two_checkpoints_are_kept_and_gone_when_the_run_is_there(config, whole, home, monkeypatch):
    monkeypatch.setenv(checkpoint.VARIABLE, "0")
    seen = []
    kept = checkpoint.write_checkpoint

    def write(*given):
        path = kept(*given)
        seen.append(sorted(int(p.name[:9]) for p in path.parent.iterdir()))
        return path

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    assert describe(ensure_run(config)) == whole
    assert seen == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]
    assert not (home / "outputs" / "checkpoints" / locate(config)).exists()


def leave_checkpoints(config, monkeypatch, steps: int) -> list[Path]:
    """Stop a run after some steps with a checkpoint after each; its files, the newest first."""
    with monkeypatch.context() as patch:
        patch.setenv(checkpoint.VARIABLE, "0")
        stop_after(patch, steps)
        with pytest.raises(stop.Stopped):
            ensure_run(config)
    found = [path for _, path in checkpoint.list_checkpoints(locate(config), "cpu")]
    assert [int(path.name[:9]) for path in found] == [steps, steps - 1]
    return found


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(
    config, whole, home, monkeypatch, capsys, harm
):
    newest, older = leave_checkpoints(config, monkeypatch, 4)
    content = bytearray(newest.read_bytes())
    if harm == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif harm == "empty":
        newest.write_bytes(b"")
    else:  # a sound file of another run, under this one's name
        other = home / "outputs" / "checkpoints" / ("f" * 16)
        shutil.copytree(older.parent, other)
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert json.loads(head["__metadata__"]["state"])["fingerprint"] == older.parent.name
        newest.unlink()
        swapped = bytes(content).replace(older.parent.name.encode(), b"f" * 16)
        name = f"000000004-cpu-{files.hashlib.sha256(swapped).hexdigest()[:16]}.safetensors"
        newest = newest.with_name(name)
        newest.write_bytes(swapped)
    capsys.readouterr()
    run = ensure_run(config)
    told = capsys.readouterr().err
    assert str(newest) in told and "goes on from step 3 of 6" in told
    assert describe(run) == whole


def test_without_a_sound_checkpoint_a_run_begins_again(config, whole, home, monkeypatch, capsys):
    for path in leave_checkpoints(config, monkeypatch, 2):
        path.write_bytes(b"nothing")
    assert describe(ensure_run(config)) == whole
    assert capsys.readouterr().err.count("does not match its checksum") == 2


def test_force_begins_again(config, whole, home, monkeypatch, capsys):
    leave_checkpoints(config, monkeypatch, 3)
    run = ensure_run(config, force=True)
    assert describe(run) == whole and len(run.record.sessions) == 1
    assert not list((home / "outputs" / "checkpoints").iterdir())


def test_on_another_kind_of_device_a_run_begins_again_and_nothing_is_lost(
    config, whole, home, monkeypatch, capsys
):
    theirs = []
    for path in leave_checkpoints(config, monkeypatch, 3):
        theirs.append(path.with_name(path.name.replace("-cpu-", "-cuda-")))
        path.rename(theirs[-1])
    leave_checkpoints(config, monkeypatch, 2)
    assert all(path.exists() for path in theirs)
    told = capsys.readouterr().err
    assert f"{theirs[0]} is of another device than cpu, where the run begins again" in told
    assert describe(ensure_run(config)) == whole


def test_after_damage_what_is_written_is_kept(config, whole, home, monkeypatch):
    """Of higher numbers are those that nobody can use."""
    for path in leave_checkpoints(config, monkeypatch, 5):
        path.write_bytes(b"nothing")
    (newest_folder(config) / ".000000005-cpu-0.safetensors.ab12cd34").touch()
    assert [p.name[:9] for p in leave_checkpoints(config, monkeypatch, 2)] == [
        "000000002",
        "000000001",
    ]
    assert len(list(newest_folder(config).iterdir())) == 2
    assert describe(ensure_run(config)) == whole


def test_a_pack_goes_on_together_and_apart(plan, digits, home, monkeypatch):
    """Checkpoints at different steps, as a kill between two of them leaves; the results of each are
    those of the runs alone."""
    configs = [plan.configure("text", seed=seed) for seed in range(3)]
    alone = [describe(ensure_run(config)) for config in configs]
    shutil.rmtree(home / "outputs" / "runs")
    with monkeypatch.context() as patch:
        patch.setenv(checkpoint.VARIABLE, "0")
        stop_after(patch, 4)
        with pytest.raises(stop.Stopped, match="3 runs stopped"):
            ensure_pack(configs)
    newest = dict(checkpoint.list_checkpoints(locate(configs[0])))[4]
    newest.unlink()
    together = ensure_pack(configs)
    assert [run.record.sessions[-1].first for run in together] == [3, 3, 3]
    assert [describe(run) for run in together] == alone
    shutil.rmtree(home / "outputs" / "runs")
    leave_checkpoints(configs[1], monkeypatch, 5)
    apart = ensure_pack(configs)
    assert [run.record.sessions[-1].first for run in apart] == [0, 5, 0]
    assert [run.record.in_step for run in apart] == [2, 1, 2]
    assert [describe(run) for run in apart] == alone


def test_cleaning_keeps_what_can_go_on(plan, config, whole, home, monkeypatch):
    (newest, older), place = leave_checkpoints(config, monkeypatch, 3), newest_folder(config)
    assert runs.clean_runs() == [] and newest.exists() and older.exists()
    kept = newest.read_bytes()
    ensure_run(config)
    place.mkdir()  # as where the process is killed once the run is in its place
    newest.write_bytes(kept)
    assert runs.clean_runs() == [place] and not place.exists()
    leave_checkpoints(plan.configure("text", seed=1), monkeypatch, 3)
    assert len(runs.clean_runs(everything=True)) > 2
    assert not list(checkpoint.list_unfinished()) and not list(runs.list_runs())


def newest_folder(config) -> Path:
    return paths.checkpoints() / locate(config)


COMMAND = ["train", "--preset", "smoke", "--student", "text", "--epochs", "20"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
def test_sigterm_ends_the_command_with_a_line_and_it_goes_on(plan, digits, home):
    code = "import sys; from fdlab.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, *COMMAND]
    environment = os.environ | {checkpoint.VARIABLE: "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((home / "outputs").glob("checkpoints/*/*.saf*")):
        time.sleep(0.01)
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == stop.EXIT_CODE, told
    assert "stopped (SIGTERM) at step" in told and "checkpoint" in told
    assert told.endswith(f"fdlab: to go on: fdlab {' '.join(COMMAND)}\n")
    (name, step, _), *others = checkpoint.list_unfinished()
    assert not others and 0 < step < 60
    longer = dataclasses.replace(plan.train, epochs=20)
    run = ensure_run(dataclasses.replace(plan.configure("text"), train=longer))
    assert run.record.fingerprint == name
    assert [session.first for session in run.record.sessions] == [0, step]
    assert run.record.sessions[0].command == f"fdlab {' '.join(COMMAND)}"


# --- write errors


class FullDisk:
    """Every write counts; the one of a number, and all after it, find the disk full."""

    def __init__(self, monkeypatch, first: int):
        self.count, self.first = 0, first
        for owner, name in (
            (os, "fsync"),
            (Path, "mkdir"),
            (Path, "replace"),
            (Path, "rename"),
        ):
            plain = getattr(owner, name)
            monkeypatch.setattr(owner, name, self.wrap(plain))
        plain = Path.open

        def opened(path, mode="r", *given, **named):
            if "w" in mode or "a" in mode:
                self.fail(path)
            return plain(path, mode, *given, **named)

        monkeypatch.setattr(Path, "open", opened)

    def wrap(self, plain):
        def write(*given, **named):
            self.fail(given[0])
            return plain(*given, **named)

        return write

    def fail(self, what) -> None:
        self.count += 1
        if self.count >= self.first:
            name = str(what) if isinstance(what, Path) else None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def test_a_full_disk_at_every_write_leaves_what_can_go_on(plan, home, monkeypatch, capsys):
    """A checkpoint after every step; the disk is full from the n-th write on, for every n; then
    there is room again, and the same call gives the same record."""
    config = plan.configure("text")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    whole = describe(ensure_run(config, force=True))
    monkeypatch.setenv(checkpoint.VARIABLE, "0")
    shutil.rmtree(home / "outputs" / "runs" / locate(config))
    folder = home / "outputs" / "runs" / locate(config)
    first, reached = 1, set()
    while True:
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, first)
            try:
                ensure_run(config)
            except (OSError, UserError) as error:
                said = str(error)
                assert "No space left on device" in said, said
            else:
                if disk.count < first:  # no write was left to fail
                    break
        told = capsys.readouterr().err
        assert folder.exists() or first == 1 or "No space left" in told + said
        run = ensure_run(config)
        assert describe(run) == whole
        reached.add(run.record.sessions[-1].first)
        shutil.rmtree(folder)
        shutil.rmtree(home / "outputs" / "checkpoints", ignore_errors=True)
        first += 1
    assert first > 20 and reached == {0, 1, 2, 3}


def test_a_full_disk_at_the_end_of_one_run_leaves_the_others(plan, home, monkeypatch):
    configs = [plan.configure("text", seed=seed) for seed in range(3)]
    alone = [describe(ensure_run(config)) for config in configs]
    shutil.rmtree(home / "outputs" / "runs")
    written = ensure._write

    def write(folder, *given):
        if folder.name == locate(configs[1]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return written(folder, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ensure, "_write", write)
        with pytest.raises(OSError, match="No space left on device"):
            ensure_pack(configs)
    there = [(home / "outputs" / "runs" / locate(config)).exists() for config in configs]
    assert there == [True, False, True]
    again = ensure_pack(configs)
    assert [describe(run) for run in again] == alone
    assert [session.first for session in again[1].record.sessions] == [0, 6]


def test_a_folder_that_cannot_be_written_is_named_and_training_goes_on(
    config, whole, home, monkeypatch, capsys
):
    """A file where the folder of the checkpoints should be."""
    (home / "outputs" / "checkpoints").write_text("in the way")
    monkeypatch.setenv(checkpoint.VARIABLE, "0")
    assert describe(ensure_run(config)) == whole
    told = capsys.readouterr().err
    assert "no checkpoint could be written: " in told and str(home / "outputs") in told
    shutil.rmtree(home / "outputs" / "runs" / locate(config))
    stop_after(monkeypatch, 3)
    with pytest.raises(stop.Stopped, match=r"no checkpoint could be written .* begins again"):
        ensure_run(config)


# --- not finite


def spoil(monkeypatch, when: set[int]):
    """Make the input not a number in the training steps of these numbers."""
    from fdlab.training.trainer import Trainer

    plain = Trainer.look

    def look(self, rows, step=None):
        mine, theirs, targets = plain(self, rows, step)
        if step in when:
            mine = dataclasses.replace(mine, logits=mine.logits * torch.nan)
        return mine, theirs, targets

    monkeypatch.setattr(Trainer, "look", look)


def test_a_loss_that_is_not_finite_names_step_term_and_checkpoint(config, whole, home, monkeypatch):
    monkeypatch.setenv(checkpoint.VARIABLE, "0")
    spoil(monkeypatch, {4})
    with pytest.raises(UserError) as error:
        ensure_run(config)
    (_, last), *_ = checkpoint.list_checkpoints(locate(config))
    assert last.name.startswith("000000004-")
    assert str(error.value) == (
        f"{config.label} diverged: loss/task is not finite at step 5 of 6 (epoch 2 of 2); the last "
        f"good checkpoint is {last}; try a learning rate below 0.05, or --on-nonfinite skip"
    )
    monkeypatch.undo()
    monkeypatch.setenv("FDLAB_HOME", str(home))
    assert describe(ensure_run(config)) == whole


@pytest.mark.parametrize("step", [4, 5])
def test_a_weight_that_is_not_finite_is_in_no_checkpoint(config, whole, home, monkeypatch, step):
    """A finite loss with another gradient; in the last step no loss would tell."""
    from fdlab.training.trainer import Trainer

    plain = Trainer.update

    def update(self, terms):
        plain(self, terms)
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == step + 1:
            next(iter(self.learner.parameters())).data[0] = torch.nan

    monkeypatch.setenv(checkpoint.VARIABLE, "0")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update)
        told = (
            rf"a weight is not finite at step {step + 1} of 6 .* good checkpoint is .*0{step}-cpu"
        )
        with pytest.raises(UserError, match=told):
            ensure_run(config)
    assert next(step for step, _ in checkpoint.list_checkpoints(locate(config))) == step
    assert describe(ensure_run(config)) == whole


def test_without_reading_back_the_epochs_end_says_the_same(plan, data, monkeypatch):
    """As on CUDA, where no step is looked at while the epoch lasts."""
    from fdlab.training import trainer

    monkeypatch.setattr(trainer, "_require_finite", lambda terms: None)
    spoil(monkeypatch, {4})
    config = complete(plan.configure("text"))
    with pytest.raises(UserError, match=r"loss/task is not finite at step 5 of 6 \(epoch 2 of 2\)"):
        train(config, data, None, CPU)


def test_a_skipped_step_is_as_if_it_had_not_been(plan, data, monkeypatch):
    """Against a training by hand that leaves the batch out."""
    recipe = dataclasses.replace(plan.train, on_nonfinite="skip", augment=False, epochs=1)
    config = dataclasses.replace(complete(plan.configure("image")), train=recipe)

    def make():
        return Course(config, data, None, CPU)

    by_hand = make()
    batches = by_hand.start_epoch()
    for number, rows in enumerate(batches):
        if number != 1:
            by_hand.trainer.step(rows)
    spoil(monkeypatch, {1})
    course = make()
    found = course
    from fdlab.training.loop import train_in_step

    train_in_step([found])
    trained = found.finish()
    assert found.skipped == 1
    wanted = by_hand.trainer.learner.copy_weights()
    for name, value in trained.weights["last"].items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)
    assert trained.curves["loss/task"] == [by_hand.trainer.tally.read()["loss/task"]]


def test_a_first_step_that_is_skipped_leaves_the_start(plan, data, monkeypatch):
    recipe = dataclasses.replace(plan.train, on_nonfinite="skip")
    config = dataclasses.replace(complete(plan.configure("text")), train=recipe)
    spoil(monkeypatch, {0})
    course = Course(config, data, None, CPU)
    before = course.trainer.learner.copy_weights()
    course.start_epoch()
    course.take_step(data.rows["train"][:16])
    for name, value in course.trainer.learner.copy_weights().items():
        assert torch.equal(value, before[name]), name
    assert all(not x["momentum_buffer"].any() for x in course.trainer.optimiser.state.values())


def test_a_record_says_how_many_steps_were_skipped(plan, digits, home, monkeypatch):
    recipe = dataclasses.replace(plan.train, on_nonfinite="skip")
    config = dataclasses.replace(plan.configure("text"), train=recipe)
    spoil(monkeypatch, {0, 4})
    assert ensure_run(config).record.skipped == 2


def test_an_epoch_of_skipped_steps_ends_the_run(plan, data, monkeypatch):
    recipe = dataclasses.replace(plan.train, on_nonfinite="skip")
    config = dataclasses.replace(complete(plan.configure("text")), train=recipe)
    spoil(monkeypatch, set(range(6)))
    with pytest.raises(UserError, match="no step of epoch 1 was finite, all were skipped"):
        train(config, data, None, CPU)


# --- chaos


def work(config, home: str, began) -> None:
    os.environ["FDLAB_HOME"] = home
    os.environ[checkpoint.VARIABLE] = "0"
    torch.set_num_threads(1)
    began.set()
    ensure_run(config)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_thirty_kills_at_random_moments_change_nothing(plan, config, digits, home, monkeypatch):
    """SIGKILL at any moment of a digits run of 24 steps, with a checkpoint after every step; the
    record that comes out in the end is that of a run that nobody disturbed."""
    longer = dataclasses.replace(plan.train, epochs=8)
    config = dataclasses.replace(config, train=longer)
    undisturbed = ensure_run(config)
    wanted, folder = describe(undisturbed), undisturbed.folder
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fdlab.training.ensure", "torch._dynamo"])

    def begin():
        began = context.Event()
        process = context.Process(target=work, args=(config, str(home), began))
        process.start()
        assert began.wait(60)
        return process

    shutil.rmtree(folder)
    process, start = begin(), time.monotonic()
    process.join()
    seconds = time.monotonic() - start
    chance, kills, stood = random.Random(7), 0, set()
    while kills < 30:
        if folder.exists():  # once more from the beginning
            assert process.exitcode in (0, -signal.SIGKILL)
            assert describe(ensure_run(config)) == wanted
            shutil.rmtree(folder)
        process.close()
        process = begin()
        process.join(chance.uniform(0.0, seconds))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            stood.add(max((s for s, _ in checkpoint.list_checkpoints(folder.name)), default=0))
    process.close()
    run = ensure_run(config)
    assert describe(run) == wanted
    assert len(stood) > 3
    left = [p.name for p in (home / "outputs" / "runs").iterdir() if p.name.startswith(".")]
    runs.clean_runs()
    assert not any((home / "outputs" / "runs" / name).exists() for name in left)
