"""Teachers of the student's own modality: pairs of networks, their recipes and their views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fdlab.cli import main
from fdlab.core.config import Direction, Pair, RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.data.augment import AUGMENTATIONS, draw_view, pad_flip
from fdlab.data.paired import PairedData, measure_scale
from fdlab.models.build import build_model
from fdlab.studies.grid import configure_grid
from fdlab.studies.plan import make_plan
from fdlab.training.ensure import ensure_run
from fdlab.training.loop import train
from fdlab.training.runs import complete, find_teacher, fingerprint
from fdlab.training.schedules import find_rate

CPU = torch.device("cpu")
PAIR = Pair("resnet20", "resnet8")


@pytest.fixture(scope="module")
def plan(digits):
    return make_plan("digits", "smoke", seeds=[5])


def test_a_pair_is_read_and_printed():
    assert Pair.parse(str(PAIR)) == PAIR and str(PAIR) == "resnet20-resnet8"
    for text in ("resnet20", "a-b-c", "-b", "a-", ""):
        with pytest.raises(UserError, match="such as vgg13-vgg8"):
            Pair.parse(text)
    assert str(Direction.parse("image2image", ["image"])) == "image2image"


def test_a_student_is_taught_by_another_network_of_its_modality(plan):
    config = complete(plan.configure_pair(PAIR, "kd", 5))
    assert (config.student, config.teacher) == ("image", "image")
    assert config.networks == "resnet20-resnet8"
    assert config.label == "digits image2image resnet20-resnet8 kd seed 5"
    assert complete(config) == config and RunConfig.from_dict(config.as_dict()) == config
    teacher = find_teacher(config)
    assert (teacher.network, teacher.teacher, teacher.teacher_network) == ("resnet20", None, "")
    run, own = ensure_run(config), ensure_run(teacher)
    assert run.record.teacher == own.record.fingerprint
    store = plan.open_store()
    names = {name for name, _ in run.load_student(store).named_modules()}
    deeper = {name for name, _ in own.load_student(store).named_modules()}
    assert "layer1.2" in deeper - names and "layer1.0" in names & deeper
    # The same student without a teacher starts alike and sees the same batches.
    plain = complete(plan.configure_pair(PAIR, seed=5))
    assert plain.label == "digits image resnet8 none seed 5"


def test_the_loss_is_that_of_the_two_networks_on_the_same_images(plan, digits):
    """One step, against the cross-entropies of two networks built here, in float64 NumPy."""
    recipe = TrainConfig(epochs=1, batch_size=len(digits.rows("train")), augment=False)
    config = complete(plan.configure_pair(PAIR, "kd", 5, {"temperature": 2.0}, train=recipe))
    data = PairedData.load(digits, ["image"], CPU)
    teacher = build_model(digits, "image", width=8, seed=5, network="resnet20").eval()
    student = build_model(digits, "image", width=8, seed=5, network="resnet8").train()
    trained = train(config, data, teacher, CPU)
    rows = data.rows["train"]
    with torch.no_grad():
        mine, theirs = (
            model(data.batch("image", rows)).logits.double().numpy() for model in (student, teacher)
        )

    def log_softmax(z):
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    said, told = log_softmax(mine / 2), log_softmax(theirs / 2)
    expected = 4 * (np.exp(told) * (told - said)).sum(axis=1).mean() * config.options["weight"]
    assert trained.curves["loss/kd"][0] == pytest.approx(expected, rel=1e-3)


def test_networks_of_one_seed_start_apart(digits):
    weights = [
        build_model(digits, "image", width=64, seed=0, network=name).conv1.weight
        for name in ("resnet8", "resnet20")
    ]
    assert weights[0].shape == weights[1].shape and not torch.equal(*weights)
    assert torch.equal(
        weights[0], build_model(digits, "image", width=64, seed=0, network="resnet8").conv1.weight
    )


def test_the_data_sets_own_network_is_one_run_with_its_name(plan, digits):
    named = complete(plan.configure("image", network="resnet18"))
    assert named == complete(plan.configure("image")) and named.networks == ""
    both = {"network": "resnet18", "teacher_network": "resnet18"}
    assert (
        complete(plan.configure("image", "kd", "audio", **both)).networks
        == ""
        == complete(plan.configure("image", "kd", "audio")).networks
    )
    half = complete(plan.configure("image", "kd", "audio", teacher_network="resnet8"))
    assert half.networks == "resnet8-resnet18"
    prints = {fingerprint(c, digits) for c in (named, half)}
    prints |= {fingerprint(complete(plan.configure("image", network=n)), digits)
               for n in ("resnet8", "resnet14")}  # fmt: skip
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"network": "resnet9"}, "unknown model 'resnet9'"),
        ({"network": "textcnn"}, "unknown network for images 'textcnn'"),
        ({"teacher": "text", "method": "kd", "teacher_network": "resnet8"}, "network for words"),
        ({"teacher": "image", "method": "kd"}, "another teacher_network or teacher_seed"),
        (
            {"teacher": "image", "method": "kd", "network": "vgg8", "teacher_network": "vgg8"},
            "another teacher_network or teacher_seed",
        ),
        ({"start": "audio", "network": "vgg8"}, "own network where another modality's start"),
    ],
)
def test_what_is_no_pair_is_one_line(plan, fields, said):
    with pytest.raises(UserError, match=said) as caught:
        complete(plan.configure("image", **fields))
    assert "\n" not in str(caught.value)


def test_a_grid_over_pairs(plan):
    configs = configure_grid(plan, ["none", "kd"], pairs=["resnet20-resnet8", "vgg8-resnet8"])
    assert [config.label for config in configs] == [
        "digits image resnet8 none seed 5",
        "digits image2image resnet20-resnet8 kd seed 5",
        "digits image2image vgg8-resnet8 kd seed 5",
    ]
    with pytest.raises(UserError, match="directions or pairs"):
        configure_grid(plan, ["kd"], ["audio2image"], pairs=["resnet20-resnet8"])


def test_a_pair_from_the_command_line(plan, capsys):
    start = ["train", "--dataset", "digits", "--preset", "smoke", "--seed", "5"]
    way = ["--direction", "image2image", "--networks", "resnet20-resnet8", "--method", "kd"]
    assert main([*start, *way]) == 0
    capsys.readouterr()
    assert main([*start, "--student", "image", "--networks", "resnet8-resnet8"]) == 2
    assert "unknown model 'resnet8-resnet8'" in capsys.readouterr().err
    assert main([*start, *way[:3], "resnet8", *way[4:]]) == 2
    assert "such as vgg13-vgg8" in capsys.readouterr().err


def test_milestones_are_the_benchmarks():
    recipe = TrainConfig(epochs=240, learning_rate=0.05, milestones=(0.625, 0.75, 0.875))
    rates = np.array([find_rate(recipe, epoch) for epoch in range(240)])
    expected = np.repeat([0.05, 0.005, 0.0005, 0.00005], [150, 30, 30, 30])
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    listed = dataclasses.replace(recipe, milestones=[0.625, 0.75, 0.875])
    assert listed == recipe and hash(listed.milestones)
    for milestones in ((0.5, 0.5), (0.9, 0.1), (0.0,), (1.0,)):
        with pytest.raises(UserError, match="milestones"):
            TrainConfig(milestones=milestones)


def test_padding_and_flipping_is_a_crop_of_the_padded_image():
    """Every image is one of the 81 crops of itself, flipped or not, and all of them occur."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4000, 2, 32, 32, generator=generator)
    view = draw_view(AUGMENTATIONS["pad_flip"], len(images), 0, generator)
    moved = pad_flip(images, view.box, fill=0.5).numpy()
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)], constant_values=0.5)
    seen = set()
    row, column, flip = view.box.T.numpy()
    for n in range(len(images)):
        r, c, flipped = int(row[n] * 9), int(column[n] * 9), flip[n] < 0.5
        part = padded[n, :, r : r + 32, c : c + 32]
        np.testing.assert_array_equal(moved[n], part[:, :, ::-1] if flipped else part)
        seen.add((r, c, bool(flipped)))
    assert len(seen) == 2 * 81


def test_colours_are_standardised_one_by_one():
    random = np.random.default_rng(0)
    array = (random.random((50, 3, 8, 8)) * np.array([50, 150, 255])[:, None, None]).astype("uint8")
    rows = np.arange(10, 40)
    shift, factor = measure_scale(array, rows)
    pixels = array[rows].astype(float)
    np.testing.assert_allclose(shift[:, 0, 0], pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(factor[:, 0, 0], 1 / pixels.std(axis=(0, 2, 3)), rtol=1e-6)
