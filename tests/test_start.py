"""Runs that start from other runs, and what a recipe can ask beside a falling rate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fdlab.core.config import RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.models.build import build_model
from fdlab.training import ensure
from fdlab.training.ensure import ensure_run, load_teacher
from fdlab.training.loop import Course
from fdlab.training.pool import attempt_runs
from fdlab.training.runs import build_start, complete, find_name, find_waves
from fdlab.training.schedules import find_rate
from fdlab.training.trainer import build_optimiser

CPU = torch.device("cpu")


def test_a_run_starts_with_the_best_weights_of_its_base(plan, digits, home):
    first = plan.configure("image", seed=0)
    run = ensure_run(first)
    second = complete(plan.configure("image", seed=1, base=first))
    model = build_start(second, digits)
    kept = run.load_student(digits, "validation").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name
    plain = build_model(digits, "image", width=second.width, seed=1).state_dict()
    assert not torch.equal(plain["conv1.weight"], kept["conv1.weight"])
    trained = ensure_run(second)
    assert RunConfig.from_dict(trained.record.config.as_dict()) == second
    other = complete(plan.configure("image", seed=1))
    again = complete(plan.configure("image", seed=1, base=replace(first, seed=2)))
    assert len({find_name(config) for config in (second, other, again)}) == 3


def test_colours_are_summed_where_a_grey_image_starts_from_them(plan, digits, home):
    """Both sides of the digits have one channel, so the base's entry is cut from the rule's."""
    from fdlab.models.build import fit_state
    from fdlab.models.resnet import ResNet18

    colour, grey = ResNet18(3, 10, 8).eval(), ResNet18(1, 10, 8).eval()
    fit_state(grey, colour.state_dict(), home)
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(x).logits, colour(x.expand(-1, 3, -1, -1)).logits)


def test_what_a_run_needs_comes_in_waves(plan):
    teacher = plan.configure("audio", seed=0)
    first = plan.configure("image", "kd", "audio", 0, base=plan.configure("image", seed=3))
    last = complete(plan.configure("image", seed=0, base=first))
    waves = [[config.label for config in wave] for wave in find_waves([last])]
    assert waves[-1] == ["digits image none seed 0 after audio2image kd"]
    assert waves[-2] == ["digits audio2image kd seed 0 after image none"]
    assert waves[-3] == [complete(teacher).label, "digits image none seed 3"]
    assert len(waves) == 3


def test_a_base_that_fails_is_named_with_what_needs_it(plan, home, monkeypatch):
    def fail(*_, **__):
        raise UserError("no room")

    monkeypatch.setattr(ensure, "train_in_step", fail)
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    config = plan.configure("image", seed=1, base=plan.configure("image", seed=0))
    (outcome,) = attempt_runs([config])
    assert str(outcome.error) == "what it needs failed: no room"


def test_the_students_own_start_teaches(plan, data, digits, home):
    base = plan.configure("image", seed=0)
    kept = ensure_run(base).load_student(digits)
    config = plan.configure("image", "feat", "image", 1, base=base, teacher_kind="start")
    config = complete(config)
    model, run = load_teacher(config, data)
    assert run is None
    x = data.batch("image", data.rows["test"][:8])
    torch.testing.assert_close(model.eval()(x).feature, kept(x).feature, rtol=1e-4, atol=1e-2)
    terms, mine, theirs, _ = Course(config, data, model, CPU).trainer.compare(
        data.rows["train"][:16]
    )
    assert theirs is not None and terms.keys() >= {"task"}
    assert mine.feature.requires_grad and not theirs.feature.requires_grad
    for wrong in ({"teacher": "audio"}, {"teacher": "image", "teacher_network": "resnet8"}):
        with pytest.raises(UserError, match="the student's own network as its teacher"):
            complete(replace(config, **wrong))


def test_bases_and_other_starts_exclude_each_other(plan):
    base = plan.configure("image", seed=0)
    with pytest.raises(UserError, match="one thing to start from"):
        plan.configure("image", seed=1, base=base, start="audio")
    with pytest.raises(UserError, match="blend is -1"):
        plan.configure("image", seed=1, base=base, blend=-1.0)


def test_a_cosine_and_a_warm_up_are_taken_step_by_step():
    recipe = TrainConfig(
        epochs=4, learning_rate=0.1, final_learning_rate=0.01, schedule="cosine", warm_up=6
    )
    steps = 5
    rates = [find_rate(recipe, e, s, steps) for e in range(4) for s in range(steps)]
    taken = np.arange(20)
    expected = 0.01 + 0.09 * (1 + np.cos(np.pi * taken / 20)) / 2
    expected[:6] *= 0.01 + 0.99 * taken[:6] / 6
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates[0] == pytest.approx(0.001) and max(rates) == rates[6]


def test_the_optimiser_gets_each_steps_rate(plan, data):
    recipe = replace(
        plan.train, epochs=2, batch_size=32, schedule="cosine", warm_up=3, augment=False
    )
    config = complete(plan.configure("image", train=recipe))
    course, seen = Course(config, data, None, CPU), []
    for rows in course.start_epoch():
        course.set_rate()
        seen.append(course.trainer.optimiser.param_groups[0]["lr"])
        course.take_step(rows)
    expected = [find_rate(recipe, 0, step, course.batches) for step in range(course.batches)]
    assert seen == pytest.approx(expected) and len(set(seen)) == len(seen)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_backbone_has_a_rate_of_its_own(share):
    """Of plain gradient descent the first step is the rate times the gradient."""
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    groups = [{"params": [weights[0]], "share": share}, {"params": [weights[1]], "share": 1.0}]
    from fdlab.training.fast import choose_fast

    train = TrainConfig(momentum=0.0)
    optimiser = build_optimiser(train, groups, choose_fast(CPU, train), CPU)
    for group in optimiser.param_groups:
        group["lr"] = 0.1 * group["share"]
    sum(w.sum() for w in weights).backward()
    optimiser.step()
    for weight, factor in zip(weights, (share, 1.0), strict=True):
        torch.testing.assert_close(weight.detach(), 1 - 0.1 * factor * torch.ones(3))


def test_gradients_are_clipped_to_a_norm(plan, data):
    recipe = replace(plan.train, momentum=0.0, clip=0.01, augment=False, learning_rate=1.0)
    config = complete(plan.configure("image", train=recipe))
    trainer = Course(config, data, None, CPU).trainer
    trainer.start_epoch(1.0, 0.5)
    before = [p.detach().clone() for p in trainer.learner.parameters()]
    trainer.step(data.rows["train"][:32])
    after = trainer.learner.parameters()
    moved = math.sqrt(
        sum(
            (a - b).square().sum() for a, b in zip([p.detach() for p in after], before, strict=True)
        )
    )
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_adamw_decays_weights_apart_from_the_gradient(plan, data):
    """With a zero gradient Adam's L2 penalty moves by the rate, AdamW's decay by rate · decay."""
    moved = {}
    for name in ("adam", "adamw"):
        from fdlab.training.fast import choose_fast

        train = TrainConfig(optimiser=name, weight_decay=0.1, learning_rate=0.01)
        weight = torch.nn.Parameter(torch.full((4,), 2.0))
        optimiser = build_optimiser(train, [weight], choose_fast(CPU, train), CPU)
        (0.0 * weight.sum()).backward()
        optimiser.step()
        moved[name] = 2.0 - weight.detach()
    torch.testing.assert_close(moved["adam"], torch.full((4,), 0.01))
    torch.testing.assert_close(moved["adamw"], torch.full((4,), 0.01 * 0.1 * 2.0))


@pytest.fixture(scope="module")
def small(isolated_home):
    """A few of the rooms, and the smallest plan for them."""
    from fdlab.studies.plan import make_plan

    plan = replace(make_plan("rooms", "smoke", seeds=[0], epochs=1), data_options={"limit": 60})
    return replace(plan, train=replace(plan.train, side=32, learning_rate=1e-3, optimiser="adamw"))


def test_a_detector_starts_from_what_a_segmenter_learned_without_labels(small):
    """Colour to heat in two stages: the teacher's weights, adapters by its maps, then boxes."""
    pytest.importorskip("transformers")
    pytest.importorskip("pycocotools")
    network = "vit_small_pixels"
    teacher = small.configure("rgb", network=network)
    first = small.configure(
        "thermal", "freqkd", "rgb", 0, {"task_weight": 0.0},
        network=network, teacher_network=network, base=teacher, rank=2,
    )  # fmt: skip
    second = complete(small.configure("thermal", network="vit_small_boxes", base=first, blend=0.5))
    store = small.open_store()
    taught = ensure_run(first)
    start = build_start(second, store).state_dict()
    whole, none = (taught.read_merged(scale) for scale in (1.0, 0.0))
    name = "encoder.encoder.layer.0.mlp.fc1.weight"
    torch.testing.assert_close(start[name], (whole[name] + none[name]) / 2)
    assert not torch.equal(whole[name], none[name])
    entry = "encoder.embeddings.patch_embeddings.projection.weight"
    colour = ensure_run(teacher).load_student(store).state_dict()
    torch.testing.assert_close(start[entry], colour[entry].sum(dim=1, keepdim=True))
    torch.manual_seed(7)  # what a process has drawn before is no part of a run
    one = build_start(taught.record.config, store).state_dict()
    torch.manual_seed(8)
    two = build_start(taught.record.config, store).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert set(taught.record.curves) >= {"loss/low", "loss/high"}
    assert "loss/task" not in taught.record.curves
    run = ensure_run(second)
    found = run.read_predictions()
    assert found.shape[0] == run.record.n["test"] and found.shape[2] == 6
    rows = store.rows("test")
    values = run.judge(np.asarray(store.read("boxes")[rows]) * [1, 0.5, 0.5, 0.5, 0.5])
    assert values.mean() == pytest.approx(run.record.scores["validation"].accuracy, abs=1e-6)
    anchored = complete(
        small.configure(
            "thermal", "anchor", "thermal", 0, network="vit_small_boxes", base=first,
            blend=0.5, teacher_kind="start",
        )
    )  # fmt: skip
    assert ensure_run(anchored).record.curves["loss/anchor"][0] > 0


def test_a_network_for_what_the_store_does_not_hold_is_refused(plan):
    with pytest.raises(UserError, match=r"network for images 'vit_small_boxes'"):
        complete(plan.configure("image", network="vit_small_boxes"))
