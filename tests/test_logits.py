"""Parts of logits: closed forms, planted networks, the null of a lone peak; verdicts follow rules;
Table VI's runs and cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pywt

from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.figures import logits as figures
from fdlab.spectral.grids import choose_grid, order_classes
from fdlab.studies import claims
from fdlab.studies.logits import (
    ROWS,
    TABLE,
    Logits,
    compare_bands,
    configure_logits,
    dissect_logits,
    find_clusters,
    read_published,
)
from fdlab.studies.parts import (
    GRAFT,
    HIGH,
    LABEL,
    LOW,
    PEAKED,
    RANDOM,
    REVERSE,
    RULES,
    STUDENT,
    TEACHER,
    WHOLE,
    draw_peaked,
    find_ceiling,
    find_share,
    measure_parts,
    score_classes,
    split,
)
from fdlab.studies.plan import make_plan
from fdlab.studies.printed import name_printed
from fdlab.studies.published import list_published
from fdlab.studies.sensitivity import summarise_grid
from fdlab.training.runs import complete

K = 100
FAMILIES = np.arange(K) // 10


def draw_labels(n: int, seed: int = 0, classes: int = K) -> np.ndarray:
    return np.random.default_rng(seed).integers(classes, size=n)


def draw_noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def find_block(label: int, classes: int = K) -> list[int]:
    """The classes of a class's 2×2 block of the grid."""
    rows, columns = choose_grid(classes)
    grid = np.arange(rows * columns).reshape(rows, columns)
    row, column = (2 * (i // 2) for i in divmod(label, columns))
    return grid[row : row + 2, column : column + 2].ravel().tolist()


def test_a_lone_peak_splits_as_the_block_mean_says():
    peak = np.zeros((1, K))
    peak[0, 37] = 8.0
    parts, block = split(peak), find_block(37)
    expected = np.zeros(K)
    expected[block] = 2.0
    np.testing.assert_allclose(parts[LOW][0], expected, atol=1e-12)
    np.testing.assert_allclose(parts[HIGH][0, 37], 6.0)
    others = [k for k in block if k != 37]
    np.testing.assert_allclose(parts[HIGH][0, others], -2.0)
    assert score_classes(parts[HIGH], np.array([37])) == 1
    assert score_classes(parts[LOW], np.array([37])) == 0.25
    assert score_classes(parts[LOW], np.array([block[0]])) == 0.25


@pytest.mark.parametrize("classes", [100, 200, 10, 40, 67])
def test_the_low_part_is_what_pywavelets_rebuilds_from_it(classes):
    logits = draw_noise(3, classes)
    grid = logits.reshape(3, *choose_grid(classes))
    low, details = pywt.dwt2(grid, "haar", mode="zero")
    zero = tuple(np.zeros_like(d) for d in details)
    rebuilt = pywt.idwt2((low, zero), "haar", mode="zero")[:, : grid.shape[1], : grid.shape[2]]
    parts = split(logits)
    np.testing.assert_allclose(parts[LOW], rebuilt.reshape(3, classes), atol=1e-12)
    np.testing.assert_allclose(parts[LOW] + parts[HIGH], logits)


def test_ties_count_by_the_expected_value_of_one_drawn():
    scores = np.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert score_classes(scores, np.array([2, 0, 0])).tolist() == [0.5, 0.25, 0.0]
    families = np.array([0, 0, 1, 1])
    assert score_classes(scores, np.array([2, 0, 2]), families).tolist() == [0.5, 0.5, 1.0]
    wild = draw_noise(200, 30)
    labels = draw_labels(200, classes=30)
    assert (score_classes(wild, labels) == (wild.argmax(axis=1) == labels)).all()
    # The four of a block tie in float64 however they were rounded.
    low = split(10 * draw_noise(500, K).astype(np.float32))[LOW]
    found = np.array([score_classes(low, np.full(500, k)) for k in range(K)])
    np.testing.assert_allclose(found.sum(axis=0), 1)
    assert set(np.unique(found)) == {0, 0.25}


def test_what_ties_allow():
    every = np.arange(K)
    assert find_ceiling(every, K) == 0.25
    assert find_ceiling(every, K, FAMILIES) == 0.5  # a block holds two families of two variants
    # 67 classes are a row: blocks of two, the last class has its own.
    assert find_ceiling(np.arange(67), 67) == pytest.approx((66 * 0.5 + 1) / 67)
    assert find_ceiling(np.arange(10), 10) == pytest.approx(0.25 * 0.8 + 0.5 * 0.2)  # 2×5


def test_the_noise_keeps_the_peak_and_the_moments_of_the_rest():
    logits = 3 * draw_noise(400, K) + 1
    top = logits.argmax(axis=1)
    found = draw_peaked(logits, np.random.default_rng(1))
    rows = np.arange(400)
    assert (found[rows, top] == logits[rows, top]).all()
    for rank in (found, logits):
        rank[rows, top] = np.nan
    assert np.nanmean(found) == pytest.approx(np.nanmean(logits), abs=0.05)
    assert np.nanstd(found) == pytest.approx(np.nanstd(logits), rel=0.02)
    assert abs(np.corrcoef(found[:, 0], logits[:, 0])[0, 1]) < 0.3 or np.isnan(found[:, 0]).any()


@pytest.mark.parametrize("height", [0.5, 4.0, 60.0])
def test_the_nulls_details_reach_the_networks_accuracy_as_its_peak_grows(height):
    """Removing the low band leaves a high peak where it is, whatever the logits mean."""
    rng = np.random.default_rng(0)
    labels = draw_labels(600)
    named = np.where(rng.random(600) < 0.7, labels, draw_labels(600, 1))
    logits = rng.standard_normal((1, 600, K))
    logits[0, np.arange(600), named] += height + 4  # so that it is the highest
    found = measure_parts(logits, logits, labels, repeats=4)
    own = found.find(TEACHER).accuracy.mean
    noise = found.find(TEACHER, HIGH, PEAKED).accuracy.mean
    if height > 50:
        assert noise == own == 100 * (named == labels).mean()
        assert found.find(TEACHER, LOW, PEAKED).accuracy.mean == pytest.approx(
            25 * np.mean([n in find_block(label) for n, label in zip(named, labels, strict=True)])
        )
    assert noise <= own + 1e-9
    if height < 1:
        assert noise < own


def plant(where: str, seeds: int = 4, n: int = 200):
    """A teacher that is always right and a student that knows only the low or the high part of it,
    and noise in the other."""
    labels = draw_labels(n)
    teacher = 0.5 * draw_noise(seeds, n, K, seed=1)
    teacher[:, np.arange(n), labels] += 8
    noise = split((3 * draw_noise(seeds, n, K, seed=2)).reshape(-1, K))
    own = split(teacher.reshape(-1, K))
    student = (own[LOW] + noise[HIGH] if where == LOW else noise[LOW] + own[HIGH]).reshape(
        teacher.shape
    )
    return teacher, student, labels


def test_a_planted_student_that_lacks_the_details_gets_them_from_the_graft():
    teacher, student, labels = plant(LOW)
    found = measure_parts(teacher, student, labels, families=FAMILIES, repeats=3)
    assert found.find(GRAFT).accuracy.mean == 100 == found.find(TEACHER).accuracy.mean
    assert found.find(STUDENT).accuracy.mean < 60
    assert found.find(REVERSE).values == pytest.approx(found.find(STUDENT).values)
    assert found.find(TEACHER, LOW).accuracy.mean == pytest.approx(25, abs=0.5)
    np.testing.assert_allclose(found.share, 100)  # of the difference, all is in the details
    # In another order part of the difference is in the low band, and the graft leaves it there.
    assert (found.share_random < 90).all()
    assert found.contrasts["graft - student"].beats()
    assert found.contrasts["graft - random graft"].beats()
    assert "the student wrong" in found.rule


def test_a_planted_student_that_has_the_details_gains_nothing_from_the_graft():
    teacher, student, labels = plant(HIGH)
    found = measure_parts(teacher, student, labels, repeats=3)
    np.testing.assert_allclose(found.find(GRAFT).values, found.find(STUDENT).values)
    np.testing.assert_allclose(found.share, 0, atol=1e-9)
    assert found.contrasts["graft - student"].both.mean == 0


def test_without_structure_every_direction_has_its_share():
    gaps = [draw_noise(2000, K, seed=s) for s in (1, 2)]
    assert find_share(*gaps) == pytest.approx(100 * 75 / 99, abs=0.3)
    order = order_classes(K, 0)
    assert find_share(*gaps, order) == pytest.approx(100 * 75 / 99, abs=0.3)
    coarse = 7.0 * (np.arange(K) // 20 % 2)  # pairs of families apart: constant in every block
    assert find_share(gaps[0], gaps[0] + coarse) == pytest.approx(0, abs=1e-9)
    assert find_share(gaps[0], gaps[0] + coarse, order) > 50
    assert math.isnan(find_share(gaps[0], gaps[0]))


def test_the_low_parts_family_depends_on_the_order_of_the_classes():
    """In label order a block holds two families, in a random one about four."""
    labels = draw_labels(500)
    logits = np.zeros((1, 500, K))
    logits[0, np.arange(500), labels] = 10
    found = measure_parts(logits, logits, labels, families=FAMILIES, repeats=20)
    assert found.ceilings[LABEL] == pytest.approx([25, 50])
    assert found.find(TEACHER, LOW).family.mean == pytest.approx(50)
    # Each of the three others of a block is of the true family with probability 9 in 99.
    expected = 100 * (1 + 3 * 9 / 99) / 4
    assert found.find(TEACHER, LOW, RANDOM).family.mean == pytest.approx(expected, abs=2)
    assert found.ceilings[RANDOM] == pytest.approx([25, expected], abs=2)
    assert found.find(TEACHER, LOW, RANDOM).accuracy.mean == pytest.approx(25)


def test_samples_follow_the_first_rule_that_finds_any():
    teacher, student, labels = plant(LOW, seeds=1)
    found = measure_parts(teacher, student, labels, repeats=1, count=5)
    assert found.rule == RULES[0] and len(found.samples) == 5
    for sample in found.samples:
        assert sample.label == labels[sample.row] == sample.teacher[WHOLE].argmax()
        assert sample.student[WHOLE].argmax() != sample.label
        np.testing.assert_allclose(sample.student[WHOLE], student[0, sample.row])
    again = measure_parts(teacher, student, labels, repeats=1, count=5)
    assert [s.row for s in again.samples] == [s.row for s in found.samples]
    same = measure_parts(teacher, teacher, labels, repeats=1)
    assert same.rule == RULES[1]
    wrong = measure_parts(-teacher, -teacher, labels, repeats=1)
    assert wrong.rule == RULES[2]


def plant_pattern(seeds: int = 4, n: int = 200):
    """A teacher whose logits are ±1 but for a class at 2, so that noise of its spread hides the
    peak, and a student that knows its low part alone."""
    labels = draw_labels(n)
    teacher = np.sign(draw_noise(seeds, n, K, seed=1))
    teacher[:, np.arange(n), labels] = 2
    noise = split((0.5 * draw_noise(seeds, n, K, seed=2)).reshape(-1, K))[HIGH]
    low = split(teacher.reshape(-1, K))[LOW]
    return teacher, (low + noise).reshape(teacher.shape), labels


def make_result(rows: dict[str, float], networks, figkd: float = 0.0) -> Logits:
    """A result whose rows answer as planted; figkd: how much more its features know of the class
    than those of KD and of no distillation."""
    teacher, student, labels = networks
    seeds = len(teacher)
    rng = np.random.default_rng(0)
    base = rng.random((seeds, 400))
    answers = {name: base + 0.1 * rng.standard_normal(base.shape) < p for name, p in rows.items()}
    groups = FAMILIES[labels]
    centres = 2 * draw_noise(K, 8, seed=3)[labels]
    features = {
        (method, seed): (1 + figkd * (method == "figkd")) * centres
        + 2 * draw_noise(len(labels), 8, seed=10 + seed)
        for method in ("none", "kd", "figkd")
        for seed in range(seeds)
    }
    cells = {(a, b): answers["high"] for a in (0.1, 1.0) for b in (1.0, 9.0)}
    return Logits(
        dataset="x",
        preset="quick",
        n=len(labels),
        seeds=list(range(seeds)),
        base="ce",
        pairs=["vgg13-mobilenetv2_half"],
        classes=[f"class {k}" for k in range(K)],
        families=[str(f) for f in range(10)],
        parts=measure_parts(teacher, student, labels, families=FAMILIES, repeats=3),
        bands=compare_bands("vgg13-mobilenetv2_half", answers),
        alphas=[0.1, 1.0],
        betas=[1.0, 9.0],
        grid=summarise_grid("vgg13-mobilenetv2_half", cells, answers["none"]),
        grid_seeds=list(range(seeds)),
        clusters=find_clusters(features, labels, groups, [0], 20),
        reports="cifar100",
        runs=[],
    )


@pytest.fixture(scope="module")
def planted():
    rows = {"none": 0.5, "low": 0.5, "high": 0.7, "both": 0.6, "permuted 0": 0.5}
    return make_result(rows, plant(LOW), figkd=1.0)


def weigh(result: Logits) -> dict[str, str]:
    names = ("high", "low", "graft", "bands", "order", "grid", "clusters")
    return dict(zip(names, [claim.verdict for claim in result.claims()], strict=True))


def test_verdicts_follow_planted_answers(planted):
    found = weigh(planted)
    # With a peak of 8 over noise of 0.5 any peak does as well; the low part names the true block.
    assert (found["high"], found["low"]) == (claims.MATCHED, claims.REFUTED)
    assert found["graft"] == claims.MATCHED  # so do its details on the student's low part
    assert found["bands"] == found["order"] == found["clusters"] == claims.SUPPORTED
    assert found["grid"] == claims.MATCHED  # all cells answer alike
    rows = {"none": 0.5, "low": 0.72, "high": 0.7, "both": 0.7, "permuted 0": 0.72}
    other = weigh(make_result(rows, plant(HIGH)))
    assert other["order"] == claims.MATCHED and other["bands"] in (claims.OPEN, claims.REFUTED)
    assert other["graft"] == claims.OPEN and other["clusters"] == claims.OPEN
    pattern = weigh(make_result(rows, plant_pattern()))
    assert (pattern["high"], pattern["graft"]) == (claims.SUPPORTED, claims.SUPPORTED)


def test_the_result_is_read_back_drawn_and_tabled(planted, tmp_path):
    write_result(tmp_path / "logits.json", planted)
    again = read_result(tmp_path / "logits.json")
    assert again.finding() == planted.finding() and "base ce" in planted.finding()
    assert [c.verdict for c in again.claims()] == [c.verdict for c in planted.claims()]
    assert set(figures.plates(again)) == {"samples", "parts", "bands", "grid", "tsne"}
    tables = figures.tables(again)
    assert list(tables["bands"].frame["paper, cifar100 vgg13-mobilenetv2"]) == [
        *("70.57", "70.65", "71.81", "71.18"),
        "",  # no random order in the paper
    ]
    assert len(tables["parts"].frame) == 3 * 8 - 2 and "base ce" in tables["bands"].caption
    for table in tables.values():
        assert table.to_latex().isascii()


def test_the_papers_cells_are_found_by_pair(planted):
    cells = {n.place: n for n in list_published() if n.table == TABLE}
    assert len(cells) == 24 and {key for _, key, _ in cells} == set(ROWS)
    assert cells[TABLE, "high", "cifar100_vgg13-mobilenetv2"].paper == 71.81
    assert cells[TABLE, "both", "tinyimagenet_resnet32x4-shufflenetv2"].paper == 69.59
    measured = planted.measured()
    assert set(measured) == {p for p in cells if p[2] == "cifar100_vgg13-mobilenetv2"}
    high = TABLE, "high", "cifar100_vgg13-mobilenetv2"
    assert measured[high].mean == pytest.approx(planted.bands[2].values.mean())
    assert set(planted.controls()) == set(measured)
    assert all("base ce" in text for text in planted.controls().values())
    assert "random order" in planted.controls()[high]
    assert name_printed("vgg13-vgg8") == "vgg13-vgg8"
    assert read_published("permuted 0") == {}


PAIRS = ["vgg13-vgg8"]


def test_the_runs_are_table_vis_rows_and_the_grid():
    plan = make_plan("digits", "quick", study="logits", seeds=[0, 1])
    configs = configure_logits(plan, PAIRS, orders=1, alphas=[0.5], betas=[2.0])
    pair = PAIRS[0]
    done = {key: complete(config) for key, config in configs.items()}
    bands = {name: done[pair, name, 0].options["bands"] for name in ("low", "high", "both")}
    assert bands == {"low": "LL", "high": "LH+HL+HH", "both": "LL+LH+HL+HH"}
    assert done[pair, "none", 0] == done[pair, "student", 0]  # the base alone is no distillation
    assert done[pair, "high", 0] == done[pair, "1 1", 0]  # the grid's own cell is not run again
    assert (pair, "1 1", 1) not in done  # one seed where the preset is short
    assert done[pair, "permuted 0", 1].options["order"] == "random"
    assert done[pair, "teacher", 1].network == "vgg13"
    assert done[pair, "high", 1].teacher_network == "vgg13"
    names = {name for _, name, _ in configs}
    assert {"0.5 2", "0.5 1", "1 2", "1 1", "kd"} < names
    both = configure_logits(plan, PAIRS, base="mlkd", orders=0)
    assert both[pair, "none", 0].method == "mlkd" and both[pair, "student", 0].method == "none"
    assert both[pair, "low", 0].options == {"bands": "LL", "base": "mlkd"}
    with pytest.raises(UserError, match="mlkd"):
        configure_logits(plan, PAIRS, base="kd")
    with pytest.raises(UserError, match="alphas is"):
        configure_logits(plan, PAIRS, alphas=[0.0])
    with pytest.raises(UserError, match="vgg13-vgg8"):
        configure_logits(plan)  # digits has no pairs of its own


def test_a_data_set_of_ten_classes_is_dissected(digits):
    plan = make_plan("digits", "smoke", seeds=[0], epochs=1, width=4)
    found = dissect_logits(
        plan, pairs=["resnet14-resnet8"], orders=1, alphas=[1.0], betas=[1.0], drawn=1
    )
    assert found.parts.grid == [2, 5] and found.families == [] and found.n == 67
    assert len(found.parts.ceilings[LABEL]) == 1 and found.parts.find(TEACHER).family is None
    high = found.find("resnet14-resnet8", "high")
    assert high.versus_none.both.mean == pytest.approx(
        (high.values - found.find("resnet14-resnet8", "none").values).mean()
    )
    assert found.parts.find(STUDENT).values == pytest.approx(
        found.find("resnet14-resnet8", "none").values
    )
    assert found.grid.accuracy.shape == (1, 1, 1) and not found.measured()
    assert set(figures.plates(found)) == {"samples", "parts", "bands", "grid", "tsne"}
    assert len(found.claims()) == 7
