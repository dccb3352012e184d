"""Vision transformers and what stands on them: the library's functions, published files, heads."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from networks import draw, make, plant, resize
from safetensors.torch import load_file, save_file
from torch import nn

from fdlab.core.errors import UserError
from fdlab.models import MODELS
from fdlab.models.build import load_weights
from fdlab.models.count import build_on_meta, count_parameters
from fdlab.models.dense import Neck
from fdlab.models.detr import detect_with
from fdlab.models.output import describe

transformers = pytest.importorskip("transformers")
NEAR = {"rtol": 1e-5, "atol": 1e-5}
BACKBONES = ["vit_small", "vit_s14", "swin_t", "resnet18", "resnet50"]
DENSE = [f"{name}{use}" for name in BACKBONES for use in ("_pixels", "_boxes")]


@pytest.mark.parametrize(
    "name, published, classifier",
    [
        ("vit_s14", "22.1", 0),
        ("vit_l14", "304.4", 0),
        ("swin_t", "28.3", 1),
        ("resnet50", "25.6", 1),
    ],
)
def test_parameters_are_the_published_number(name, published, classifier):
    """Of DINOv2 without a classifier, for 518 pixels; of the others with a thousand classes."""
    model = build_on_meta(name)
    count = count_parameters(model) - (0 if classifier else count_parameters(model.fc))
    assert f"{count / 1e6:.1f}" == published


def make_library_vit(head: bool) -> nn.Module:
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=12, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        num_labels=7,
    )  # fmt: skip
    kind = "Dinov2WithRegisters" + ("ForImageClassification" if head else "Model")
    return plant(getattr(transformers, kind)(config)).eval()


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("size", [(42, 56), (70, 70)])
def test_a_published_vit_is_the_librarys(tmp_path, head, size):
    """From a file as the library writes it, under the names of published ones."""
    theirs = make_library_vit(head)
    theirs.save_pretrained(tmp_path)
    assert any(name.endswith("attention.attention.query.weight") for name in
               load_file(tmp_path / "model.safetensors"))  # fmt: skip
    ours = MODELS["vit_s14"]((3, *size), 5, 2, 0).eval()
    notes = load_weights(ours, tmp_path)
    assert notes == ["not there: fc, which stays as it was drawn"]
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        output = ours(x)
        body = theirs.dinov2_with_registers if head else theirs
        wanted = body(x, output_hidden_states=True)
    assert [*output.blocks] == [f"block{place}" for place in range(12)]
    assert [*output.maps] == ["block2", "block5", "block8", "block11"]
    rows, columns = size[0] // 14, size[1] // 14
    for map_, tokens in zip(output.blocks.values(), wanted.hidden_states[1:], strict=True):
        grid = tokens[:, 5:].unflatten(1, (rows, columns))  # after the class and four registers
        torch.testing.assert_close(map_, grid.permute(0, 3, 1, 2), **NEAR)
    torch.testing.assert_close(output.feature, wanted.last_hidden_state[:, 5:].mean(1), **NEAR)
    torch.testing.assert_close(output.logits, ours.fc(output.feature), **NEAR)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("size", [(224, 224), (224, 256)])
def test_a_published_swin_is_the_librarys(tmp_path, head, size):
    config = transformers.SwinConfig(embed_dim=6, num_labels=7)
    kind = transformers.SwinForImageClassification if head else transformers.SwinModel
    theirs = plant(kind(config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = MODELS["swin_t"]((3, *size), 7, 4, 0).eval()
    assert load_weights(ours, tmp_path) == (
        [] if head else ["not there: fc, which stays as it was drawn"]
    )
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        output = ours(x)
        body = theirs.swin if head else theirs
        wanted = body(x, output_hidden_states=True, output_hidden_states_before_downsampling=True)
        logits = theirs(x).logits if head else None
    assert [*output.maps] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    for map_, found in zip(output.maps.values(), wanted.reshaped_hidden_states, strict=True):
        torch.testing.assert_close(map_, found, rtol=1e-4, atol=1e-4)
    assert [*output.blocks][-3:] == ["layer3.5", "layer4.0", "layer4.1"]
    torch.testing.assert_close(output.feature, wanted.pooler_output, rtol=1e-4, atol=1e-4)
    if head:
        torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side, patch, stages", [(32, 2, [16, 8, 4, 2]), (64, 4, [16, 8, 4, 2])])
def test_small_images_still_fill_several_windows(side, patch, stages):
    """What one pixel changes stays in its window of 4 × 4 positions, until windows are shifted by
    two."""
    model = plant(MODELS["swin_t"]((3, side, side), 5, 8, 0)).double().eval()
    x = torch.randn(1, 3, side, side).double()
    other = x.clone()
    other[0, 0, 0, 0] += 1
    with torch.no_grad():
        one, two = model(x), model(other)
    assert [map_.shape[2] for map_ in one.maps.values()] == [stages[0], *stages]
    changed = [
        (one.blocks[name] != two.blocks[name]).any(1)[0].nonzero().amax(0).tolist()
        for name in ("layer1.0", "layer1.1")
    ]
    assert changed == [[3, 3], [5, 5]]


@pytest.mark.parametrize("name", ["vit_small", "vit_s14", "swin_t"])
def test_images_of_other_sides_and_sizes_are_fitted_to_the_patches(name):
    model = make(name).eval()
    patch = model.patch
    for size, grid in (((3 * patch + 1, 5 * patch - 1), (3, 5)), ((4 * patch, 4 * patch), (4, 4))):
        output = model(torch.randn(2, 3, *size))
        assert next(iter(output.maps.values())).shape[2:] == grid
        assert output.logits.isfinite().all()


@pytest.mark.parametrize("name", ["vit_small", "swin_t", "vit_small_pixels", "swin_t_boxes"])
def test_the_seed_alone_draws_the_weights(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(MODELS[name]((3, 32, 32), 5, 8, 0).state_dict())
    one, two, other = states
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["vit_small", "swin_t", *DENSE])
def test_frames_are_refused_by_name(name):
    with pytest.raises(UserError, match=rf"{name} has inputs of shape \(2, 3, 64, 64\)"):
        MODELS[name]((2, 3, 64, 64), 5, 8, 0)


@pytest.mark.parametrize("name", ["vit_small", "swin_t_boxes"])
def test_without_the_library_the_extra_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'needs transformers: `pip install "fdlab\[spatial\]"`'):
        MODELS[name]((3, 32, 32), 5, 8, 0)


# Heads.


@pytest.mark.parametrize("name", DENSE)
def test_a_classifiers_weights_go_to_the_encoder_and_nowhere_else(name, tmp_path):
    backbone, _ = name.rsplit("_", 1)
    source, model = make(backbone, classes=9), plant(make(name), 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_weights(model, tmp_path)
    state, own = source.state_dict(), []
    for key, value in model.state_dict().items():
        if key.startswith(model.backbone):
            own.append(key.removeprefix(model.backbone))
            assert torch.equal(value, state[own[-1]]), key
        else:
            assert torch.equal(value, before[key]), key
    assert own == [key for key in state if not key.startswith("fc.")]
    x = draw(model)
    with torch.no_grad():
        one, two = model.eval()(x), source.eval()(x)
    for key, map_ in two.maps.items():
        torch.testing.assert_close(one.maps[key], map_)
    last = one.maps[next(iter(describe(model, x[:1]).pick("last")))]
    torch.testing.assert_close(one.feature, last.mean((2, 3)))


def test_a_published_file_goes_to_the_encoder(tmp_path):
    theirs = make_library_vit(head=True)
    theirs.save_pretrained(tmp_path)
    model = MODELS["vit_s14_boxes"]((3, 56, 56), 5, 2, 0)
    load_weights(model, tmp_path)
    table = theirs.dinov2_with_registers.embeddings.position_embeddings
    assert torch.equal(model.encoder.embeddings.position_embeddings, table)


@pytest.mark.parametrize("size", [(64, 64), (61, 75)])
def test_a_vits_segmenter_is_linear_on_its_normed_patches(size):
    model = make("vit_small_pixels").double().eval()
    x = torch.randn(2, 3, *size).double()
    with torch.no_grad():
        output = model(x)
    state, last = model.state_dict(), output.maps["block5"]
    centred = last - last.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    scale, shift = (state[f"encoder.layernorm.{key}"] for key in ("weight", "bias"))
    normed = normed * scale[:, None, None] + shift[:, None, None]
    kernel, bias = state["classifier.weight"][:, :, 0, 0], state["classifier.bias"]
    scores = torch.einsum("kc,nchw->nkhw", kernel, normed) + bias[:, None, None]
    torch.testing.assert_close(output.logits, resize(scores, size), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vit_small_pixels", "resnet18_pixels"])
def test_a_segmenter_begins_with_every_class_alike(name):
    torch.manual_seed(0)
    logits = MODELS[name]((3, 64, 64), 7, 16, 0)(torch.randn(2, 3, 64, 64)).logits
    surprise = -logits.log_softmax(1).mean()
    assert surprise.item() == pytest.approx(math.log(7), rel=0.01) and logits.std() > 0.01


def test_levels_are_brought_together_on_the_finest():
    neck = plant(Neck([3, 5], 16)).double()
    one, two = torch.randn(2, 3, 7, 6).double(), torch.randn(2, 5, 4, 3).double()
    kernels = [neck.lateral[place].weight[:, :, 0, 0] for place in (0, 1)]
    parts = [torch.einsum("oc,nchw->nohw", k, x) for k, x in zip(kernels, (one, two), strict=True)]
    groups = (parts[0] + resize(parts[1], (7, 6))).unflatten(1, (2, 8))  # eight channels each
    mean = groups.mean((2, 3, 4), keepdim=True)
    variance = groups.var((2, 3, 4), correction=0, keepdim=True)
    normed = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    wanted = normed * neck.norm.weight[:, None, None] + neck.norm.bias[:, None, None]
    torch.testing.assert_close(neck([one, two]), wanted.clamp_min(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vit_small_boxes", "swin_t_boxes", "resnet18_boxes"])
def test_a_detector_begins_rare_and_one_stride_wide(name):
    """A hundredth for every class, a distance of e⁰ strides, whatever the image: the last layer
    adds up 9 · 32 values after a norm and a ReLU, half a square each, times N(0, 0.01²)."""
    torch.manual_seed(0)
    model = MODELS[name]((3, 64, 64), 4, 16, 0).eval()
    output = model(torch.randn(2, 3, 64, 64))
    assert output.logits.shape == (2, 4, 16, 16) and output.boxes.shape == (2, 5, 16, 16)
    distances, centreness = output.boxes.split((4, 1), dim=1)
    for found in (output.logits + math.log(99), distances.log(), centreness):
        assert found.abs().max() < 7 * 0.01 * (288 / 2) ** 0.5 and found.std() > 0.01


def test_distances_are_an_exponential_that_cannot_overflow():
    model = make("vit_small_boxes").eval()
    x, last = draw(model), model.regressor
    with torch.no_grad():
        plain = model(x).boxes
        model.scale.mul_(2)
        torch.testing.assert_close(model(x).boxes[:, :4], plain[:, :4].square())
        last.bias.fill_(1e4)
        assert model(x).boxes.isfinite().all()


# The library's own detectors.


def save_detector(folder, kind: str):
    """A tiny one with random weights, and what prepares its images: 64 pixels, as they are."""
    sizes = {"d_model": 16, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
             "num_queries": 6, "num_labels": 3}  # fmt: skip
    stages = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
              "layer_type": "basic"}  # fmt: skip
    if kind == "detr":
        from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil as Pil

        backbone = transformers.ResNetConfig(out_features=["stage4"], **stages)
        config = transformers.DetrConfig(
            use_timm_backbone=False, backbone=None, backbone_config=backbone, encoder_layers=1,
            **sizes,
        )  # fmt: skip
        model = transformers.DetrForObjectDetection(config)
    else:
        from transformers.models.rt_detr.image_processing_pil_rt_detr import (
            RTDetrImageProcessorPil as Pil,
        )

        three = ["stage2", "stage3", "stage4"]
        backbone = transformers.RTDetrResNetConfig(out_features=three, **stages)
        config = transformers.RTDetrConfig(
            backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 8, 8],
            decoder_in_channels=[16, 16, 16], **sizes,
        )  # fmt: skip
        model = transformers.RTDetrForObjectDetection(config)
    for parameter in model.parameters():  # no two queries alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.config.id2label = {0: "cat", 1: "person", 2: "car"}
    model.save_pretrained(folder)
    Pil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_a_detector_from_a_folder_is_read_as_its_paper_says(tmp_path, kind):
    """DETR: a softmax with "no object" last, one box per query. RT-DETR: a sigmoid, the highest
    scores over queries and classes. Both: centre and size as shares of the image."""
    torch.manual_seed(0)
    model = save_detector(tmp_path, kind)
    images = torch.rand(3, 3, 64, 64)
    found = detect_with(tmp_path, images, batch=2)
    assert found.shape == (3, 6, 6) and found.dtype == torch.float32
    with torch.no_grad():
        x = images
        if kind == "detr":
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
            x = (x - mean[:, None, None]) / std[:, None, None]
        output = model(pixel_values=x)
    for rows, logits, boxes in zip(found, output.logits, output.pred_boxes, strict=True):
        if kind == "detr":
            scores, labels = logits.softmax(1)[:, :-1].max(1)
            place = scores.argsort(descending=True)
            scores, labels = scores[place], labels[place]
        else:
            scores, best = logits.sigmoid().flatten().sort(descending=True)
            scores, place, labels = scores[:6], best[:6] // 3, best[:6] % 3
        middle, half = boxes[place, :2] * 64, boxes[place, 2:] * 32
        wanted = torch.column_stack([labels, scores, middle - half, middle + half])
        torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-3)
    person = detect_with(tmp_path, images, ("person",))
    for rows, whole in zip(person, found, strict=True):
        kept = whole[whole[:, 0] == 1]
        torch.testing.assert_close(rows[: len(kept), 1:], kept[:, 1:], rtol=1e-4, atol=1e-3)
        assert (rows[: len(kept), 0] == 0).all() and (rows[len(kept) :, 0] == -1).all()
        assert not rows[len(kept) :, 1:].any()


def test_a_folder_without_a_whole_detector_is_one_line(tmp_path):
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(UserError, match=r"holds no detector: expected config\.json"):
        detect_with(tmp_path, images)
    save_detector(tmp_path, "detr")
    with pytest.raises(UserError, match=r"unknown class of the detector 'persn'.*'person'"):
        detect_with(tmp_path, images, ("persn",))
    state = load_file(tmp_path / "model.safetensors")
    cut = {name: value for name, value in state.items() if not name.startswith("bbox_predictor")}
    save_file(cut, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 6 weights of its detector: bbox_predictor"):
        detect_with(tmp_path, images)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no detector that runs here"):
        detect_with(tmp_path, images)
