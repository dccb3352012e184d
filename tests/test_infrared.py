"""Infrared: the arms differ in what they say they do, planted gains are found and planted nulls are
not, and the numbers before any label are those of the network as it starts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import jaccard_score
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.data.dataset import IGNORE, IGNORED, NOTHING
from fdlab.figures import infrared as figures
from fdlab.spectral.planes import make_mask
from fdlab.studies import claims, infrared
from fdlab.studies.infrared import (
    BLIND,
    CUTOFFS,
    FIRST,
    MAIN,
    PERSON,
    TEACHER,
    Infrared,
    choose_pictures,
    compare_arms,
    configure_infrared,
    find_grid,
    find_tasks,
    judge_detector,
    judge_images,
    keep_best,
    list_arms,
    measure_infrared,
    measure_masks,
    name_cutoffs,
)
from fdlab.studies.plan import make_plan
from fdlab.studies.spectrum import choose_way
from fdlab.training.detect import Precision, measure_map
from fdlab.training.ensure import ensure_run

SEEDS, N = 3, 400
TASKS = ("segmentation", "detection")
METRIC = {BLIND: "mIoU", "segmentation": "mIoU", "detection": "mAP50"}
NAMES = ["scratch", "none", "mse", "low", "high", MAIN, "shuffled"]


@pytest.fixture(scope="module")
def small(isolated_home):
    """A few of the rooms, and the smallest plan for them."""
    pytest.importorskip("transformers")
    plan = replace(make_plan("rooms", "smoke", seeds=[0], epochs=1), data_options={"limit": 60})
    recipe = replace(plan.train, side=32, optimiser="adamw", learning_rate=1e-3, augment=False)
    return replace(plan, recipes={"vit_small_pixels": recipe, "vit_small_boxes": recipe})


@pytest.mark.parametrize("grid", [(8, 8), (12, 12), (16, 16), (9, 20)])
def test_cutoffs_share_an_arm_where_their_masks_are_equal(grid):
    named = name_cutoffs(grid, list(CUTOFFS))
    masks = {cutoff: make_mask(*grid, cutoff) for cutoff in CUTOFFS}
    for one in CUTOFFS:
        for two in CUTOFFS:
            alike = named[f"{one:g}"] == named[f"{two:g}"]
            assert alike == torch.equal(masks[one], masks[two])
    assert named["0.5"] == MAIN
    arms = list_arms([MAIN], named)
    assert [arm.name for arm in arms] == ["none", *dict.fromkeys([MAIN, *named.values()])]
    for arm in arms[2:]:
        assert arm.name == f"{MAIN} {arm.options['cutoff']:g}"
    assert list(name_cutoffs(grid, [0.75])) == ["0.5", "0.75"]


def test_the_arms_differ_in_their_first_stage_alone(small):
    configs = configure_infrared(small, arms=[*NAMES, "merged", "full"])
    teacher = configs[TEACHER, "none", 0]
    assert (teacher.student, teacher.network) == ("rgb", "vit_small_pixels")
    first = {arm: config for (stage, arm, _), config in configs.items() if stage == FIRST}
    assert {"none", "scratch"}.isdisjoint(first) and MAIN in first
    plain = replace(first[MAIN], options={})
    for arm, config in first.items():
        assert config.options["task_weight"] == 0  # no labels
        changed = {"full": {"rank": 0}, "shuffled": {"teacher_kind": "shuffled"}}.get(arm, {})
        assert replace(config, options={}) == replace(plain, **changed)
        assert config.base == teacher
    assert first["mse"].options["frequency"] is False
    assert first["low"].options["high_weight"] == first["high"].options["low_weight"] == 0
    for task, network in zip(TASKS, ("vit_small_pixels", "vit_small_boxes"), strict=True):
        main = configs[task, MAIN, 0]
        assert (main.network, main.base, main.blend) == (network, first[MAIN], 0.5)
        assert (main.method, main.teacher_kind) == ("anchor", "start")
        assert replace(main, base=teacher) == configs[task, "none", 0]
        assert replace(main, blend=1.0) == configs[task, "merged", 0]
        scratch = configs[task, "scratch", 0]
        assert scratch.base is None and scratch.method == "none"
        assert scratch.train == replace(main.train, backbone_rate=1.0)
    free = configure_infrared(small, arms=["none"], anchor=0.0)
    assert free["detection", "none", 0].method == "none"


def test_another_network_starts_from_nothing(small):
    configs = configure_infrared(small, arms=NAMES, student="resnet50")
    assert not any(arm in ("scratch", "merged") for _, arm, _ in configs)
    first = configs[FIRST, MAIN, 0]
    assert (first.network, first.teacher_network) == ("resnet50_pixels", "vit_small_pixels")
    assert first.base is None and first.rank == 0
    assert configs["detection", MAIN, 0].base == first
    assert configs["detection", "none", 0].base is None


def test_the_paper_preset_has_the_published_values(small):
    plan = replace(small, preset="paper", width=64)
    configs = configure_infrared(plan, arms=[MAIN], cutoffs=[0.5])
    one, two = configs[FIRST, MAIN, 0], configs["detection", MAIN, 0]
    assert (one.rank, one.train.epochs, one.train.batch_size) == (64, 12, 32)
    assert (one.train.learning_rate, one.train.final_learning_rate) == (2e-4, 1e-7)
    assert (one.train.weight_decay, one.train.warm_up, one.train.clip) == (1e-4, 500, 1.0)
    assert (two.train.learning_rate, two.train.backbone_rate, two.blend) == (5e-5, 0.1, 0.5)
    assert two.options == {"weight": 0.1}
    large = configure_infrared(plan, network="vit_l14", arms=[MAIN], cutoffs=[0.5])
    assert large[FIRST, MAIN, 0].options["layers"] == [7, 15, 19, 21, 23]
    options = {"arms": [MAIN], "cutoffs": [0.5], "student": "resnet50"}
    crossed = configure_infrared(plan, network="vit_l14", **options)
    assert crossed[FIRST, MAIN, 0].train.learning_rate == 1e-4
    assert crossed[FIRST, MAIN, 0].options["layers"] == [7, 15, 21, 23]
    assert crossed["detection", MAIN, 0].options == {"weight": 0.1}


def test_the_grid_is_that_of_the_maps(small):
    store = small.open_store()
    assert tuple(find_grid(store, "rgb", "vit_small_pixels", 32)) == (8, 8)
    assert tuple(find_grid(store, "rgb", "vit_small_pixels", 0)) == (16, 16)
    assert tuple(find_grid(store, "rgb", "vit_l14_boxes", 0)) == (5, 5)  # 64 pixels in steps of 14


def test_what_cannot_be_run_is_refused_in_one_line(small):
    bare = SimpleNamespace(manifest={"files": {"rgb.npy": ""}}, dataset=SimpleNamespace(name="x"))
    with pytest.raises(UserError, match="x has neither masks nor boxes"):
        find_tasks(bare)
    with pytest.raises(UserError, match="direction is rgb2rgb: expected two modalities"):
        choose_way(small, "rgb2rgb")
    with pytest.raises(UserError, match="arm 'freq'"):
        list_arms(["freq"], {})
    assert str(choose_way(small)) == "rgb2thermal"


def draw_boxes(rng, classes=3):
    """Random truths (n, 4, 5) and detections (n, 9, 6) that find some of them."""
    corners = rng.uniform(0, 24, (30, 4, 2))
    truths = np.concatenate(
        [rng.integers(-1, classes, (30, 4, 1)), corners, corners + rng.uniform(4, 8, (30, 4, 2))],
        axis=2,
    )
    near = truths[:, :, 1:] + rng.normal(0, 1.0, (30, 4, 4))
    found = np.concatenate([truths[:, :, :1], rng.random((30, 4, 1)), near], axis=2)
    wrong = np.concatenate([rng.integers(0, classes, (30, 5, 1)), rng.random((30, 5, 5)) * 9], 2)
    wrong[..., 4:] += wrong[..., 2:4]
    return truths, np.concatenate([found, wrong], axis=1)


def test_one_class_apart_is_that_classs_average_precision():
    pytest.importorskip("pycocotools")
    truths, found = draw_boxes(np.random.default_rng(0))
    truths[0, 0, 0] = IGNORE
    expected = measure_map(found, truths, 3)
    for kind in range(3):
        values = judge_images(found, truths, kind)
        assert values[PERSON].mean() == pytest.approx(expected.per_class[kind], abs=1e-9)
        assert values["mAP50"].mean() == pytest.approx(expected.map50, abs=1e-9)


def test_pictures_are_chosen_by_their_truth_alone():
    truths = np.full((4, 2, 5), float(NOTHING))
    truths[0, 0] = 7, 0, 0, 2, 2  # a person of 4 pixels, and a large chair
    truths[0, 1] = 1, 0, 0, 30, 30
    truths[1, 0] = 7, 0, 0, 9, 9
    truths[3, 1] = 7, 4, 4, 5, 6
    kinds = np.array([0, 0, 1, 1])
    assert choose_pictures(kinds, truths, 7, 3).tolist() == [1, 3, 0]
    assert choose_pictures(kinds, truths, None, 2).tolist() == [0, 3]
    found = np.zeros((4, 5, 6))
    found[..., 1] = [0.1, 0.9, 0.3, 0.9, 0.2]
    found[..., 2:] = [[0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 4, 3], [5, 5, 9, 9], [0, 9, 4, 12]]
    best = keep_best(found, truths, most=2)
    kept = best[best[..., 0] >= 0]
    assert kept[:2, 1].tolist() == [0.9, 0.3]  # the second of the two alike is passed over
    assert len(kept) == 2 + 1 + 0 + 1  # as many as there are objects
    assert keep_best(found, truths, most=1)[0, :, 0].tolist() == [0]


def draw_answers(gains: dict[str, float], noise: float = 0.05) -> dict:
    """(task, arm) → score → (S, N): an image's own value, the same in all arms, and each arm's gain
    in points, with noise of its own."""
    rng = np.random.default_rng(0)
    answers = {}
    for task, metric in METRIC.items():
        base = rng.random((SEEDS, N))
        for arm in ("none", *gains):
            if (task, arm) != (BLIND, "scratch"):
                values = base + gains.get(arm, 0.0) / 100 + noise * rng.standard_normal((SEEDS, N))
                answers[task, arm] = {metric: values}
    return answers


def gather(gains: dict[str, float], **options) -> tuple[Infrared, dict]:
    cutoffs = {f"{c:g}": MAIN if c == 0.5 else f"{MAIN} {c:g}" for c in CUTOFFS}
    arms = list_arms(NAMES, cutoffs)
    answers = draw_answers({arm.name: gains.get(arm.name, 0.0) for arm in arms}, **options)
    precisions = {a.name: [Precision(0.3, 0.1, np.array([np.nan, 0.3]))] * SEEDS for a in arms}
    cells, contrasts = compare_arms(arms, answers, precisions)
    result = Infrared(
        dataset="rooms", preset="quick", n=N, seeds=[0, 1, 2], direction="rgb2thermal",
        network="vit_small", student="vit_small", classes=["wall", "person"], tasks=list(METRIC),
        metric=METRIC, arms=arms, cutoffs=cutoffs, grid=[16, 16], cells=cells, contrasts=contrasts,
        curves={t: {a.name: np.arange(3.0) for a in arms} for t in TASKS}, recipes={},
        pictures=None, runs=[],
    )  # fmt: skip
    return result, answers


def judge_claims(result: Infrared) -> list[str]:
    return [claim.verdict for claim in result.claims()]


OTHERS = {f"{MAIN} {c:g}": 8.0 for c in CUTOFFS if c != 0.5}


def test_planted_gains_are_found():
    gains = {"mse": 6, "low": 8, "high": 3, MAIN: 12, "shuffled": 1, "scratch": -9} | OTHERS
    result, answers = gather(gains)
    assert judge_claims(result) == [claims.SUPPORTED] * 6
    for task, metric in METRIC.items():
        gaps = 100 * (answers[task, MAIN][metric] - answers[task, "none"][metric]).mean(axis=1)
        low, high = stats.t.interval(0.95, SEEDS - 1, gaps.mean(), stats.sem(gaps))
        found = result.find(task, MAIN).gains[metric].seeds
        assert (found.mean, found.low, found.high) == pytest.approx((gaps.mean(), low, high))
    p = [result.find("detection", a.name).gains["mAP50"] for a in result.arms if a.name != "none"]
    smallest = min(gap.p for gap in p)
    assert min(gap.holm for gap in p) == pytest.approx(min(1, smallest * len(p)))
    assert "scratch" not in [cell.arm for cell in result.collect(BLIND)]


def test_a_teacher_of_other_scenes_that_does_as_much_takes_the_credit():
    gains = {"mse": 12, "low": 3, "high": 8, MAIN: 12, "shuffled": 12} | OTHERS
    gains[f"{MAIN} 0.25"] = 20
    gain, split, low, cutoff, scene, blind = judge_claims(gather(gains)[0])
    assert gain == blind == claims.MATCHED
    assert split == scene == claims.OPEN
    assert low == cutoff == claims.REFUTED


def test_a_low_band_that_does_as_much_takes_the_splits_credit():
    gains = {"mse": 6, "low": 12, "high": 3, MAIN: 12} | OTHERS
    assert judge_claims(gather(gains)[0])[1] == claims.MATCHED
    gains["low"] = 6
    assert judge_claims(gather(gains)[0])[1] == claims.SUPPORTED


def test_a_scene_helps_only_where_its_teacher_does():
    gains = {MAIN: -4, "shuffled": -12}
    result, _ = gather(gains)
    assert all(gap.beats() for gap in result.contrast(MAIN, "shuffled").values())
    assert judge_claims(result)[4] == claims.OPEN


def test_bands_are_compared_by_one_distance_too_where_that_was_run():
    names = ["none", "low", "high", "high_mse"]
    for gain, verdict in ((3.0, claims.SUPPORTED), (9.0, claims.OPEN)):
        answers = draw_answers({"none": 0, "low": 9, "high": 3, "high_mse": gain})
        arms = list_arms(names, {"0.5": MAIN})
        cells, contrasts = compare_arms(arms, answers)
        result = replace(gather({})[0], arms=arms, cutoffs={}, cells=cells, contrasts=contrasts)
        (claim,) = result.claims()
        assert claim.verdict == verdict and "low minus high by MSE: segm" in claim.control
        assert "high band alone, MSE" in result.finding()


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (37, 37)])
def test_the_rectangles_cost_is_that_of_its_transcription(size):
    maps = torch.randn(5, 6, *size, generator=torch.Generator().manual_seed(4)).double()
    x = maps.numpy() - maps.numpy().mean(axis=(2, 3), keepdims=True)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = {(each.cutoff, each.mask): each for each in measure_masks(maps, ["0.25", "0.5"])}
    for (cutoff, mask), each in found.items():
        reach = [max(1, int(side * float(cutoff) / 2)) for side in size]
        middle = [side // 2 for side in size]
        kept = np.zeros(size, bool)
        last = 1 if mask == "symmetric" else 0
        kept[
            tuple(slice(max(m - r, 0), m + r + last) for m, r in zip(middle, reach, strict=True))
        ] = 1
        band = np.fft.ifft2(np.fft.ifftshift(np.fft.fftshift(np.fft.fft2(x), axes=(2, 3)) * kept,
                                             axes=(2, 3)))  # fmt: skip
        low, high = band.real, x - band.real
        assert each.low == pytest.approx(kept.mean())
        lost = (band.imag**2).sum() / (np.abs(band) ** 2).sum()
        assert each.lost == pytest.approx(lost, abs=1e-6)
        assert each.crossed == pytest.approx((low * high).sum() / (x**2).sum(), abs=1e-6)
        assert (each.lost < 1e-12 and abs(each.crossed) < 1e-12) == (mask == "symmetric")


def test_nothing_planted_is_nothing_found():
    assert judge_claims(gather({}, noise=0.3)[0]) == [claims.OPEN] * 6


def test_figures_and_results_of_planted_arms(tmp_path):
    result, _ = gather({MAIN: 5})
    write_result(tmp_path / "infrared.json", result)
    again = read_result(tmp_path / "infrared.json")
    assert again.finding() == result.finding()
    assert set(figures.plates(again)) == {"arms", "cutoffs", "curves"}
    alike = replace(again, cutoffs=again.cutoffs | {"0.1": f"{MAIN} 0.25"})
    axis = figures.plates(alike)["cutoffs"].figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.1 = 0.25", "0.5", "0.75"]
    wide = figures.tables(again)["gains"].frame
    assert len(wide) == 3 * (len(result.arms) - 1) - 1
    assert list(figures.tables(again)["classes"].frame["class"]) == ["person"]


def test_every_stage_runs_and_the_start_is_the_teacher_itself(small, tmp_path):
    pytest.importorskip("pycocotools")
    result = measure_infrared(small, arms=["none", MAIN], cutoffs=[0.5], epochs=1, examples=2)
    store = small.open_store()
    teacher = ensure_run(configure_infrared(small, arms=["none"])[TEACHER, "none", 0])
    network = teacher.load_student(store).eval()
    entry = network.get_parameter(network.entry)
    rows, train = store.rows("test"), np.asarray(store.read("thermal")[store.rows("train")])
    pixels = torch.from_numpy(np.asarray(store.read("thermal")[rows])).float()
    pixels = (pixels - train.mean()) / train.std()
    pixels = functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    # Three equal channels are one channel under the sum of their filters.
    assert entry.shape[1] == 3
    with torch.no_grad():
        chosen = network(pixels.repeat(1, 3, 1, 1)).logits.argmax(dim=1)
    masks = torch.from_numpy(np.asarray(store.read("mask")[rows]))[:, None].float()
    true = functional.interpolate(masks, (32, 32), mode="nearest-exact")[:, 0].long()
    kept = true != IGNORED
    seen = np.union1d(true[kept], chosen[kept])
    expected = jaccard_score(true[kept], chosen[kept], average="macro", labels=seen)
    start = result.find(BLIND, "none")
    assert start.values["mIoU"][0] == pytest.approx(100 * expected, abs=0.05)
    assert result.tasks == [BLIND, *TASKS] and result.n == len(rows)
    run = ensure_run(configure_infrared(small, arms=[MAIN])["detection", MAIN, 0])
    accuracy = run.record.scores["validation"].accuracy
    cell = result.find("detection", MAIN)
    assert cell.values["mAP50"][0] == pytest.approx(100 * accuracy, abs=1e-4)
    assert np.nanmean(cell.classes) == pytest.approx(100 * accuracy, abs=1e-4)
    assert cell.values["mAP50:95"][0] <= cell.values["mAP50"][0] + 1e-9
    assert set(result.pictures.found) == {"rgb", "none", MAIN}
    write_result(tmp_path / "infrared.json", result)
    again = read_result(tmp_path / "infrared.json")
    assert set(figures.plates(again)) == {"arms", "curves", "pictures"}
    assert {"arms", "gains", "classes", "recipes", "masks"} <= set(figures.tables(again))
    assert [(each.cutoff, each.mask) for each in again.masks] == [
        ("0.5", "symmetric"), ("0.5", "released"),
    ]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_store_of_masks_or_boxes_alone_will_do(small, task, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setattr(infrared, "find_tasks", lambda store: [task])
    options = {"arms": ["none", "mse"], "cutoffs": [0.5], "epochs": 1, "examples": 2}
    result = measure_infrared(small, **options)
    assert result.metric == {BLIND: METRIC[task], task: METRIC[task]}
    network = "vit_small_pixels" if task == "segmentation" else "vit_small_boxes"
    configs = configure_infrared(small, arms=["none", "mse"], cutoffs=[0.5], epochs=1)
    assert {config.network for config in configs.values()} == {network}
    assert (result.pictures is not None) == ("classes" in figures.tables(result))
    assert ("pictures" in figures.plates(result)) == (task == "detection")
    if task == "detection":  # then the teacher is the RGB detector
        run = ensure_run(configs[TEACHER, "none", 0])
        found = run.read_predictions()[result.pictures.places]
        person = small.open_store().classes.index(PERSON)
        for shown, truth, own in zip(
            result.pictures.found["rgb"], result.pictures.truths, found, strict=True
        ):
            kept = truth[:, 0] == person
            assert set(truth[~kept, 0]) <= {NOTHING, IGNORE}
            there = own[own[:, 0] == person]
            assert set(shown[:, 0]) <= {person, NOTHING}
            assert not len(there) or not kept.any() or shown[0, 1] == there[:, 1].max()
    assert len(result.claims()) == 0 and "not run" not in result.finding()


def test_a_detector_from_a_folder_is_judged_on_both_modalities(small, monkeypatch):
    """One that finds everything in RGB and nothing in infrared."""
    store = small.open_store()
    truths = np.array(store.read("boxes")[store.rows("test")])

    def find(folder, images, classes):
        assert folder == "detr" and list(classes) == store.classes and images.dtype == torch.uint8
        found = np.insert(truths, 1, 1.0, axis=2)
        return torch.from_numpy(found if images.shape[1] == 3 else found * 0 - 1)

    monkeypatch.setattr(infrared, "detect_with", find)
    found = judge_detector(store, ["rgb", "thermal"], "detr")
    assert found["rgb"].map50 == found["rgb"].map == pytest.approx(1.0)
    assert found["thermal"].map50 == 0


def test_a_folder_without_a_detector_is_said_before_anything_is_trained(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(infrared, "ensure_runs", lambda *args, **others: pytest.fail("trained"))
    with pytest.raises(UserError, match="holds no detector"):
        measure_infrared(small, arms=["none"], detector=str(tmp_path))
