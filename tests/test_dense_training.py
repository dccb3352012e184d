"""Training on masks: the loop, its predictions and scores, on planted images and small networks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from resuming import assert_same, train_in_pieces
from sklearn.metrics import jaccard_score
from test_dense_laws import NAMES
from torch import nn
from torch.nn import functional

from fdlab.core.config import RunConfig, TrainConfig
from fdlab.data.dataset import IGNORED, Dataset, Modality
from fdlab.data.paired import PairedData
from fdlab.methods import METHODS
from fdlab.models.output import ModelOutput
from fdlab.training import runs as runs_module
from fdlab.training.evaluate import MAP, judge_samples
from fdlab.training.loop import Course, train, train_in_step
from fdlab.training.trainer import Trainer

CPU, K, IMAGES = torch.device("cpu"), 4, 18


class Net(nn.Module):
    """An encoder of four stages, a context map and a decoder, of a few channels each."""

    def __init__(self, channels: int, width: int = 6):
        super().__init__()
        widths = [channels, width, width, 2 * width, 2 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b))
            for a, b, stride in zip(widths, widths[1:], (1, 2, 2, 1), strict=False)
        )
        self.context = nn.Conv2d(2 * width, width + 1, 1)
        self.decoder = nn.Conv2d(2 * width + 1, K, 3, 1, 1)
        self.feature_width = 2 * width

    def forward(self, x: torch.Tensor) -> ModelOutput:
        maps, size = {}, x.shape[2:]
        for number, stage in enumerate(self.stages):
            x = maps[f"layer{number + 1}"] = stage(torch.relu(x) if number else x)
        maps["aspp"] = torch.relu(self.context(torch.relu(x)))
        large = functional.interpolate(maps["aspp"], size, mode="bilinear")
        logits = self.decoder(torch.cat([large, torch.relu(maps["layer1"])], dim=1))
        return ModelOutput(logits, x.mean(dim=(2, 3)), maps)


class FakeStore(SimpleNamespace):
    digest = "planted masks"

    def read(self, name):
        return self.arrays[name]

    def rows(self, split):
        return dict(train=np.arange(12), validation=np.arange(12, 14), test=np.arange(14, 18))[
            split
        ]


@pytest.fixture(scope="module")
def data() -> PairedData:
    """Classes in blocks; either side shows them in values of its own, with noise."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, K, (IMAGES, 4, 5)).repeat(4, 1).repeat(4, 2)

    def show(colours, kind):
        noise = rng.normal(0, 12, (IMAGES, colours.shape[1], 16, 20))
        return (colours[mask].transpose(0, 3, 1, 2) + noise).clip(1, 250).astype(kind)

    arrays = {
        "rgb": show(rng.integers(40, 200, (K, 3)), np.uint8),
        "depth": show(np.array([[40.0], [90], [140], [200]]), np.float32),
    }
    mask[rng.random(mask.shape) < 0.1] = IGNORED
    arrays["mask"] = mask.astype(np.uint8)
    dataset = Dataset(
        name="fake", summary="", classes=K, options=object, directions=("depth2rgb",),
        modalities={"rgb": Modality("net", "scene_hsv"), "depth": Modality("net", "scene")},
        task="segmentation", scenes=("here",),
    )  # fmt: skip
    store = FakeStore(arrays=arrays, dataset=dataset, labels=np.zeros(IMAGES, np.int64))
    return PairedData.load(store, ["rgb", "depth"], CPU)


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    def build(store, modality, width=64, seed=0, start="", **_):
        torch.manual_seed(seed)
        return Net(3 if modality == "rgb" else 1)

    monkeypatch.setattr(runs_module, "build_model", build)


def make_teacher() -> Net:
    torch.manual_seed(9)
    return Net(1).eval()


def configure(method: str, epochs: int = 1, rate: float = 0.01, **others) -> RunConfig:
    recipe = TrainConfig(epochs=epochs, batch_size=6, learning_rate=rate, final_learning_rate=1e-4)
    teacher = "depth" if METHODS[method].needs else None
    return RunConfig("fake", "rgb", teacher, method, train=recipe, **others)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_and_its_parameters_are_in_the_optimiser_once(data, name):
    teacher = make_teacher() if METHODS[name].needs else None
    trainer = Trainer(configure(name), data, teacher, CPU)
    held = [id(p) for group in trainer.optimiser.param_groups for p in group["params"]]
    learner = trainer.learner
    own = [*learner.student.parameters(), *learner.method.parameters()]
    own += [] if learner.peer is None else [*learner.peer.parameters()]
    assert len(set(held)) == len(held) == len(own) and {id(p) for p in own} == set(held)
    before = {n: p.detach().clone() for n, p in learner.method.named_parameters()}
    learner.train()
    for rows in data.rows["train"].split(6):
        trainer.progress = 0.5
        trainer.update(trainer.compare(rows)[0])
    for parameter, value in learner.method.named_parameters():
        assert not torch.equal(value, before[parameter]), parameter


@pytest.mark.parametrize("name", NAMES)
def test_every_method_goes_on_bit_for_bit(data, name):
    def make():
        teacher = make_teacher() if METHODS[name].needs else None
        return Course(configure(name, epochs=2), data, teacher, CPU)

    whole = make()
    train_in_step([whole])
    assert_same(whole.finish(), train_in_pieces(make, [1, 3]), name)


def test_student_teacher_and_targets_are_of_one_view(data):
    """Both networks' inputs, the mask and the teacher's logits lie pixel upon pixel."""
    trainer = Trainer(configure("kd"), data, make_teacher(), CPU)
    assert trainer.shares and trainer.read_teacher.cache is None
    rows, seen = data.rows["train"][:6], []
    originals = data.batch("rgb", rows), data.batch("depth", rows)
    for network in (trainer.learner.student, trainer.read_teacher.model):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mine, theirs, targets = trainer.look(rows)
    assert targets.shape == (6, 16, 20) and mine.logits.shape == theirs.logits.shape
    for image, original in zip(seen, originals, strict=True):
        assert not torch.equal(image, original)
    # A class has a depth of its own, so the crop's depth says the crop's class.
    shift_by, factor = data.scale["depth"]
    depth = seen[1][:, 0] / factor + shift_by
    levels = torch.tensor([40.0, 90, 140, 200])
    found = (depth[..., None] - levels).abs().argmin(dim=3)
    known = targets != IGNORED
    assert (found[known] == targets[known]).float().mean() > 0.85
    _, folded, other, batch = trainer.compare(rows)
    assert folded.logits.shape == other.logits.shape == (len(batch.labels), K)
    assert len(batch.pixels.targets) == len(batch.rows) == 6


@pytest.mark.parametrize("name", ["none", "heads_only", "fdcmkd", "c2kd", "cirkd+fdcmkd"])
def test_scores_are_mean_ious_of_what_is_kept(data, name):
    teacher = make_teacher() if METHODS[name].needs else None
    trained = train(configure(name, epochs=2, probes=2), data, teacher, CPU)
    assert trained.probes["value"].shape[0] == 2 and torch.isfinite(trained.probes["value"]).all()
    truth = data.masks[data.rows["test"]]
    known = truth != IGNORED
    chosen = trained.predictions[f"last/{MAP}"]
    assert chosen.dtype == torch.uint8 and chosen.shape == truth.shape
    expected = jaccard_score(truth[known], chosen[known], average="macro")
    counts = trained.predictions["last/test/raw"].numpy()
    assert counts.shape == (4, K, 3) and counts[..., 2].sum() == known.sum()
    assert judge_samples(counts, np.zeros(4)).mean() == pytest.approx(expected, abs=1e-12)
    assert trained.curves["test/raw"][-1] == pytest.approx(expected, abs=1e-12)
    heads = {key.split("/")[2] for key in trained.predictions} - {"map"}
    assert {f"test/{head}" for head in heads} <= set(trained.curves)
    assert len(heads) == (3 if name in ("heads_only", "fdcmkd", "cirkd+fdcmkd") else 1)
    assert not any("entries" in key for key in trained.weights["last"])


def test_a_student_learns_what_the_masks_say(data):
    trained = train(configure("none", epochs=30, rate=0.1), data, None, CPU)
    found = trained.curves["validation/raw"]
    assert max(found) > 0.8 > found[0] + 0.3


def test_two_trainings_are_one(data):
    """Memories, draws and views all follow from the seed."""
    one, two = (train(configure("cirkd", epochs=2), data, make_teacher(), CPU) for _ in range(2))
    assert one.curves == two.curves
    assert all(torch.equal(one.weights["last"][n], x) for n, x in two.weights["last"].items())
