"""Runs: the same seed gives the same record, what exists is found, what is damaged is replaced."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from fdlab.core.config import Direction, RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.core.records import RunRecord
from fdlab.data.paired import PairedData
from fdlab.models.build import build_model
from fdlab.studies.plan import read_list
from fdlab.training.ensure import ensure_pack, ensure_run
from fdlab.training.fast import Fast
from fdlab.training.loop import train
from fdlab.training.pool import ensure_runs, gather_packs
from fdlab.training.runs import (
    clean_runs,
    complete,
    find_teacher,
    fingerprint,
    list_runs,
)
from fdlab.training.schedules import find_rate
from fdlab.training.teacher import CACHING, Noise, Teacher

CPU = torch.device("cpu")


def test_the_schedule_is_the_papers():
    recipe = TrainConfig()
    for epoch in (0, 1, 50, 99):
        expected = 1e-4 + (0.01 - 1e-4) * (1 - epoch / 100) ** 0.9
        assert find_rate(recipe, epoch) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError):
        find_rate(recipe, 100)


def test_the_same_seed_gives_the_same_record(plan, digits):
    config = plan.configure("audio", "fdcmkd", "text", seed=3)
    first = ensure_run(config)
    again = ensure_run(config, force=True)
    assert first.record.curves == again.record.curves
    assert first.record.scores == again.record.scores
    assert first.record.files == again.record.files  # weights and predictions, bit for bit


def test_a_run_that_exists_is_returned_and_not_trained(plan, digits):
    run = ensure_run(plan.configure("audio", seed=0))
    stamp = (run.folder / "record.json").stat().st_mtime_ns
    again = ensure_run(plan.configure("audio", seed=0))
    assert (again.folder / "record.json").stat().st_mtime_ns == stamp
    assert again.record == run.record


def test_what_matters_changes_the_fingerprint_and_nothing_else_does(plan, digits):
    base = complete(plan.configure("audio", "fdcmkd", "image"))
    name = fingerprint(base, digits)
    assert fingerprint(complete(plan.configure("audio", "fdcmkd", "image")), digits) == name
    explicit = plan.configure("audio", "fdcmkd", "image", options={"cutoff": 0.5})
    assert fingerprint(complete(explicit), digits) == name
    changed = [
        plan.configure("audio", "fdcmkd", "image", options={"cutoff": 0.25}),
        plan.configure("audio", "fdcmkd", "image", seed=1),
        plan.configure("audio", "feat", "image"),
        plan.configure("audio", "fdcmkd", "text"),
        dataclasses.replace(base, teacher_seed=7),
        dataclasses.replace(base, train=dataclasses.replace(base.train, epochs=3)),
    ]
    names = {fingerprint(complete(config), digits) for config in changed}
    assert len(names) == len(changed) and name not in names


def test_a_method_without_a_teacher_belongs_to_no_direction(plan):
    one = complete(plan.configure("image", "heads_only", "audio"))
    two = complete(plan.configure("image", "heads_only", "text"))
    assert one == two and one.teacher is None and one.direction == "image"
    assert find_teacher(one) is None
    teacher = find_teacher(complete(plan.configure("image", "kd", "audio", seed=5)))
    assert (teacher.student, teacher.method, teacher.seed) == ("audio", "none", 5)


def test_a_damaged_run_is_named_and_trained_again(plan, digits, capsys):
    run = ensure_run(plan.configure("text", seed=0))
    path = run.folder / "last.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = ensure_run(plan.configure("text", seed=0))
    assert "last.safetensors does not match its checksum" in capsys.readouterr().err
    assert path.read_bytes() == whole and again.record.curves == run.record.curves


def test_damaged_runs_and_leftovers_are_cleaned_and_good_ones_stay(plan, digits):
    good = ensure_run(plan.configure("text", seed=0))
    bad = ensure_run(plan.configure("text", seed=9))
    (bad.folder / "predictions.safetensors").unlink()
    leftover = good.folder.with_name(f".{good.folder.name}.abc")
    leftover.mkdir()
    assert any(damage and "predictions" in damage for _, _, damage in list_runs())
    assert {path.name for path in clean_runs()} == {bad.folder.name, leftover.name}
    assert good.folder.is_dir()


def test_scores_follow_their_rules(plan, digits):
    run = ensure_run(plan.configure("audio", "fdcmkd", "image"))
    record, curves = run.record, run.record.curves
    chosen = int(np.argmax(curves["validation/raw"]))
    assert record.scores["validation"].epoch == chosen + 1
    assert record.scores["validation"].accuracy == curves["test/raw"][chosen]
    assert record.scores["last"].accuracy == curves["test/raw"][-1]
    best = max(max(curves[f"test/{head}"]) for head in ("raw", "low", "high"))
    assert record.scores["published"].accuracy == best
    labels = digits.labels[digits.rows("test")]
    for moment in ("validation", "last"):
        accuracy = run.judge(labels, moment=moment).mean()
        assert accuracy == pytest.approx(record.scores[moment].accuracy, abs=1e-12)


def test_weights_on_disk_give_the_predictions_on_disk(plan, digits):
    run = ensure_run(plan.configure("audio", "fdcmkd", "image"))
    data = PairedData.load(digits, ["audio"], CPU)
    with torch.no_grad():
        logits = run.load_student(digits)(data.batch("audio", data.rows["test"])).logits
    assert np.allclose(logits.numpy(), run.read_predictions(), rtol=1e-4)


def test_the_record_reads_back_as_it_was_written(plan, digits, tmp_path):
    record = ensure_run(plan.configure("audio", "fdcmkd", "image")).record
    record.write(tmp_path / "record.json")
    assert RunRecord.read(tmp_path / "record.json") == record
    broken = json.loads((tmp_path / "record.json").read_text()) | {"format": 99}
    (tmp_path / "record.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match="format 1"):
        RunRecord.read(tmp_path / "record.json")


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_cached_teacher_equals_a_live_one_bit_for_bit(digits, modality):
    """Of batches of another size and order than those in which it was computed."""
    data = PairedData.load(digits, [modality], CPU)
    model = build_model(digits, modality, width=16, seed=0)
    noise = Noise(0, CPU)
    kept, live = (
        Teacher(model, data, modality, augments=False, fast=fast) for fast in (CACHING, Fast())
    )
    for teacher in (kept, live):
        teacher.prepare()
    assert kept.cache is not None and live.cache is None
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    rows = data.rows["train"]
    for part in rows[order[order < len(rows)]].split(64):
        one, two = kept(part, noise), live(part, noise)
        assert torch.equal(one.logits, two.logits) and torch.equal(one.feature, two.feature)
        assert not one.logits.requires_grad


def test_training_leaves_the_teacher_and_the_random_state_alone(plan, digits):
    data = PairedData.load(digits, ["image", "audio"], CPU)
    model = build_model(digits, "image", width=8, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    config = complete(plan.configure("audio", "fdcmkd", "image"))
    train(config, data, model, CPU)
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch statistics included
    assert all(p.grad is None for p in model.parameters())


def test_methods_under_one_seed_start_alike_and_differ_in_the_loss(plan, digits):
    one = ensure_run(plan.configure("audio", "heads_only")).record
    two = ensure_run(plan.configure("audio", "fdcmkd", "image")).record
    assert one.config.seed == two.config.seed and one.parameters == two.parameters
    assert one.curves["lr"] == two.curves["lr"] and one.curves != two.curves


def test_a_run_starts_from_a_local_file_and_its_content_counts(plan, digits, tmp_path):
    source = ensure_run(plan.configure("text", seed=0))
    state = source.load_student(digits).state_dict()
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    torch.save(state, one)
    two.write_bytes(one.read_bytes())
    configs = [
        dataclasses.replace(plan.configure("text", seed=5), weights=str(path))
        for path in (one, two)
    ]
    first, again = (ensure_run(config) for config in configs)
    assert first.folder == again.folder
    assert first.record.curves != ensure_run(plan.configure("text", seed=5)).record.curves
    torch.save({name: value + 1 for name, value in state.items()}, two)
    assert fingerprint(complete(configs[1]), digits) != first.folder.name
    other = dataclasses.replace(configs[0], method="kd", teacher="audio")
    assert find_teacher(complete(other)).weights == ""


def test_a_diverging_run_is_one_line_that_names_it(plan, digits):
    recipe = dataclasses.replace(plan.train, learning_rate=1e6)
    config = dataclasses.replace(plan.configure("text"), train=recipe)
    told = r"diverged: a weight is not finite at step 3 of 6 \(epoch 1 of 2\); there is no "
    told += "checkpoint before it; try a learning rate below"
    with pytest.raises(UserError, match=told):
        ensure_run(config)


def test_runs_side_by_side_equal_runs_alone(plan, digits, monkeypatch):
    monkeypatch.setenv("FDLAB_WORKERS", "2")
    configs = [plan.configure("text", seed=seed) for seed in (21, 22)]
    together = [run.record for run in ensure_runs(configs)]
    for config, record in zip(configs, together, strict=True):
        alone = ensure_run(config, force=True).record
        assert alone.curves == record.curves and alone.files == record.files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fdckmd"}, "did you mean 'fdcmkd'"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: no such weights file"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"student": "sound"}, "unknown modality of digits 'sound'"),
        ({"method": "kd", "teacher": None}, "kd needs a teacher"),
        ({"method": "kd", "options": {"temperature": "hot"}}, "expected float, such as 4.0"),
        ({"dataset": "planted", "student": "first"}, "nothing to train"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(change, message):
    config = dataclasses.replace(RunConfig("digits", "image", teacher="audio"), **change)
    with pytest.raises(UserError, match=message):
        complete(config)


def test_directions_print_and_parse():
    names = ["image", "audio", "text"]
    assert str(Direction.parse("audio2image", names)) == "audio2image"
    with pytest.raises(UserError, match="audio2text"):
        Direction.parse("audio2video", names)


def test_list_parameters_come_as_lists_or_as_papermills_text():
    assert read_list("seeds", "[0, 1]", int) == read_list("seeds", [0, 1], int) == [0, 1]
    assert read_list("directions", "audio2image", str) == ["audio2image"]
    with pytest.raises(UserError, match="expected a list of int"):
        read_list("seeds", "[true]", int)


def test_a_pack_writes_what_runs_alone_write(plan, digits):
    """Two methods of one teacher, another direction and seed; the second time it is found."""
    configs = [
        plan.configure("audio", "fdcmkd", "image"),
        plan.configure("audio", "heads_only"),
        plan.configure("image", "kd", "audio", seed=1),
        plan.configure("audio", "fdcmkd", "image"),
    ]
    alone = [ensure_run(config, force=True) for config in configs[:3]]
    pack = ensure_pack(configs, force=True)
    assert [run.folder for run in pack] == [*(run.folder for run in alone), alone[0].folder]
    for one, two in zip(alone, pack, strict=False):
        assert one.record.files == two.record.files and one.record.curves == two.record.curves
        assert (one.record.in_step, two.record.in_step) == (1, 3)
    stamps = [run.record.finished for run in pack]
    assert [run.record.finished for run in ensure_pack(configs)] == stamps


def test_a_run_may_be_packed_with_its_own_teacher(plan, digits):
    teacher = plan.configure("image", seed=0)
    student = plan.configure("audio", "kd", "image", seed=0)
    one, two = ensure_pack([student, teacher], force=True)
    assert one.record.teacher == two.record.fingerprint


def test_packs_hold_runs_of_one_recipe(plan):
    longer = dataclasses.replace(plan.train, epochs=7)
    configs = [plan.configure("audio", seed=seed) for seed in range(5)]
    configs[1] = dataclasses.replace(configs[1], train=longer)
    packs = gather_packs(configs, 3)
    assert [[c.seed for c in pack] for pack in packs] == [[0, 2, 3], [4], [1]]


def test_the_environment_says_how_many_train_in_step(plan, digits, monkeypatch):
    monkeypatch.setenv("FDLAB_PACK", "2")
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    runs = ensure_runs([plan.configure("text", seed=seed) for seed in (11, 12, 13)])
    assert [run.record.in_step for run in runs] == [2, 2, 1]
    monkeypatch.setenv("FDLAB_PACK", "none")
    with pytest.raises(UserError, match="FDLAB_PACK is 'none': expected a whole number from 1"):
        ensure_runs([plan.configure("text", seed=14)])
