"""Teachers that cannot teach, starts that are shared, and probes that change nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fdlab.core.config import TEACHER_KINDS, RunConfig
from fdlab.core.errors import UserError
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.build import build_model
from fdlab.models.output import ModelOutput, Side, describe
from fdlab.training.ensure import build_untrained, ensure_run
from fdlab.training.probe import choose_steps, probe_terms, stack_probes
from fdlab.training.runs import complete, find_teacher, fingerprint
from fdlab.training.teacher import CACHING, Noise, seat_teacher

CPU = torch.device("cpu")


def seat(plan, data, kind: str, augmentation: str = ""):
    config = plan.configure("image", "fdcmkd", "audio", teacher_kind=kind)
    model = build_model(data.store, "audio", width=8, seed=3).eval()
    side = describe(model, data.batch("audio", data.rows["train"][:1]))
    method = build_method("fdcmkd", {}, Sizes(side, side, 10))
    teacher = seat_teacher(complete(config), data, model, augmentation, method, CACHING)
    teacher.prepare()
    return teacher


@pytest.mark.parametrize("kind", ["shuffled", "shuffled_in_class"])
def test_a_shuffled_teacher_gives_every_row_another_rows_output(plan, data, kind):
    rows = data.rows["train"]
    noise = Noise(0, CPU)
    plain, found = seat(plan, data, "trained"), seat(plan, data, kind)
    order = found.order[rows]
    assert torch.equal(order.sort().values, rows) and not (order == rows).any()
    assert torch.equal(found(rows, noise).feature, plain(order, noise).feature)
    same = data.labels[order] == data.labels[rows]
    assert same.all() if kind == "shuffled_in_class" else same.float().mean() < 0.3
    assert torch.equal(found.order, seat(plan, data, kind).order)  # the same for the same seed


def test_a_shuffled_teacher_sees_augmented_inputs_of_the_other_row(plan, data):
    rows = data.rows["train"][:32]
    found = seat(plan, data, "shuffled", "shift")
    plain = seat(plan, data, "trained", "shift")
    one = found(rows, Noise(1, CPU)).feature
    two = plain(found.order[rows], Noise(1, CPU)).feature
    assert torch.equal(one, two)


def test_a_constant_teacher_says_the_same_of_everything(plan, data):
    rows = data.rows["train"]
    noise = Noise(0, CPU)
    plain = seat(plan, data, "trained")(rows, noise)
    found = seat(plan, data, "constant", "shift")(rows, noise)
    assert torch.equal(found.feature, found.feature[:1].expand_as(found.feature))
    torch.testing.assert_close(found.feature[0], plain.feature.mean(dim=0))
    torch.testing.assert_close(found.logits[0], plain.logits.mean(dim=0))


def test_an_untrained_network_has_settled_norms_and_its_initial_weights(data):
    model = build_untrained(data.store, data, "audio", 8, 5)
    fresh = build_model(data.store, "audio", width=8, seed=5)
    for (name, one), two in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert not model.training and model.bn1.momentum == 0.1
    seen = model.conv1(data.batch("audio", data.rows["train"]))
    torch.testing.assert_close(model.bn1.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-4, rtol=0)
    out = model(data.batch("audio", data.rows["test"]))
    assert 0.1 < out.feature.std() < 10


OTHERS = [kind for kind in TEACHER_KINDS if kind != "start"]  # teachers of another modality


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_of_teacher_trains_and_has_a_fingerprint_of_its_own(plan, digits, kind):
    config = plan.configure("text", "fdcmkd", "audio", teacher_kind=kind)
    run = ensure_run(config)
    assert run.record.config.teacher_kind == kind
    assert (run.record.teacher is None) == (kind == "untrained")
    others = {
        fingerprint(complete(dataclasses.replace(config, teacher_kind=k)), digits) for k in OTHERS
    }
    assert len(others) == len(OTHERS)


def test_a_teacher_of_the_same_modality_is_another_network(plan, digits):
    config = plan.configure("image", "fdcmkd", "image", seed=0, teacher_seed=1)
    assert find_teacher(complete(config)) == complete(plan.configure("image", seed=1))
    assert ensure_run(config).record.config.direction == "image2image"
    with pytest.raises(UserError, match="another teacher_network or teacher_seed"):
        complete(plan.configure("image", "fdcmkd", "image", seed=0))


def test_a_method_without_a_teacher_has_no_kind_of_one(plan):
    config = plan.configure("image", "heads_only", "audio", teacher_kind="constant")
    assert complete(config) == complete(plan.configure("image", "heads_only"))
    with pytest.raises(UserError, match="did you mean 'shuffled'"):
        RunConfig("digits", "image", teacher_kind="shufled")


def test_a_start_is_another_modalitys_initialisation(plan, digits):
    image, audio, shared = (
        build_model(digits, modality, width=8, seed=0, start=start).state_dict()
        for modality, start in (("image", ""), ("audio", ""), ("image", "audio"))
    )
    assert all(torch.equal(shared[name], audio[name]) for name in audio)
    assert not torch.equal(shared["conv1.weight"], image["conv1.weight"])
    with pytest.raises(UserError, match="image cannot start as text"):
        build_model(digits, "image", width=8, seed=0, start="text")
    own = complete(plan.configure("image", start="image"))
    assert own == complete(plan.configure("image"))
    with pytest.raises(UserError, match="no other"):
        complete(plan.configure("image", "fdcmkd", "audio", start="audio"))


def test_probes_leave_the_training_alone_and_are_found_again(plan, digits):
    plain = ensure_run(plan.configure("image", "fdcmkd", "audio", seed=1))
    probed = ensure_run(plan.configure("image", "fdcmkd", "audio", seed=1, probes=3))
    assert probed.record.curves == plain.record.curves
    kinds = [name for name in plain.record.files if name != "probes.safetensors"]
    assert all(probed.record.files[name] == plain.record.files[name] for name in kinds)
    found = probed.probes
    terms = [name for name in probed.record.curves if name.startswith("loss/")]
    assert found["feature"].shape == found["parameters"].shape == (3, len(terms), len(terms))
    assert found["student"].shape == found["teacher"].shape and found["step"][0] == 0
    for place in ("feature", "parameters"):  # the raw head's own cross-entropy reaches both
        assert (np.diagonal(found[place], axis1=1, axis2=2)[:, 0] > 0).all()


def test_steps_are_spread_from_the_first_to_the_last():
    assert choose_steps(101, 5) == {0, 25, 50, 75, 100}
    assert choose_steps(3, 9) == {0, 1, 2}
    assert choose_steps(10, 0) == set() and choose_steps(10, 1) == {0}


def test_a_probes_inner_products_are_autograds():
    """Against one backward pass per term, on a network of one matrix."""
    torch.manual_seed(0)
    weight = torch.randn(6, 8, requires_grad=True)
    inputs = torch.randn(5, 6)
    labels = torch.tensor([0, 1, 2, 0, 1])
    teacher = ModelOutput(torch.randn(5, 3), torch.randn(5, 8))
    method = build_method("fdcmkd", {}, Sizes(Side(8), Side(8), 3))

    def run():
        feature = inputs @ weight
        output = ModelOutput(feature[:, :3], feature)
        return output, method(output, teacher, Batch(labels))

    output, terms = run()
    probe = probe_terms(terms, output, teacher, [weight])
    gradients = {"feature": [], "parameters": []}
    for name in terms:
        output, again = run()
        output.feature.retain_grad()
        weight.grad = None
        if again[name].requires_grad:
            again[name].backward()
        zero = torch.zeros_like
        grad = output.feature.grad
        gradients["feature"].append((zero(output.feature) if grad is None else grad).flatten())
        gradients["parameters"].append(
            (zero(weight) if weight.grad is None else weight.grad).flatten()
        )
    for place, rows in gradients.items():
        rows = torch.stack(rows).double()
        torch.testing.assert_close(probe[place], rows @ rows.T, rtol=1e-5, atol=1e-12)
    index = list(terms).index("align_low_teacher")
    assert probe["feature"][index].abs().max() == 0  # it trains the heads, not the student


def test_a_short_batch_is_filled_up_with_nan():
    parts = {0: {"student": torch.ones(4, 2)}, 7: {"student": torch.ones(3, 2)}}
    found = stack_probes(parts)
    assert found["step"].tolist() == [0, 7]
    assert found["student"].shape == (2, 4, 2) and found["student"][1, 3].isnan().all()
