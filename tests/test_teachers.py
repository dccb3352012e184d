"""Teachers that are read, teachers that train, two views, and what a method is told of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from teaching import CLASSIFIERS, CPU

from fdlab.core.config import TrainConfig
from fdlab.core.errors import UserError
from fdlab.data.augment import strengthen
from fdlab.methods import METHODS
from fdlab.models.build import build_model
from fdlab.models.output import ModelOutput, describe
from fdlab.training import teacher as teachers
from fdlab.training.ensure import ensure_run, load_teacher
from fdlab.training.fast import Fast
from fdlab.training.runs import complete, find_sources, find_teacher
from fdlab.training.trainer import Trainer


def make_trainer(plan, data, method: str, student: str = "image", teacher: str = "audio"):
    config = complete(plan.configure(student, method, teacher))
    return Trainer(config, data, load_teacher(config, data)[0], CPU)


def copy_state(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def list_changes(before: dict, model) -> set[str]:
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


def take_steps(trainer, data, steps: int = 3) -> None:
    trainer.learner.train()
    for rows in data.rows["train"].split(32)[:steps]:
        trainer.update(trainer.compare(rows)[0])


def test_a_frozen_teacher_is_bit_equal_after_training(plan, data):
    for method in ("kd", "fitnet", "afd"):
        trainer = make_trainer(plan, data, method)
        before = copy_state(trainer.read_teacher.model)
        take_steps(trainer, data)
        assert not list_changes(before, trainer.read_teacher.model)
        assert not trainer.read_teacher.model.training


def test_the_released_ofds_teacher_drifts_in_its_norms_and_in_nothing_else(plan, data):
    trainer = make_trainer(plan, data, "ofd_released")
    before = copy_state(trainer.read_teacher.model)
    take_steps(trainer, data)
    changed = list_changes(before, trainer.read_teacher.model)
    norms = {
        n for n in before if n.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert changed == norms
    assert trainer.read_teacher.cache is None  # its outputs depend on the batch


@pytest.mark.parametrize("method", ["dml", "c2kd"])
def test_a_peer_trains_and_its_parameters_are_in_the_optimiser(plan, data, method):
    trainer = make_trainer(plan, data, method)
    peer = trainer.learner.peer
    held = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in peer.parameters()} <= held
    before = copy_state(peer)
    take_steps(trainer, data)
    assert {n for n, _ in peer.named_parameters()} <= list_changes(before, peer)
    assert trainer.learner.count_parameters()["teacher"] == sum(
        p.numel() for p in peer.parameters()
    )


@pytest.mark.parametrize("method", [*CLASSIFIERS, "fdcmkd+0.5*vid"])
def test_every_parameter_that_a_method_trains_is_in_the_optimiser_once(plan, data, method):
    trainer = make_trainer(plan, data, method)
    held = [id(p) for group in trainer.optimiser.param_groups for p in group["params"]]
    own = [p for p in trainer.learner.method.parameters() if p.requires_grad]
    assert len(set(held)) == len(held) and {id(p) for p in own} <= set(held)
    frozen = getattr(trainer.read_teacher, "model", None)
    if frozen is not None and trainer.learner.peer is None:
        assert not {id(p) for p in frozen.parameters()} & set(held)


@pytest.mark.parametrize("method", [m for m in CLASSIFIERS if METHODS[m].compares])
def test_every_method_distils_something_on_real_networks(plan, data, method):
    """What compares with the teacher moves the student, also where the last maps are 1 × 1."""
    trainer = make_trainer(plan, data, method)
    terms, *_ = trainer.compare(data.rows["train"][:32])
    compared = [terms[name] for name in METHODS[method].compares if name in terms]
    own = [term for term in compared if term.requires_grad]
    student = list(trainer.learner.student.parameters())
    gradients = torch.autograd.grad(sum(own), student, allow_unused=True)
    assert any(g is not None and g.abs().max() > 1e-9 for g in gradients)


def test_a_second_view_leaves_the_first_as_it_is_for_every_method(plan, data):
    one, two = (make_trainer(plan, data, method) for method in ("kd", "mlkd"))
    for rows in data.rows["train"].split(16)[:3]:
        for trainer in (one, two):
            trainer.learner.student.eval()
        assert torch.equal(one.look(rows)[0].logits, two.look(rows)[0].logits)


def test_a_kept_first_view_changes_neither_view(plan, data):
    """A teacher whose input is not augmented: its plain outputs are kept, the stronger view is
    computed on each batch, with the numbers that it has where nothing is kept."""
    config = complete(plan.configure("image", "mlkd", "audio"))
    kept, fresh = (
        Trainer(config, data, load_teacher(config, data)[0], CPU, fast)
        for fast in (teachers.CACHING, Fast())
    )
    kept.read_teacher.prepare()
    fresh.read_teacher.prepare()
    assert fresh.read_teacher.cache is None and kept.read_teacher.cache is not None
    seen = []
    for rows in data.rows["train"].split(16)[:3]:
        one, two = (t.read_teacher(rows, t.noise) for t in (kept, fresh))
        torch.testing.assert_close(one.logits, two.logits)
        torch.testing.assert_close(one.second.logits, two.second.logits)
        assert not torch.allclose(one.logits, one.second.logits, atol=1e-4)
        seen.append(one.second.logits)
    assert not torch.equal(seen[0], seen[1])


def test_a_teacher_that_drifts_has_no_mean(plan):
    config = plan.configure("image", "ofd_released", "audio", teacher_kind="constant")
    with pytest.raises(UserError, match="reads its teacher on each batch anew"):
        complete(config)


def test_dml_starts_from_scratch_and_c2kd_from_the_unimodal_teacher(plan, data):
    dml, c2kd = (complete(plan.configure("image", m, "audio")) for m in ("dml", "c2kd"))
    assert find_teacher(dml) is None and find_sources(dml) == []
    fresh = build_model(data.store, "audio", width=8, seed=0)
    model, source = load_teacher(dml, data)
    assert source is None
    assert all(a.equal(b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    model, source = load_teacher(c2kd, data)
    run = ensure_run(find_teacher(c2kd))
    assert source == run.record.fingerprint
    kept = run.load_student(data.store).state_dict()
    assert all(value.equal(kept[name]) for name, value in model.state_dict().items())


def test_dml_is_symmetric(plan, data):
    """The student of one direction is the peer of the other: one run trains both alike."""
    one = make_trainer(plan, data, "dml", "audio", "text")
    two = make_trainer(plan, data, "dml", "text", "audio")
    for trainer in (one, two):
        torch.manual_seed(0)
        (
            trainer.learner.peer.eval(),
            trainer.learner.student.eval(),
        )  # no dropout, no batch statistics
    rows = data.rows["train"][:24]
    mine, theirs = (trainer.compare(rows)[0] for trainer in (one, two))
    for own, other in (("task", "teacher_task"), ("kd", "teacher_kd")):
        assert mine[own].item() == pytest.approx(theirs[other].item(), rel=1e-5)
        assert mine[other].item() == pytest.approx(theirs[own].item(), rel=1e-5)


@pytest.mark.parametrize("method", ["dml", "c2kd"])
def test_a_teacher_that_trains_takes_no_control(plan, method):
    config = plan.configure("image", method, "audio", teacher_kind="shuffled")
    with pytest.raises(UserError, match=f"controls a frozen teacher, and that of {method}"):
        complete(config)


def test_a_teacher_may_have_a_recipe_of_its_own(plan):
    longer = replace(plan.train, epochs=3)
    config = plan.configure("image", "kd", "audio", train=longer, teacher_train=plan.train)
    own = find_teacher(complete(config))
    assert own.train == plan.train and own.teacher_train is None
    assert own == find_teacher(complete(plan.configure("image", "kd", "audio")))
    same = plan.configure("image", "kd", "audio", teacher_train=plan.train)
    assert complete(same).teacher_train is None
    assert type(config).from_dict(config.as_dict()) == config
    assert isinstance(type(config).from_dict(config.as_dict()).teacher_train, TrainConfig)


def test_stored_maps_are_those_of_a_forward_pass_and_no_others_are_kept(plan, data):
    trainer = make_trainer(plan, data, "at", "audio", "text")
    assert trainer.read_teacher.cache is not None
    rows = data.rows["train"][5:17]
    found = trainer.read_teacher(rows, trainer.noise)
    with torch.no_grad():
        expected = trainer.read_teacher.model(data.batch("text", rows))
    names = trainer.learner.method.teacher_maps
    assert set(found.maps) == names
    for name in names:
        torch.testing.assert_close(found.find(name), expected.find(name))
    torch.testing.assert_close(found.mask, expected.mask)


def test_too_many_maps_to_store_are_computed_per_batch_with_the_same_values(
    plan, data, monkeypatch
):
    rows = data.rows["train"][:9]
    stored = make_trainer(plan, data, "at", "audio", "text").read_teacher
    monkeypatch.setattr(teachers, "CACHE_BYTES", 1)
    fresh = make_trainer(plan, data, "at", "audio", "text").read_teacher
    assert fresh.cache is None
    one, two = (reader(rows, teachers.Noise(0, CPU)) for reader in (stored, fresh))
    for name in one.maps:
        torch.testing.assert_close(one.maps[name], two.maps[name])


@pytest.mark.parametrize("method, options", [("mlkd", {}), ("figkd", {"two_view": True})])
def test_two_views_differ_and_a_pair_shares_its_first(plan, data, method, options):
    config = complete(plan.configure("image", method, "audio", options=options))
    trainer = Trainer(config, data, load_teacher(config, data)[0], CPU)
    mine, theirs, _ = trainer.look(data.rows["train"][:8])
    for output in (mine, theirs):
        assert isinstance(output.second, ModelOutput)
        assert not torch.equal(output.logits, output.second.logits)


def test_the_stronger_view_cuts_a_square_and_keeps_the_rest_of_an_image():
    images = torch.full((64, 1, 16, 20), 2.0)
    found = strengthen(images, torch.Generator().manual_seed(0))
    for image in found[:, 0]:
        hole = image == 0
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert hole.sum() == rows.sum() * columns.sum() <= 64 and rows.sum() == columns.sum()
        levels = image[~hole].unique()
        assert len(levels) == 1 and 1.2 - 1e-5 <= levels.item() <= 2.8 + 1e-5
    assert (found == 0).flatten(1).any(dim=1).float().mean() > 0.8


def test_the_stronger_view_of_a_sentence_leaves_words_out_but_never_all():
    tokens = torch.arange(1, 21).repeat(300, 1)
    tokens[:100, 1:] = 0  # one word
    found = strengthen(tokens, torch.Generator().manual_seed(0))
    assert ((found == tokens) | (found == 0)).all() and (found != 0).any(dim=1).all()
    lost = 1 - (found[100:] != 0).float().mean()
    assert 0.12 < lost < 0.18
    assert found[:100].equal(tokens[:100])


def test_what_a_network_says_of_itself_is_what_it_returns(plan, data):
    for modality in ("image", "text"):
        model = build_model(data.store, modality, width=8, seed=0).train()
        rows = data.batch(modality, data.rows["train"][:3])
        side = describe(model, rows)
        assert model.training
        output = model.eval()(rows)
        assert side.width == output.feature.shape[1]
        assert {n: tuple(x.shape[1:]) for n, x in output.maps.items()} == side.maps
        assert set(side.norms) == {name for name in side.maps if name != "stem"}
        assert all(len(norm.weight) == side.maps[name][0] for name, norm in side.norms.items())
        last = next(iter(side.pick("last")))
        assert output.find(last).shape[1] == side.width
    assert [*describe(build_model(data.store, "image", width=8, seed=0),
                      data.batch("image", data.rows["train"][:1])).blocks] == [
        f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]  # fmt: skip
