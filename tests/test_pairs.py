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
from fdlab.studies import search, sensitivity
from fdlab.studies.distillation import configure_run
from fdlab.studies.grid import configure_grid
from fdlab.studies.hyperparameters import read_settings
from fdlab.studies.plan import make_plan
from fdlab.studies.variants import configure_variant
from fdlab.training.ensure import ensure_run
from fdlab.training.loop import train
from fdlab.training.runs import complete, find_teacher, fingerprint
from fdlab.training.schedules import find_rate
from fdlab.training.trainer import Trainer

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


def test_both_networks_of_one_modality_see_one_stronger_view(plan, digits, monkeypatch):
    """MLKD compares them on it; of two modalities each has its own."""
    seen = {}

    def listen(trainer):
        for name, model in (
            ("mine", trainer.learner.student),
            ("theirs", trainer.read_teacher.model),
        ):
            model.register_forward_pre_hook(lambda m, x, name=name: seen[name].append(x[0].clone()))

    data = PairedData.load(digits, ["image", "audio"], CPU)
    for teacher, alike in (("image", True), ("audio", False)):
        names = {"network": "resnet8", "teacher_network": "resnet14" if alike else ""}
        config = complete(plan.configure("image", "mlkd", teacher, 5, **names))
        model = build_model(digits, teacher, width=8, seed=6, network=config.teacher_network)
        trainer = Trainer(config, data, model, CPU)
        listen(trainer)
        for rows in data.rows["train"].split(32)[:2]:
            seen = {"mine": [], "theirs": []}
            trainer.look(rows)
            mine, theirs = seen["mine"][-1], seen["theirs"][-1]  # the second view
            assert torch.equal(mine, theirs) == alike
            assert len(seen["mine"]) == 2 and not torch.equal(seen["mine"][0], mine)


def test_every_study_asks_for_the_networks_of_the_pair(monkeypatch):
    """Where a preset's first pair has another student than the data set's own network."""
    plan = dataclasses.replace(
        make_plan("shapes", "quick"), network_pairs=("resnet32x4-resnet8x4", "vgg13-vgg8")
    )
    taught, alone, teacher = map(complete, configure_run(plan, "", "kd", 0))
    assert (taught.networks, alone.networks) == ("resnet32x4-resnet8x4", "resnet8x4")
    assert find_teacher(taught) == teacher and teacher.networks == "resnet32x4"
    weighed = {complete(c).network for c in sensitivity.configure_grid(plan, [1.0]).values()}
    assert weighed == {"resnet8x4"}
    swept = configure_grid(plan, ["none", "kd"])
    assert {config.network for config in swept} == {"resnet8x4"}
    (way,) = plan.choose_directions()
    own = complete(configure_variant(plan, "own", way, 0))
    assert own.networks == "resnet8x4-resnet8x4" and own.teacher_seed == 1
    quick = make_plan("shapes", "quick")
    changed = search._apply(quick, way, read_settings(), "kd", (1.0, 2.0))
    usual = complete(quick.configure("image", "kd", "image"))
    assert changed["teacher_train"] == usual.teacher_train != changed["train"]


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
    few = dataclasses.replace(recipe, epochs=4)  # after 2.5, 3 and 3.5 epochs
    assert [round(find_rate(few, epoch), 6) for epoch in range(4)] == [0.05, 0.05, 0.05, 0.0005]
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
