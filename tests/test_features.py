"""Capture takes what it says and leaves no hook; banks stay aligned and repair themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.data import paired
from fdlab.data.paired import PairedData
from fdlab.features.bank import FeatureBank, extract, keep_bank
from fdlab.features.capture import capture
from fdlab.models.resnet import ResNet18
from fdlab.models.textcnn import TextCNN


def count_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in model.modules() for kind in kinds)


@pytest.fixture(scope="module")
def model() -> ResNet18:
    torch.manual_seed(0)
    return ResNet18(1, 3, 8).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_captured_outputs_and_inputs_equal_those_computed_by_hand(model, images):
    stem = model.conv1(images)
    normalised = model.bn1(stem)
    with capture(model, "conv1", "bn1", "maxpool") as seen:
        model(images)
    with capture(model, "conv1", "bn1", "fc", side="input") as taken:
        output = model(images)
    assert torch.equal(seen["conv1"], stem) and torch.equal(seen["bn1"], normalised)
    assert torch.equal(seen["maxpool"], model.maxpool(torch.relu(normalised)))
    assert torch.equal(taken["conv1"], images) and torch.equal(taken["bn1"], stem)
    assert torch.equal(model.fc(taken["fc"]), output.logits)


def test_captured_layers_are_the_maps_that_the_network_returns(model, images):
    with capture(model, "layer?") as seen:
        output = model(images)
    assert list(seen) == ["layer1", "layer2", "layer3", "layer4"]
    assert all(torch.equal(seen[name], output.maps[name]) for name in seen)


def test_wildcards_take_every_name_that_they_match_once_in_the_models_order(model, images):
    with capture(model, "layer4.?.bn2", "layer*.0.conv1", "layer4.0.*") as seen:
        model(images)
    blocks = [f"layer{stage}.0.conv1" for stage in (1, 2, 3)]
    inner = ["conv1", "bn1", "conv2", "bn2", "downsample", "downsample.0", "downsample.1"]
    assert set(seen) == {*blocks, *(f"layer4.0.{name}" for name in inner), "layer4.1.bn2"}


def test_pooling_averages_everything_after_the_channels(model, images):
    with (
        capture(model, "layer3", "fc", pool=True) as pooled,
        capture(model, "layer3", "fc") as maps,
    ):
        model(images)
    assert pooled["layer3"].shape == (5, 32) and maps["layer3"].ndim == 4
    torch.testing.assert_close(pooled["layer3"], maps["layer3"].mean(dim=(2, 3)))
    assert torch.equal(pooled["fc"], maps["fc"])


def test_pooling_what_has_no_channels_is_refused(images):
    holder = nn.ModuleDict({"net": ResNet18(1, 3, 8).eval()})
    with pytest.raises(UserError, match="net gives ModelOutput"), capture(holder, "net", pool=True):
        holder["net"](images)
    assert count_hooks(holder) == 0


@pytest.mark.parametrize("side", ["output", "input"])
def test_captured_tensors_are_cut_from_the_graph_unless_asked_otherwise(model, images, side):
    with (
        capture(model, "layer4", side=side) as cut,
        capture(model, "layer4", side=side, detach=False) as kept,
    ):
        output = model(images)
    assert not cut["layer4"].requires_grad
    (gradient,) = torch.autograd.grad(output.logits.sum(), kept["layer4"])
    assert gradient.shape == kept["layer4"].shape and gradient.any()


def test_each_forward_pass_replaces_what_was_seen(model, images):
    with capture(model, "conv1") as seen:
        model(images)
        model(images[:2])
        assert torch.equal(seen["conv1"], model.conv1(images[:2]))


@pytest.mark.parametrize("side", ["output", "input"])
def test_no_hook_is_left_behind(model, images, side):
    assert count_hooks(model) == 0
    with capture(model, "layer*", side=side) as seen:
        assert count_hooks(model) > 4
        model(images)
    assert count_hooks(model) == 0
    before = dict(seen)
    model(images)
    assert all(seen[name] is before[name] for name in before)


def test_no_hook_is_left_behind_by_an_exception(model, images):
    with pytest.raises(KeyError), capture(model, "layer*"):
        raise KeyError("inside")
    with pytest.raises(RuntimeError), capture(model, "layer*"):
        model(images[:, :, 0])
    with pytest.raises(UserError), capture(model, "layer1", "layer9"):
        pass
    assert count_hooks(model) == 0


def test_other_hooks_are_left_alone(images):
    model = ResNet18(1, 3, 8).eval()
    calls = []
    model.layer1.register_forward_hook(lambda *_: calls.append(1))
    with capture(model, "layer1"):
        model(images)
    model(images)
    assert len(calls) == 2 and count_hooks(model) == 1


def test_an_unknown_node_is_refused_with_the_nearest_name(model):
    with (
        pytest.raises(UserError, match=r"did you mean 'layer4\.0\.bn1'"),
        capture(model, "layer4.0.nb1"),
    ):
        pass
    with pytest.raises(UserError, match="unknown node"), capture(model, "layer1", "block*"):
        pass
    with (
        pytest.raises(UserError, match="Choices: output, input"),
        capture(model, "fc", side="both"),
    ):
        pass


def make_data(events: int = 23) -> PairedData:
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(events, generator=generator)
    return PairedData(
        store=None,
        inputs={
            "image": torch.randn(events, 1, 32, 32, generator=generator),
            "text": torch.randint(1, 9, (events, 5), generator=generator).int(),
        },
        labels=torch.arange(events) % 3,
        rows={"train": order[:9], "validation": order[9:10], "test": order[10:]},
        scale={},
    )


@pytest.mark.parametrize("batch", [1, 4, 256])
def test_rows_of_a_bank_are_those_of_their_samples_whatever_the_batch(monkeypatch, model, batch):
    monkeypatch.setattr(paired, "EVALUATION_BATCH", batch)
    data = make_data()
    found = extract(model, data, "image", "test", ("feature", "logits", "layer2"))
    np.testing.assert_array_equal(found.rows, data.rows["test"].numpy())
    np.testing.assert_array_equal(found.labels, data.labels.numpy()[found.rows])
    assert len(found) == 13 and set(found.features) == {"feature", "logits", "layer2"}
    for i, row in enumerate(found.rows):
        with torch.no_grad():
            alone = model(data.inputs["image"][row : row + 1])
        own = {"feature": alone.feature, "logits": alone.logits}
        own["layer2"] = alone.maps["layer2"].mean(dim=(2, 3))
        for node, value in own.items():
            assert found[node].dtype == np.float32
            np.testing.assert_allclose(found[node][i], value[0].numpy(), rtol=1e-4, atol=1e-5)


def test_extract_takes_token_ids_and_a_split_of_one_row():
    torch.manual_seed(0)
    model, data = TextCNN(9, 3, 2), make_data()
    found = extract(model, data, "text", "validation")
    with torch.no_grad():
        alone = model.eval()(data.inputs["text"][data.rows["validation"]].long())
    np.testing.assert_allclose(found["feature"], alone.feature.numpy(), rtol=1e-5, atol=1e-6)
    assert set(found.features) == {"feature", "logits"} and len(found) == 1


def test_extract_runs_in_eval_mode_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    model, data = ResNet18(1, 3, 8).train(), make_data()
    model.layer3.eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = (extract(model, data, "image", "train", ("feature", "fc")) for _ in range(2))
    np.testing.assert_array_equal(first["feature"], again["feature"])
    assert [part.training for part in model.modules()] == modes and count_hooks(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_extract_refuses_an_unknown_node_and_leaves_no_hook(model):
    with pytest.raises(UserError, match="unknown node 'layer5'"):
        extract(model, make_data(), "image", "test", ("feature", "layer5"))
    assert count_hooks(model) == 0


class Maker:
    """Makes a new array each time it is called, and counts the calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self) -> FeatureBank:
        self.calls += 1
        features = np.random.default_rng(self.calls).standard_normal((4, 6)).astype(np.float32)
        nodes = {"feature": features, "layer4.0.conv1": features[:, ::2]}  # a strided view too
        return FeatureBank(np.array([7, 2, 9, 4]), np.array([0, 1, 1, 0]), nodes)


def assert_same(one: FeatureBank, two: FeatureBank):
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.features.keys() == two.features.keys()
    for node in one.features:
        np.testing.assert_array_equal(one[node], two[node])
        assert one[node].dtype == two[node].dtype


def test_a_bank_is_made_once_and_comes_back_equal(tmp_path, capsys):
    make, path = Maker(), tmp_path / "deep" / "bank.safetensors"
    first = keep_bank(path, make)
    assert_same(keep_bank(path, make), first)
    assert_same(keep_bank(path, make), first)
    assert make.calls == 1 and capsys.readouterr().err == ""
    assert not [p.name for p in path.parent.iterdir() if p.name.endswith(".part")]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_suffix(".sha256").write_text("0" * 64 + "\n"),
        lambda path: path.with_suffix(".sha256").write_bytes(b"\xff\xfe"),
    ],
    ids=["one bit", "cut short", "empty", "other checksum", "unreadable checksum"],
)
def test_a_damaged_bank_is_named_and_made_again(tmp_path, capsys, damage):
    make, path = Maker(), tmp_path / "bank.safetensors"
    keep_bank(path, make)
    damage(path)
    second = keep_bank(path, make)
    assert make.calls == 2 and str(path) in capsys.readouterr().err
    assert_same(keep_bank(path, make), second)
    assert make.calls == 2 and capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
def test_a_bank_without_its_file_or_checksum_is_made_again(tmp_path, suffix):
    make, path = Maker(), tmp_path / "bank.safetensors"
    keep_bank(path, make)
    path.with_suffix(suffix).unlink()
    second = keep_bank(path, make)
    assert make.calls == 2
    assert_same(keep_bank(path, make), second)


def test_an_interrupted_extraction_leaves_no_bank(tmp_path):
    path = tmp_path / "bank.safetensors"

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_bank(path, fail)
    make = Maker()
    keep_bank(path, make)
    assert make.calls == 1


def test_a_full_disk_is_an_error_of_the_system_and_leaves_no_bank(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    path = tmp_path / "bank.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left") as error:
            keep_bank(path, Maker())
    assert error.value.filename == str(path)
    assert not list(tmp_path.iterdir())
