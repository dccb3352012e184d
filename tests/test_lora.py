"""Low-rank adapters: where they are, that they begin as nothing, and what merging makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import draw, make
from torch import nn

from fdlab.core.errors import UserError
from fdlab.models import MODELS
from fdlab.models.lora import add_adapters, merge_adapters, merge_state

pytest.importorskip("transformers")
ADAPTED = ["vit_small", "swin_t", "vit_small_pixels", "vit_small_boxes"]
TARGETS = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.fc1", "mlp.fc2")


def learn(model: nn.Module, seed: int = 5) -> nn.Module:
    """Adapters as they may be after training."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.endswith("lora_b"):
            value.data.normal_(0, 0.2, generator=generator)
    return model


def flatten(output) -> list[torch.Tensor]:
    boxes = [] if output.boxes is None else [output.boxes]
    return [output.logits, output.feature, *boxes, *output.maps.values(), *output.blocks.values()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ADAPTED)
def test_the_start_changes_nothing_to_the_bit(name, training):
    model = make(name).train(training)
    x = draw(model)
    with torch.no_grad():
        before = model(x)
        after = add_adapters(model, 3)(x)
    for one, two in zip(flatten(before), flatten(after), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_stand_on_the_targets_and_all_else_is_frozen(name):
    model, rank = make(name), 3
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = {key: part for key, part in model.named_modules() if key.endswith(TARGETS)}
    wanted = sum(rank * (part.in_features + part.out_features) for part in layers.values())
    assert len(layers) == 5 * len(model(draw(model)).blocks)
    add_adapters(model, rank)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert {key.rpartition(".")[0] for key in trained} == set(layers)
    assert sum(p.numel() for p in trained.values()) == wanted
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key.rpartition(".")[2] for key in set(after) - set(before)} == {
        "lora_a", "lora_b", "lora_scale"
    }  # fmt: skip
    output = model(draw(model))
    sum(x.square().mean() for x in output.blocks.values()).backward()
    for key, parameter in model.named_parameters():
        if key.endswith("lora_b"):
            assert parameter.grad.any(), key
        elif key.endswith("lora_a"):
            assert not parameter.grad.any(), "as long as B is 0"
        else:
            assert parameter.grad is None, key


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ADAPTED)
def test_merging_adds_the_product_at_its_scale(name, scale):
    model = make(name).eval()
    names, x = [*model.state_dict()], draw(model)
    with torch.no_grad():
        base = model(x)
    learn(add_adapters(model, rank=4, alpha=6.0))
    with torch.no_grad():
        adapted = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    merged = merge_state(state, scale)
    assert [*merged] == names
    for key in names:
        wanted = state[key].numpy().astype(np.float64)
        if key.rpartition(".")[0].endswith(TARGETS) and key.endswith("weight"):
            a, b = (state[key.replace("weight", part)].double() for part in ("lora_a", "lora_b"))
            wanted = wanted + scale * 1.5 * b.numpy() @ a.numpy()
        np.testing.assert_allclose(merged[key].numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert merge_adapters(model, scale) is model
    assert [*model.state_dict()] == names and all(p.requires_grad for p in model.parameters())
    assert not any("Adapted" in type(part).__name__ for part in model.modules())
    plain = make(name).eval()
    plain.load_state_dict(merged)
    with torch.no_grad():
        found, fresh = model(x), plain(x)
    for one, two in zip(flatten(found), flatten(fresh), strict=True):
        assert torch.equal(one, two)
    wanted = {0.0: base, 1.0: adapted}.get(scale)
    assert not torch.allclose(base.feature, adapted.feature, rtol=0.01)
    if wanted is not None:
        for one, two in zip(flatten(found), flatten(wanted), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_state_without_adapters_is_merged_as_it_is():
    state = make("resnet18").state_dict()
    merged = merge_state(state, 0.5)
    assert [*merged] == [*state] and all(merged[key] is value for key, value in state.items())


def test_dropout_is_the_adapters_alone_and_in_training():
    model = learn(add_adapters(make("vit_small"), 4, dropout=0.5))
    x = draw(model)
    with torch.no_grad():
        one, two = (model.train()(x).feature for _ in range(2))
        still = [model.eval()(x).feature for _ in range(2)]
    assert not torch.equal(one, two) and torch.equal(*still)


def test_the_seed_draws_the_adapters():
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = add_adapters(make("vit_small"), 2)
        found.append([p for key, p in model.named_parameters() if key.endswith("lora_a")])
    assert all(map(torch.equal, found[0], found[1]))
    assert not any(map(torch.equal, found[0], found[2]))


@pytest.mark.parametrize("name", ["resnet18", "resnet50_boxes"])
def test_a_network_without_such_layers_is_refused_by_name(name):
    model = MODELS[name]((3, 32, 32), 5, 8, 0)
    with pytest.raises(UserError, match=f"{type(model).__name__} has no layers for low-rank"):
        add_adapters(model, 4)
    assert all(p.requires_grad for p in model.parameters())


def test_a_rank_below_one_is_refused():
    with pytest.raises(UserError, match="rank 0: expected a rank of 1"):
        add_adapters(make("vit_small"), 0)
