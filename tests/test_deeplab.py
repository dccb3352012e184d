"""DeepLabV3+: the hole algorithm, the function from its parts' names, an encoder's weights."""

from __future__ import annotations

import pytest
import torch
from networks import make, plant, resize
from safetensors.torch import save_file
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.models import MODELS
from fdlab.models.build import load_weights
from fdlab.models.deeplab import DeepLabV3Plus
from fdlab.models.output import describe
from fdlab.models.resnet import ResNet18, ResNet50


@pytest.mark.parametrize("kind", [ResNet18, ResNet50])
@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
def test_the_dilated_stage_gives_at_every_second_position_what_it_gave_before(kind, size):
    plain, dilated = (kind(3, 5, 8, dilate_last=wide).double().eval() for wide in (False, True))
    state = plant(plain).state_dict()
    shapes = {name: value.shape for name, value in dilated.state_dict().items()}
    assert shapes == {name: value.shape for name, value in state.items()}
    dilated.load_state_dict(state)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        one, two = plain(x).maps, dilated(x).maps
    assert two["layer4"].shape[2:] == two["layer3"].shape[2:]
    for name in one:
        seen = two[name][:, :, ::2, ::2] if name == "layer4" else two[name]
        torch.testing.assert_close(seen, one[name], rtol=1e-9, atol=1e-9)


def decode(state: dict[str, torch.Tensor], layer4, layer1, size):
    """ASPP's map and the logits, from an encoder's two maps."""

    def convolve(x, name, rate=1):
        kernel = state[f"{name}.0.weight"]
        x = functional.conv2d(x, kernel, padding=rate * (kernel.shape[-1] // 2), dilation=rate)
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{name}.1.{k}"][:, None, None] for k in keys)
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp_min(0)

    deep, shallow = layer4.clamp_min(0), layer1.clamp_min(0)
    looks = [convolve(deep, f"aspp.branches.{i}", r) for i, r in enumerate((1, 6, 12, 18))]
    mean = convolve(deep.mean(dim=(2, 3))[..., None, None], "aspp.image")
    looks.append(mean.repeat(1, 1, *deep.shape[2:]))
    context = convolve(torch.cat(looks, 1), "aspp.project")
    low = convolve(shallow, "low")
    x = torch.cat([resize(context, low.shape[2:]), low], 1)
    x = convolve(convolve(x, "decoder.0"), "decoder.1")
    kernel, bias = state["classifier.weight"][:, :, 0, 0], state["classifier.bias"]
    scores = torch.einsum("kc,nchw->nkhw", kernel, x) + bias[:, None, None]
    return context, resize(scores, size)


@pytest.mark.parametrize("size", [(320, 256), (75, 131)])
def test_it_computes_the_function_of_its_parts(size):
    """From the encoder's maps, with images large enough for every dilation to matter."""
    model = plant(DeepLabV3Plus(3, 4, 8).double()).eval()
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        output = model(x)
    maps = output.maps
    assert [*maps] == ["stem", "layer1", "layer2", "layer3", "layer4", "aspp"]
    context, logits = decode(model.state_dict(), maps["layer4"], maps["layer1"], size)
    torch.testing.assert_close(maps["aspp"], context, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.feature, maps["layer4"].mean(dim=(2, 3)))
    assert output.logits.shape == (1, 4, *size) and logits.std() > 0.1


def test_its_parameters_are_the_published_sizes():
    with torch.device("meta"):
        model = DeepLabV3Plus(3, 40)
    encoder = 11_689_512 - 513_000  # torchvision's ResNet-18 without its classifier
    looks = 512 * 256 * (1 + 3 * 9 + 1) + 5 * 2 * 256
    joined = 5 * 256 * 256 + 2 * 256
    decoder = (64 * 48 + 2 * 48) + (304 + 256) * 256 * 9 + 2 * 2 * 256 + 40 * (256 + 1)
    assert sum(p.numel() for p in model.parameters()) == encoder + looks + joined + decoder
    with torch.device("meta"):
        resnet = ResNet18(3, 40)
    prefix = "encoder."
    own = [k.removeprefix(prefix) for k in model.state_dict() if k.startswith(prefix)]
    assert own == [name for name in resnet.state_dict() if not name.startswith("fc.")]


def test_no_convolution_is_narrower_than_eight_channels():
    model = DeepLabV3Plus(3, 8, 8)
    sizes = {size for p in model.parameters() if p.ndim == 4 for size in p.shape[:2]}
    assert min(sizes - {3}) == 8 and model.low[0].out_channels == 8


@pytest.mark.parametrize("counters", [True, False], ids=["new", "old"])
def test_a_resnets_weights_go_to_the_encoder_and_nowhere_else(tmp_path, counters):
    """Also those of a time when batch norm had no counter."""
    resnet, model = make("resnet18", classes=1000), plant(make("deeplabv3plus"), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = resnet.state_dict()
    state = {k: v for k, v in state.items() if counters or "num_batches" not in k}
    save_file(state, tmp_path / "resnet18.safetensors")
    load_weights(model, tmp_path / "resnet18.safetensors")
    for name, value in model.state_dict().items():
        source = state.get(name.removeprefix("encoder."), before[name])
        assert torch.equal(value, source), name
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        map_, plain = model.eval()(x).maps["layer4"], resnet.eval()(x).maps["layer4"]
    torch.testing.assert_close(map_[:, :, ::2, ::2], plain, rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_trains_although_its_image_pooling_has_a_single_value():
    model = DeepLabV3Plus(3, 4, 8).train()
    inside = model.aspp.image[1]
    model(torch.randn(1, 3, 64, 64)).logits.sum().backward()
    assert not inside.running_mean.any(), "no statistics of a single value"
    model(torch.randn(2, 3, 64, 64))
    assert inside.running_mean.any()


def test_frames_are_refused():
    with pytest.raises(UserError, match=r"\(3, 3, 64, 64\): expected images"):
        MODELS["deeplabv3plus"]((3, 3, 64, 64), 4, 8, 0)


def test_the_encoder_reads_nothing_back_from_the_decoder():
    """Stages, blocks and norms are the encoder's; the feature is its last stage's mean."""
    model = make("deeplabv3plus")
    side = describe(model, torch.randn(1, 3, 64, 64))
    assert side.head is None and [*side.norms] == [*side.pick("stages")]
    assert [*side.blocks] == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert side.pick("context")["aspp"] == (32, 4, 4) and side.pick("last")["layer4"] == (64, 4, 4)
