"""Laws that every network in the table keeps, and frames."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from networks import DEEPER, LAWFUL, ZOO, draw, make, plant
from safetensors.torch import save_file
from torch import nn

from fdlab.cli import main
from fdlab.core.errors import UserError
from fdlab.methods.base import Sizes, build_method
from fdlab.models import MODELS, find_use
from fdlab.models.build import load_weights, place
from fdlab.models.frames import fold_frames, stack_frames
from fdlab.models.output import Side, describe

POOLED = (
    "resnet18",
    "resnet34",
    "mobilenetv1",
    "mobilenetv2",
    "resnet50",
    "textcnn",
    *ZOO,
    *(name for name in MODELS if find_use(name) in ("pixels", "boxes")),
)  # the feature: a map's mean
VIDEO = ("resnet18", "resnet50", "mobilenetv2", *(name for name in ZOO if name not in DEEPER))


def assert_near(one: torch.Tensor, two: torch.Tensor) -> None:
    """Sums in another order, in a deep network whose values grow."""
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * one.abs().max().clamp_min(1).item())


def flatten(output) -> list[torch.Tensor]:
    boxes = [] if output.boxes is None else [output.boxes]
    return [output.logits, output.feature, *boxes, *output.maps.values(), *output.blocks.values()]


@pytest.mark.parametrize("name", LAWFUL)
def test_what_a_network_returns_is_what_it_says_of_itself(name):
    model = make(name).eval()
    inputs = draw(model)
    output, side = model(inputs), describe(model, inputs[:1])
    assert output.feature.shape == (3, model.feature_width) and side.width == model.feature_width
    use = find_use(name)
    if use == "boxes":
        places = (16, 16)  # of 64 pixels, at 1/4
        assert output.boxes.shape == (3, 5, *places) and (output.boxes[:, :4] > 0).all()
    else:
        places = inputs.shape[2:] if use == "pixels" else ()
        assert output.boxes is None
    assert output.logits.shape == (3, 5, *places)
    for shapes, found in ((side.maps, output.maps), (side.blocks, output.blocks)):
        assert shapes == {k: tuple(x.shape[1:]) for k, x in found.items()}
    sizes = [math.prod(side.maps[stage][1:]) for stage in output.stages]
    assert sizes == sorted(sizes, reverse=True), "stages run from shallow to deep"
    assert not any("." in stage for stage in output.maps), "methods name their modules after them"
    assert set(side.norms) <= set(output.stages)
    assert all(len(norm.weight) == side.maps[k][0] for k, norm in side.norms.items())
    assert (side.head is None) == (use in ("pixels", "boxes")) == bool(model.backbone)
    parameters = dict(model.named_parameters())
    head = parameters[f"{model.head}.weight"]
    assert len(head) == 5
    assert not model.entry or parameters[model.entry].shape[1] == inputs.shape[1]
    if side.head is not None:
        assert side.head.weight is head and side.head.in_features == model.feature_width
    if name in POOLED:
        there = 1.0 if output.mask is None else output.mask.mean(dim=1, keepdim=True)
        last = output.maps[next(iter(side.pick("last")))]
        torch.testing.assert_close(output.feature, last.flatten(2).mean(2) / there)
        assert (last < 0).any() and (last > 0).any(), "maps are before the activation"


@pytest.mark.parametrize("name", LAWFUL)
def test_rows_are_independent_and_dropout_is_off_in_eval_mode(name):
    model = make(name).eval()
    inputs, order = draw(model), torch.tensor([2, 0, 1])
    with torch.no_grad():
        found, other = model(inputs), model(inputs[order])
        for one, two in zip(flatten(found), flatten(model(inputs)), strict=True):
            assert torch.equal(one, two)
        for one, two in zip(flatten(found), flatten(other), strict=True):
            torch.testing.assert_close(one[order], two, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found.logits[0], found.logits[1])
        drops = any(isinstance(part, nn.Dropout) and part.p for part in model.modules())
        model.train()
        again = [model(inputs).logits for _ in range(2)]
        assert torch.equal(*again) != drops


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", LAWFUL)
def test_every_network_trains_on_a_batch_however_small(name, count):
    """Every parameter has a finite gradient from the logits, at the published initialisation."""
    torch.manual_seed(0)
    model = MODELS[name]((3, 64, 64), 5, 8, 20).train()
    output = model(draw(model, count))
    read = (output.logits, output.feature, output.boxes)
    sum(x.square().mean() for x in read if x is not None).backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all(), parameter


@pytest.mark.parametrize("name", LAWFUL)
def test_the_layout_on_the_device_changes_no_result(name):
    model = make(name).eval()
    inputs = draw(model)
    with torch.no_grad():
        before = model(inputs)
        after = place(model, torch.device("cpu"))(inputs)
    for one, two in zip(flatten(before), flatten(after), strict=True):
        assert_near(one, two)


@pytest.mark.parametrize("name", LAWFUL)
def test_weights_come_back_without_a_classifier_for_other_classes(name, tmp_path):
    source, target = make(name, classes=7), plant(make(name), 3)
    path = tmp_path / "seven.safetensors"
    save_file(source.state_dict(), path)
    own = {k: v.clone() for k, v in target.state_dict().items()}
    (note,) = load_weights(target, path)
    assert f"{target.head} for 7 classes, not 5" in note
    for key, value in target.state_dict().items():
        wanted = own if key.startswith(f"{target.head}.") else source.state_dict()
        assert torch.equal(value, wanted[key]), key


@pytest.mark.parametrize(
    "name", [*VIDEO, "deeplabv3plus", "vit_small", "swin_t", "vit_small_pixels", "resnet18_boxes"]
)
def test_a_colour_filter_is_summed_for_a_grey_input(name, tmp_path):
    colour = make(name).eval()
    grey = make(name, channels=1).eval()
    torch.save(colour.state_dict(), tmp_path / "colour.pth")
    (note,) = load_weights(grey, tmp_path / "colour.pth")
    assert colour.entry in note
    x = draw(colour)[:, :1]
    with torch.no_grad():
        pair = grey(x).logits, colour(x.expand(-1, 3, -1, -1)).logits
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VIDEO)
def test_frames_are_images_whose_positions_are_pooled_together(name):
    model = make(name).eval()
    frames = draw(model, 6).unflatten(0, (2, 3))
    with torch.no_grad():
        output, single = model(frames), [model(frames[:, i]) for i in range(3)]
    assert_near(output.feature, sum(x.feature for x in single) / 3)
    logits = sum(x.logits for x in single) / 3  # the classifier is affine
    assert_near(output.logits, logits)
    for found, parts in (
        *((x, [s.maps[k] for s in single]) for k, x in output.maps.items()),
        *((x, [s.blocks[k] for s in single]) for k, x in output.blocks.items()),
    ):
        assert_near(found, torch.cat(parts, dim=2))
    assert not torch.allclose(single[0].feature, single[1].feature)


@pytest.mark.parametrize("name", VIDEO)
def test_one_frame_is_an_image(name):
    model = make(name).eval()
    image = draw(model)
    for one, two in zip(flatten(model(image)), flatten(model(image[:, None])), strict=True):
        assert torch.equal(one, two)


def test_frames_fold_and_stack_by_counting():
    x = torch.arange(2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6)
    folded, count = fold_frames(x)
    stacked = stack_frames(folded, count)
    assert count == 3 and stacked.shape == (2, 4, 15, 6)
    for n, f, c, row in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 3), (0, 2, 1, 1)):
        assert torch.equal(stacked[n, c, 5 * f + row], x[n, f, c, row])
    images, none = fold_frames(x[0])
    assert torch.equal(images, x[0]) and none == 0 and stack_frames(images, none) is images


def test_the_decoders_map_is_no_stage_and_is_what_context_means():
    shapes = {"stem": (4, 9, 9), "layer1": (4, 9, 9), "layer2": (8, 3, 3), "aspp": (6, 3, 3)}
    side = Side(8, shapes)
    assert [*side.pick("stages")] == ["layer1", "layer2"]
    assert [*side.pick("last")] == ["layer2"] and [*side.pick("penultimate")] == ["layer1"]
    assert [*side.pick("middle")] == ["layer1"]
    assert side.pick("context") == {"aspp": (6, 3, 3)}
    plain = Side(8, {name: shape for name, shape in shapes.items() if name != "aspp"})
    assert plain.pick("context") == {"layer2": (8, 3, 3)}
    with pytest.raises(UserError, match="no maps"):
        Side(8, {"stem": (4, 9, 9), "aspp": (6, 3, 3)}).pick("context")


def test_a_method_that_reads_a_linear_classifier_says_that_there_is_none():
    side = describe(model := make("deeplabv3plus"), draw(model))
    with pytest.raises(UserError, match="catkd needs a linear classifier"):
        build_method("catkd", {}, Sizes(side, side, 5))


def test_fdlab_models_counts_the_published_sizes(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name, width, count, macs in (
        (
            "resnet18",
            512,
            "11,689,512 parameters",
            ", 1,814.1 million MACs",
        ),  # torchvision's 1.81 G
        ("mobilenetv2", 1280, "3,504,872 parameters", ", 300.8 million MACs"),
        ("bert", 768, "109,482,240 without the classifier", "classifier"),
        ("resnet20", 64, "3×32×32, 100 classes", ", 40.8 million MACs"),
    ):
        lines = text[text.index(f"\n{name} ") :].splitlines()[1:3]
        assert f"D = {width}," in lines[1] and count in lines[1] and lines[1].endswith(macs)
    assert all(f"{name} " in text for name in MODELS)


def test_fdlab_models_lists_networks_whose_extra_is_not_installed(capsys, monkeypatch):
    places = {name: MODELS.places[name] for name in ("vit_small", "resnet8")}
    monkeypatch.setattr(MODELS, "places", places)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert 'vit_small needs transformers: `pip install "fdlab[spatial]"`' in text
    assert "\nresnet8 " in text
