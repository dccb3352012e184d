"""MobileNetV2 is torchvision's function under torchvision's names."""

from __future__ import annotations

import pytest
import torch
from networks import plant
from torch import nn
from torch.nn import functional

from fdlab.models.mobilenetv2 import MobileNetV2

# Of the 17 blocks at width 64, as the paper's Table 2 unrolls: channels, and where strides are.
CHANNELS = [16] + 2 * [24] + 3 * [32] + 4 * [64] + 3 * [96] + 3 * [160] + [320]
STRIDED = (2, 4, 7, 14)


def list_reference_shapes(channels: int, classes: int) -> dict[str, tuple]:
    """Names and shapes of torchvision's state dict, in its order."""
    shapes = {}

    def norm(name: str, size: int):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (size,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def convolve(name: str, *shape: int):
        shapes[f"{name}.0.weight"] = shape
        norm(f"{name}.1", shape[0])

    convolve("features.0", 32, channels, 3, 3)
    before = 32
    for block, size in enumerate(CHANNELS, 1):
        name, middle, place = f"features.{block}.conv", before, 0
        if block > 1:
            middle, place = 6 * before, 1
            convolve(f"{name}.0", middle, before, 1, 1)
        convolve(f"{name}.{place}", middle, 1, 3, 3)
        shapes[f"{name}.{place + 1}.weight"] = (size, middle, 1, 1)
        norm(f"{name}.{place + 2}", size)
        before = size
    convolve("features.18", 1280, 320, 1, 1)
    return shapes | {"classifier.1.weight": (classes, 1280), "classifier.1.bias": (classes,)}


def forward_as_reference(state: dict[str, torch.Tensor], x: torch.Tensor):
    """Logits, the last map before its ReLU6, and every block's output, from the names alone."""

    def convolve(x, weight, norm, stride=1):
        kernel = state[weight]
        groups = x.shape[1] // kernel.shape[1]
        x = functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{norm}.{k}"][:, None, None] for k in keys)
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = convolve(x, "features.0.0.weight", "features.0.1", 2).clamp(0, 6)
    ends = [x]
    for block in range(1, 18):
        name = f"features.{block}.conv"
        stride = 2 if block in STRIDED else 1
        y, place = x, 0
        if block > 1:
            y, place = convolve(x, f"{name}.0.0.weight", f"{name}.0.1").clamp(0, 6), 1
        y = convolve(y, f"{name}.{place}.0.weight", f"{name}.{place}.1", stride).clamp(0, 6)
        y = convolve(y, f"{name}.{place + 1}.weight", f"{name}.{place + 2}")
        x = x + y if x.shape == y.shape else y
        ends.append(x)
    last = convolve(x, "features.18.0.weight", "features.18.1")
    pooled = last.clamp(0, 6).mean(dim=(2, 3))
    return pooled @ state["classifier.1.weight"].T + state["classifier.1.bias"], last, ends


def test_it_has_torchvisions_names_shapes_and_parameter_count():
    with torch.device("meta"):
        model = MobileNetV2(3, 1000)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert list(shapes.items()) == list(list_reference_shapes(3, 1000).items())
    assert len(shapes) == 314
    assert sum(p.numel() for p in model.parameters()) == 3_504_872


@pytest.mark.parametrize("channels, size", [(3, (64, 48)), (1, (33, 32))])
def test_it_computes_the_reference_function(channels, size):
    model = plant(MobileNetV2(channels, 5).double()).eval()
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        output = model(x)
        logits, last, ends = forward_as_reference(model.state_dict(), x)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(output.logits, logits, **close)
    torch.testing.assert_close(output.feature, last.mean(dim=(2, 3)), **close)
    torch.testing.assert_close(output.maps["layer5"], last, **close)
    torch.testing.assert_close(output.maps["stem"], ends[0], **close)
    for stage, place in enumerate((3, 6, 13, 17), 1):
        torch.testing.assert_close(output.maps[f"layer{stage}"], ends[place], **close)
    assert [*output.blocks] == [f"features.{place}" for place in range(1, 18)]
    for place, block in enumerate(output.blocks.values(), 1):
        torch.testing.assert_close(block, ends[place], **close)
    assert (last < 0).any() and ((last > 0) & (last < 6)).any()
    assert not torch.allclose(logits[0], logits[1])


def test_the_logits_are_clamped_at_six():
    model = plant(MobileNetV2(3, 5)).eval()
    model.features[18][1].bias.data.fill_(100.0)
    logits = model(torch.randn(2, 3, 32, 32)).logits
    sixes = model.fc(torch.full((2, 1280), 6.0))
    torch.testing.assert_close(logits, sixes)


def test_stages_end_at_a_quarter_to_a_thirty_second_of_the_image():
    maps = MobileNetV2(3, 5, 16).eval()(torch.zeros(1, 3, 64, 96)).maps
    sizes = {name: tuple(x.shape[2:]) for name, x in maps.items()}
    divided = {"stem": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32, "layer5": 32}
    assert [*sizes] == [*divided]
    assert sizes == {name: (64 // by, 96 // by) for name, by in divided.items()}


@pytest.mark.parametrize(
    "width, stem, blocks, last",
    [
        # torchvision's channels at width_mult 0.25, 0.5, 0.75 and 1.4
        (16, 8, [8, 8, 8, 16, 24, 40, 80], 1280),
        (32, 16, [8, 16, 16, 32, 48, 80, 160], 1280),
        (48, 24, [16, 24, 24, 48, 72, 120, 240], 1280),
        (89.6, 48, [24, 32, 48, 88, 136, 224, 448], 1792),
    ],
)
def test_other_widths_round_channels_as_torchvision_does(width, stem, blocks, last):
    with torch.device("meta"):
        model = MobileNetV2(3, 5, width)
    ends = [model.features[i].conv[-1].num_features for i in (1, 2, 4, 7, 11, 14, 17)]
    assert (model.features[0][0].out_channels, ends) == (stem, blocks)
    assert model.feature_width == model.fc.in_features == last


def test_it_starts_as_torchvisions_does():
    model = MobileNetV2(3, 400)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()  # torch counts all channels, grouped or not
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.fc.bias.any() and model.classifier[0].p == 0.2


def test_small_images_are_enough():
    output = MobileNetV2(1, 5, 16).train()(torch.randn(2, 1, 32, 32))
    assert output.maps["layer5"].shape == (2, 1280, 1, 1)
    assert torch.isfinite(output.logits).all()


def test_it_equals_the_installed_torchvision():
    try:
        from torchvision.models import mobilenet_v2
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import: {error}")
    for factor in (1.0, 0.5):
        theirs = plant(mobilenet_v2(width_mult=factor).double()).eval()
        ours = MobileNetV2(3, 1000, round(64 * factor)).double().eval()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        torch.testing.assert_close(ours(x).logits, theirs(x), rtol=1e-9, atol=1e-9)
