"""ResNet-18 is torchvision's function under torchvision's names; weights, seeds and modes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.data.dataset import Dataset, Modality
from fdlab.models.build import build_model, find_weights, load_weights
from fdlab.models.mode import evaluating, freeze
from fdlab.models.resnet import ResNet18, ResNet50
from fdlab.models.textcnn import TextCNN


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and batch statistics, so that no term hides behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(noise.abs() + 0.5 if "running_var" in name else 0.3 * noise)
    return model


def list_torchvision_shapes(channels: int, classes: int, width: int) -> dict[str, tuple]:
    shapes = {"conv1.weight": (width, channels, 7, 7)}

    def norm(name: str, size: int):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (size,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", width)
    before = width
    for stage in range(4):
        size = width * 2**stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (size, before, 3, 3)
            norm(f"{name}.bn1", size)
            shapes[f"{name}.conv2.weight"] = (size, size, 3, 3)
            norm(f"{name}.bn2", size)
            if stage and not block:
                shapes[f"{name}.downsample.0.weight"] = (size, before, 1, 1)
                norm(f"{name}.downsample.1", size)
            before = size
    return shapes | {"fc.weight": (classes, before), "fc.bias": (classes,)}


def forward_as_torchvision(state: dict[str, torch.Tensor], x: torch.Tensor):
    """Logits and layer4's last sum before its ReLU, with a ReLU at the end of every block."""

    def norm(name, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = functional.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(functional.relu(norm("bn1", x)), 3, stride=2, padding=1)
    for name in (key.removesuffix(".conv1.weight") for key in state if key[:5] == "layer"
                 and key.endswith(".conv1.weight")):  # fmt: skip
        stride = 2 if name[5] != "1" and name.endswith(".0") else 1
        last = max(part for part in (2, 3) if f"{name}.conv{part}.weight" in state)
        y = x
        for part in range(1, last + 1):
            kernel = state[f"{name}.conv{part}.weight"]
            step = stride if part == last - 1 else 1  # the first of two, the second of three
            y = functional.conv2d(y, kernel, stride=step, padding=kernel.shape[-1] // 2)
            y = norm(f"{name}.bn{part}", y)
            y = functional.relu(y) if part < last else y
        if f"{name}.downsample.0.weight" in state:
            x = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
            x = norm(f"{name}.downsample.1", x)
        total = x + y
        x = functional.relu(total)
    pooled = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    return functional.linear(pooled, state["fc.weight"], state["fc.bias"]), total


def test_resnet18_has_torchvisions_names_shapes_and_parameter_count():
    with torch.device("meta"):
        model = ResNet18(3, 1000, 64)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert list(shapes.items()) == list(list_torchvision_shapes(3, 1000, 64).items())
    assert sum(p.numel() for p in model.parameters()) == 11_689_512


def test_resnet50_has_torchvisions_names_and_parameter_count():
    with torch.device("meta"):
        model = ResNet50(3, 1000, 64)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(shapes) == 320 and shapes["fc.weight"] == (1000, 2048)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)


@pytest.mark.parametrize("kind", [ResNet18, ResNet50])
@pytest.mark.parametrize("channels, size", [(3, (33, 47)), (1, (64, 40))])
def test_a_resnet_computes_torchvisions_function(kind, channels, size):
    model = randomise(kind(channels, 5, 8).double()).eval()
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1)).double()
    output = model(x)
    logits, total = forward_as_torchvision(model.state_dict(), x)
    near = {"rtol": 1e-10, "atol": 1e-10 * total.abs().max().item()}
    torch.testing.assert_close(output.logits, logits, **near)
    torch.testing.assert_close(output.maps["layer4"], total, **near)
    assert (total < 0).any() and (total > 0).any()


@pytest.mark.parametrize("kind", [ResNet18, ResNet50])
def test_a_resnet_equals_the_installed_torchvision(kind):
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import: {error}")
    theirs = randomise(getattr(models, kind.__name__.lower())().double()).eval()
    ours = kind(3, 1000, 64).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x).logits, theirs(x), rtol=1e-9, atol=1e-9)


def test_the_feature_is_pooled_before_the_relu_and_the_logits_read_it_after():
    model = randomise(ResNet18(3, 5, 8)).eval()
    output = model(torch.randn(2, 3, 64, 64))
    last = output.maps["layer4"]
    assert output.feature.shape == (2, 64) and model.feature_width == 64
    assert list(output.maps) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    torch.testing.assert_close(output.feature, last.flatten(2).mean(2))
    torch.testing.assert_close(output.logits, model.fc(last.clamp_min(0).flatten(2).mean(2)))
    assert not torch.allclose(output.logits, model.fc(output.feature.clamp_min(0)))


def test_resnet18_starts_as_the_paper_says():
    model = ResNet18(3, 50, 32)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    bound = (6 / (model.fc.in_features + model.fc.out_features)) ** 0.5
    assert 0.98 * bound < model.fc.weight.abs().max() <= bound and not model.fc.bias.any()


def test_padding_does_not_change_what_textcnn_gives():
    model = randomise(TextCNN(20, 4, 2)).eval()
    short, long = torch.tensor([[3, 7, 19]]), torch.tensor([[5, 1, 2, 8, 11, 4]])
    padded = torch.zeros(2, 9, dtype=torch.int64)
    padded[0, :3], padded[1, :6] = short, long
    together = model(padded)
    for row, sentence in enumerate((short, long)):
        alone = model(sentence)
        torch.testing.assert_close(together.feature[row], alone.feature[0])
        torch.testing.assert_close(together.logits[row], alone.logits[0])
        for name, kept in together.maps.items():
            words = sentence.shape[1]
            torch.testing.assert_close(kept[row, :, :words], alone.maps[name][0])
            assert not kept[row, :, words:].any()


def test_textcnns_feature_is_the_mean_over_words_before_the_relu():
    model = randomise(TextCNN(20, 4, 2)).eval()
    output = model(torch.tensor([[3, 7, 19, 4, 0, 0]]))
    last = output.maps["layer2"][:, :, :4]
    torch.testing.assert_close(output.feature, last.mean(2))
    torch.testing.assert_close(output.logits, model.fc(last.clamp_min(0).mean(2)))
    assert output.feature.shape == (1, model.feature_width) == (1, 16)


def test_a_sentence_without_words_is_finite():
    model = randomise(TextCNN(20, 4, 2)).eval()
    output = model(torch.zeros(2, 5, dtype=torch.int64))
    assert not output.feature.any()
    torch.testing.assert_close(output.logits, model.fc.bias.expand(2, 4))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_come_back_from_a_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    source, target = randomise(ResNet18(1, 3, 8), 1), randomise(ResNet18(1, 3, 8), 2)
    state = source.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    load_weights(target, path)
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]), name


WRONG = {
    "missing": (".pth", lambda path, state: None, "no such weights file"),
    "missing_safe": (".safetensors", lambda path, state: None, "no such weights file"),
    "names": (".pth", lambda p, s: torch.save({"fc.weigth": s["fc.weight"]}, p), "fc.weigth"),
    "names_safe": (".safetensors", lambda p, s: save_file({"x": s["fc.bias"]}, p), "does not fit"),
    "shape": (".pth", lambda p, s: torch.save(s | {"fc.bias": torch.ones(7)}, p), r"\(7,\)"),
    "shape_safe": (
        ".safetensors",
        lambda p, s: save_file(s | {"fc.bias": torch.ones(7)}, p),
        r"fc.bias has shape \(7,\), expected \(3,\)",
    ),
    "nested": (".pth", lambda p, s: torch.save({"state_dict": s}, p), "state_dict"),
    "garbage": (".pth", lambda p, s: p.write_bytes(b"<html>no</html>"), "no readable weights"),
    "garbage_safe": (".safetensors", lambda p, s: p.write_bytes(b"x" * 99), "no readable weights"),
    "cut": (
        ".pth",
        lambda p, s: (torch.save(s, p), p.write_bytes(p.read_bytes()[:5000])),
        "no readable weights",
    ),
    "empty": (".pth", lambda p, s: p.write_bytes(b""), "no readable weights: ."),
    "pickled code": (".pth", lambda p, s: torch.save(nn.Linear(2, 2), p), "no readable weights"),
    "no tensors": (".pth", lambda p, s: torch.save(dict.fromkeys(s, 0), p), None),
    "a list": (".pth", lambda p, s: torch.save([s], p), None),
    "numbered": (".pth", lambda p, s: torch.save({0: s["fc.bias"], "a": s["fc.bias"]}, p), None),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights_are_one_line_that_names_the_file_and_change_nothing(tmp_path, kind):
    suffix, write, message = WRONG[kind]
    path, model = tmp_path / f"weights{suffix}", randomise(ResNet18(1, 3, 8))
    write(path, randomise(ResNet18(1, 3, 8), 5).state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def make_store(folder: Path = Path("no folder")):
    modalities = {"image": Modality("resnet18"), "audio": Modality("resnet18")}
    modalities["text"] = Modality("textcnn")
    shapes = {"image": (4, 3, 8, 8), "audio": (4, 3, 8, 8), "text": (4, 6)}
    return SimpleNamespace(
        dataset=Dataset("some", "", 4, modalities, object, None, ()),
        read=lambda name: torch.zeros(shapes[name]),
        info={"vocabulary": ["[PAD]", "a", "b"]},
        find_weights=lambda name: next(iter(folder.glob(f"weights_{name}.*")), None),
    )


def test_a_classifier_for_other_classes_is_left_out(tmp_path):
    source, target = ResNet18(1, 7, 8), ResNet18(1, 3, 8)
    before = target.fc.weight.clone()
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    load_weights(target, tmp_path / "seven.pth")
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert torch.equal(target.fc.weight, before)


def test_a_mismatch_lists_twenty_names_of_each_kind_and_how_many_there_are(tmp_path):
    state = {f"extra.{i}": torch.ones(1) for i in range(3)}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as caught:
        load_weights(ResNet18(1, 3, 8), tmp_path / "other.safetensors")
    # 20 convolutions, 20 norms of four tensors (their counters may lack) and a classifier
    missing, extra = str(caught.value).split("does not fit: ")[1].split("; ")
    assert extra == "unexpected 3 (extra.0, extra.1, extra.2)"
    own = sorted(n for n in ResNet18(1, 3, 8).state_dict() if "num_batches" not in n)
    assert missing == f"missing 102 ({', '.join(own[:20])}, …)"
    save_file(ResNet18(1, 3, 16).state_dict(), tmp_path / "wide.safetensors")
    first = r"other shapes 101 \(conv1.weight has shape \(16, 1, 7, 7\), expected \(8, 1, 7, 7\), "
    with pytest.raises(UserError, match=first):  # all but the classifier's bias
        load_weights(ResNet18(1, 3, 8), tmp_path / "wide.safetensors")


def test_a_folder_is_read_by_its_first_known_file(tmp_path):
    with pytest.raises(UserError, match=r"expected model\.safetensors or"):
        find_weights(tmp_path)
    source, target = (randomise(ResNet18(1, 3, 8), seed) for seed in (1, 2))
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    assert load_weights(target, str(tmp_path)) == []
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_weights_from_the_hub_are_fetched_once_by_the_first_file_there_is(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, file):
        asked.append((name, file))
        if file == "model.safetensors":
            raise hub.errors.EntryNotFoundError("404")
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    torch.save(
        (source := randomise(ResNet18(1, 3, 8))).state_dict(), tmp_path / "pytorch_model.bin"
    )
    for _ in range(2):
        load_weights(target := ResNet18(1, 3, 8), "hub:some/resnet")
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert asked == [("some/resnet", "model.safetensors"), ("some/resnet", "pytorch_model.bin")]


def test_without_a_network_the_hub_is_one_line(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match="hub:some/bert cannot be fetched: the hub cannot"
    ) as caught:
        find_weights("hub:some/bert")
    assert "\n" not in str(caught.value) and "local file" in str(caught.value)
    with pytest.raises(UserError, match="'hub:a b c' names no repository"):
        find_weights("hub:a b c")


def test_without_its_library_the_hub_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "fdlab\[hub\]"'):
        find_weights("hub:other/bert")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_networks_start_from_the_weights_that_a_data_set_was_prepared_with(tmp_path, suffix):
    """Every side from its own, under every seed; the seed draws the classifier."""
    source, path = randomise(ResNet18(3, 1000, 8)), tmp_path / f"weights_image{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(
        source.state_dict(), path
    )
    store = make_store(tmp_path)
    one, two = (build_model(store, "image", width=8, seed=seed) for seed in (3, 4))
    for name, value in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(one.state_dict()[name], value), name
            assert torch.equal(two.state_dict()[name], value), name
    plain = build_model(store, "image", width=8, seed=3, pretrained=False)
    assert torch.equal(one.fc.weight, plain.fc.weight)
    assert not torch.equal(one.fc.weight, two.fc.weight)
    assert not torch.equal(one.conv1.weight, plain.conv1.weight)
    audio = build_model(store, "audio", width=8, seed=3)
    assert not torch.equal(audio.conv1.weight, source.conv1.weight)
    start = build_model(store, "audio", width=8, seed=3, start="image")
    assert torch.equal(start.conv1.weight, source.conv1.weight)
    with pytest.raises(UserError, match="image has resnet18 of width 16"):
        build_model(store, "image", width=16, seed=3)


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_the_initialisation_follows_from_seed_and_modality_alone(modality):
    first = build_model(make_store(), modality, width=8, seed=3)
    torch.manual_seed(123)
    torch.randn(7)
    state = torch.get_rng_state()
    again = build_model(make_store(), modality, width=8, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    other = build_model(make_store(), modality, width=8, seed=4)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_two_modalities_never_start_from_the_same_weights():
    image, audio = (build_model(make_store(), m, width=8, seed=3) for m in ("image", "audio"))
    for (name, a), b in zip(image.named_parameters(), audio.parameters(), strict=True):
        assert a.shape == b.shape
        if a.ndim > 1:
            assert not torch.equal(a, b), name
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.2, name


def mixed_modes() -> nn.Module:
    model = ResNet18(1, 3, 8)
    model.train()
    model.layer2.eval()
    model.layer2[0].bn1.train()
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_gives_every_submodule_its_own_mode_back(fails):
    model, other = mixed_modes(), nn.Dropout()
    before = [part.training for part in model.modules()]
    assert True in before and False in before
    try:
        with evaluating(model, other):
            assert not any(part.training for part in model.modules()) and not other.training
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert [part.training for part in model.modules()] == before and other.training


def test_a_frozen_network_stays_frozen():
    model = freeze(mixed_modes())
    holder = nn.ModuleList([model, nn.Dropout()])
    assert model.train() is model and model.train(True) is model
    holder.train()
    assert not any(part.training for part in model.modules()) and holder[1].training
    assert not any(p.requires_grad for p in model.parameters())
    statistics = model.bn1.running_mean.clone()
    assert not model(torch.randn(4, 1, 32, 32)).logits.requires_grad
    assert torch.equal(model.bn1.running_mean, statistics)
