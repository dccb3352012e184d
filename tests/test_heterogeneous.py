"""Unlike architectures: the arms differ in what they say they do, planted gains are found and
planted nulls are not, and what a student's maps miss of its teacher's is what was planted there."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracles
import oracles_maps
import oracles_planes
import pytest
import torch
from networks import plant
from scipy import special, stats
from torch import nn
from torch.nn import functional

from fdlab.core.config import PRESETS, Pair
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result, write_result
from fdlab.data import DATASETS
from fdlab.data.digits import DIGITS
from fdlab.data.paired import PairedData
from fdlab.execute.forecast import NEEDS
from fdlab.execute.parameters import read_parameters
from fdlab.figures import heterogeneous as figures
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.methods.refine import PerChannel, Refinement, Stream
from fdlab.models import MODELS
from fdlab.models.output import ModelOutput, Side
from fdlab.studies import claims
from fdlab.studies.cost import Cost
from fdlab.studies.differences import measure_energies, summarise_share, weigh_rings
from fdlab.studies.heterogeneous import (
    ALIKE,
    ARMS,
    BASE,
    COUPLES,
    LOGITS,
    MAIN,
    MSE,
    OTHERS,
    PLAIN,
    RIVALS,
    SHORT,
    START,
    STRONG,
    STUDENT,
    TEACHER,
    UNLIKE,
    USUAL,
    WHOLE,
    Cell,
    Heterogeneous,
    Stage,
    choose_pairs,
    choose_recipe,
    compare_architectures,
    compare_arms,
    configure_heterogeneous,
    find_kind,
    list_arms,
    name_contrast,
)
from fdlab.studies.plan import make_plan
from fdlab.training.ensure import build_untrained, ensure_run
from fdlab.training.runs import complete, find_name, find_waves

ROOT = Path(__file__).resolve().parents[1]
SEEDS, N = 3, 1500
FIRST, SECOND, LIKE = "swin_t-resnet18", "resnet18-swin_t", "resnet34-resnet18"
KINDS = {FIRST: UNLIKE, SECOND: UNLIKE, LIKE: ALIKE}
RIDGE = 1e-3
OWN = replace(DIGITS, presets={"quick": {"width": 4}})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(isolated_home):
    """A few of the digits, and the smallest plan for them."""
    pytest.importorskip("espeakng_loader")
    plan = make_plan("digits", "smoke", seeds=[0], study="heterogeneous")
    return replace(plan, data_options={"limit": 80})


@pytest.fixture(scope="module")
def measured(small):
    """Two convolutional networks, so that no vision transformer is needed."""
    return compare_architectures(
        small, pairs=["resnet14-resnet8"], arms=[LOGITS, MAIN, MSE], epochs=1
    )


def show(size: tuple[int, ...], preset: str = "reduced", kind: type = np.uint8) -> SimpleNamespace:
    """What `choose_pairs` reads of a plan, of a data set with samples of this shape behind sounds
    of the same."""
    stored = {"sound": np.zeros((2, 1, 32, 32), np.float16), "image": np.zeros((2, *size), kind)}
    dataset = SimpleNamespace(name="shown", modalities=stored)
    store = SimpleNamespace(read=stored.__getitem__, dataset=dataset)
    return SimpleNamespace(preset=preset, open_store=lambda: store)


# The arms and the pairs


def test_the_arms_differ_in_what_they_say_and_in_nothing_else(small):
    plan = replace(small, seeds=(0, 3))
    configs = configure_heterogeneous(plan, ["swin_t-resnet18_cifar"], list(ARMS))
    assert len(configs) == 2 * len(ARMS)
    said = set()
    for (pair, name, seed), config in configs.items():
        arm, main = ARMS[name], configs[pair, MAIN, seed]
        said.add((config.method, json.dumps(config.options), config.teacher_kind))
        assert (config.method, config.options, config.seed) == (arm.method, arm.options, seed)
        assert config.network == "resnet18_cifar" and config.train == main.train
        if name == BASE:
            bare = {"teacher": None, "teacher_network": "", "teacher_train": None}
            assert config == replace(main, method="none", options={}, **bare)
        else:
            assert config.teacher_kind == arm.teacher
            own = {"method": arm.method, "options": arm.options, "teacher_kind": arm.teacher}
            assert config == replace(main, **own)
            assert config.teacher_network == "swin_t" and config.teacher == config.student
    assert len(said) == len(ARMS)
    assert ARMS[LOGITS].options == {"weight": 0.0}
    assert ARMS[MSE].options == {"matching": "mse"}
    assert ARMS[STRONG].options == {"matching": "mse", "weight": 3.0}
    kinds = {OTHERS: "shuffled_in_class", "shuffled": "shuffled", "untrained": "untrained"}
    assert {name: ARMS[name].teacher for name in kinds} == kinds
    assert (ARMS["constant"].teacher, ARMS["constant"].options) == ("constant", {"weight": 0.0})
    changed = {"infonce": {"matching": "infonce"}, "no_dwt": {"dwt": False},
               "no_refine": {"refine": False}, "high": {"passes": "high"},
               "maps": {"logits": "none"}, "kd_term": {"logits": "kd"}}  # fmt: skip
    assert {name: ARMS[name].options for name in changed} == changed
    assert ARMS["flat"].options["width"] >= 1e4
    assert {name: ARMS[name].method for name in RIVALS} == {name: name for name in RIVALS}


def test_no_distillation_is_first_and_always_there():
    def names(arms):
        return [arm.name for arm in list_arms(arms)]

    assert names(None) == names([]) == list(USUAL) and names(None)[0] == BASE
    assert names([MAIN, MSE]) == names('["sfkd", "mse"]') == [BASE, MAIN, MSE]
    assert names([MAIN, BASE]) == [BASE, MAIN]
    with pytest.raises(UserError, match="unknown arm 'sfdk'") as found:
        list_arms(["sfdk"])
    assert "\n" not in str(found.value) and "'sfkd'" in str(found.value)


def test_other_pairs_have_the_short_list_unless_every_pair_has_all(small):
    pairs = ["resnet14-resnet8", "resnet20-resnet8"]

    def arms(pair, **options):
        configs = configure_heterogeneous(small, pairs, **options)
        return [arm for name, arm, _ in configs if name == pair]

    assert arms("resnet14-resnet8") == list(USUAL)
    assert arms("resnet20-resnet8") == list(SHORT) == [BASE, LOGITS, MAIN]
    assert arms("resnet20-resnet8", arms=[MSE, MAIN]) == [BASE, MAIN]
    assert arms("resnet20-resnet8", every=True) == list(USUAL)


def test_vits_are_left_out_where_they_learn_nothing():
    for preset, there in (("smoke", False), ("quick", False), ("reduced", True), ("paper", True)):
        found = [str(pair) for pair in choose_pairs(show((3, 32, 32), preset))]
        assert any(name.startswith("vit_") for name in found) is there
        kinds = [find_kind(Pair.parse(name)) for name in found]
        assert kinds[0] == UNLIKE and kinds[-1] == ALIKE and len(found) == 3 + there
    asked = ["vit_small-mobilenetv2_half"]
    for pairs in (asked, json.dumps(asked)):
        assert [str(pair) for pair in choose_pairs(show((3, 32, 32), "smoke"), pairs)] == asked


def test_small_images_have_networks_made_for_them():
    for size, made in (((1, 32, 32), True), ((3, 63, 20), True), ((3, 64, 20), False)):
        pairs = choose_pairs(show(size))
        assert all(p.teacher in MODELS and p.student in MODELS for p in pairs)
        assert any("cifar" in str(pair) for pair in pairs) is made


def test_a_pair_is_unlike_where_one_network_is_a_transformer():
    kinds = {"swin_t-resnet18": UNLIKE, "resnet18-vit_small": UNLIKE, "swin_t-vit_s14": ALIKE,
             "resnet34-mobilenetv2": ALIKE}  # fmt: skip
    assert {pair: find_kind(Pair.parse(pair)) for pair in kinds} == kinds


@pytest.mark.parametrize(
    "plan, pairs, message",
    [
        (show((3, 32, 32)), ["resnet8"], "pair is 'resnet8': expected a teacher's and a student's"),
        (show((3, 32, 32)), ["a-b-c"], "pair is 'a-b-c'"),
        (show((3, 32, 32)), ["a-b", "a-b"], "expected each once"),
        (show((3, 32, 32)), ["resnet8-resnet8"], "'resnet8-resnet8': expected two networks"),
        (show((20,)), None, "shown has no modality of single images: this study is for networks"),
        (show((1, 32, 32), kind=np.float16), None, "shown has no modality of single images"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(plan, pairs, message):
    with pytest.raises(UserError, match=message) as found:
        choose_pairs(plan, pairs)
    assert "\n" not in str(found.value)


def test_the_paper_preset_has_ofa_kds_recipe(small):
    plan = replace(small, preset="paper", width=64, train=PRESETS["paper"].train)
    for role in (TEACHER, STUDENT):
        recipe = choose_recipe(plan, "resnet18", role)
        assert (recipe.optimiser, recipe.schedule, recipe.epochs) == ("sgd", "cosine", 300)
        assert (recipe.learning_rate, recipe.final_learning_rate) == (0.05, 1e-3)
        assert (recipe.weight_decay, recipe.momentum, recipe.milestones) == (2e-3, 0.9, ())
        modern = choose_recipe(plan, "swin_t", role)
        assert (modern.optimiser, modern.schedule, modern.epochs) == ("adamw", "cosine", 300)
    configs = configure_heterogeneous(plan, [FIRST], [MAIN])
    main = configs[FIRST, MAIN, 0]
    assert (main.train.optimiser, main.teacher_train.optimiser) == ("sgd", "adamw")
    assert configs[FIRST, BASE, 0].train == main.train and main.width == 64


def test_a_network_has_one_recipe_but_for_the_epochs_of_its_role(small):
    own = replace(small.train, learning_rate=0.3, epochs=7)
    long = replace(small.train, epochs=16, learning_rate=0.2)
    plan = replace(small, preset="quick", train=long, recipes={"resnet18": own})
    epochs = {}
    for network in ("resnet18", "swin_t"):
        teacher, student = (choose_recipe(plan, network, role) for role in (TEACHER, STUDENT))
        assert teacher == replace(student, epochs=teacher.epochs)
        epochs[network] = (teacher.epochs, student.epochs)
        for role in (TEACHER, STUDENT):
            assert choose_recipe(plan, network, role, 3) == replace(student, epochs=3)
    assert epochs == {"resnet18": (8, 5), "swin_t": (12, 4)}
    assert choose_recipe(plan, "resnet18", STUDENT).learning_rate == 0.2  # of no other protocol
    short = replace(plan, train=replace(long, epochs=1))
    assert choose_recipe(short, "resnet18", STUDENT).epochs == 1
    few = replace(plan, train=replace(long, batch_size=20))  # as `make_plan` has it of 20
    assert choose_recipe(few, "swin_t", STUDENT).batch_size == 20
    assert choose_recipe(plan, "swin_t", STUDENT).batch_size == 32


def test_the_study_is_narrower_at_quick(monkeypatch):
    assert make_plan("digits", "quick", study="heterogeneous").width == 8
    assert make_plan("digits", "quick").width == make_plan("digits", "quick", study="zoo").width
    assert make_plan("digits", "quick").width == 16
    assert make_plan("digits", "quick", study="heterogeneous", width=12).width == 12
    assert make_plan("digits", "reduced", study="heterogeneous").width == 32
    monkeypatch.setitem(DATASETS.places, "made", f"{__name__}:OWN")
    assert make_plan("made", "quick", study="heterogeneous").width == 4


# Planted answers


def draw_answers(gains: dict, noise: dict | None = None, names=USUAL, pairs=KINDS) -> dict:
    """(pair, arm) → (S, N) right answers: a sample has its own chance, the same in all arms, raised
    by the arm's gain in points; a share of the samples (noise) is drawn anew in each arm. gains: of
    an arm, or of a pair and an arm."""
    rng, noise = np.random.default_rng(0), noise or {}
    answers = {}
    for pair in pairs:
        chance = rng.random((SEEDS, N))
        for arm in names:
            gain = gains.get((pair, arm), gains.get(arm, 0.0)) / 100
            anew = rng.random((SEEDS, N)) < noise.get(arm, 0.04)
            own = np.where(anew, rng.random((SEEDS, N)), chance)
            answers[pair, arm] = (own < 0.6 + gain).astype(float)
    return answers


def gather(gains: dict, noise: dict | None = None, arms=USUAL, kinds=None) -> Heterogeneous:
    chosen, kinds = list_arms(list(arms)), kinds or KINDS
    names = [arm.name for arm in chosen]
    answers = draw_answers(gains, noise, names, kinds)
    cells, contrasts, across = compare_arms(chosen, kinds, answers)
    cost = Cost(1.0, Estimate(1.5, 1.4, 1.6, 4), 100, 1.25)
    share = [Estimate(x, x - 0.1, x + 0.1, SEEDS) for x in (0.2, 0.6, 1.0)]
    read = [name for name in (BASE, MSE, MAIN) if name in names]
    return Heterogeneous(
        dataset="digits", preset="quick", n=N, seeds=list(range(SEEDS)), width=8,
        pairs=list(kinds), kinds=kinds, arms=chosen,
        cells=[Cell(pair, arm, values, gain, 50, cost if arm in (BASE, MAIN) else None)
               for pair, arm, values, gain in cells],
        teachers={pair: np.full(SEEDS, 90.0) for pair in kinds}, contrasts=contrasts,
        across=across,
        stages=[
            Stage(arm, name, [8, 4, 4], np.array([0.0, 0.5, 1.0]), share,
                  np.array([0.5, 0.3, 0.2]), np.array([2, 1.5, 0.5]),
                  {"mse": 0.5, "flat": 0.5, "low": 0.75, "high": 0.25}, 0.4)
            for arm in read for name in ("stage2", "stage3")
        ],
        fitted=600,
        parameters=dict.fromkeys(("swin_t", "resnet18"), 200),
        recipes={"teacher": {"swin_t": "adamw"}, "student": {"resnet18": "sgd"}}, runs=[],
    )  # fmt: skip


def judge_claims(result: Heterogeneous) -> dict[str, str]:
    """A word of each claim's statement → its verdict."""
    words = {"improves": "gain", "filtered loss": "filter", "Wavelets": "parts", "OFA": "rivals",
             "same image": "image", "like ones": "unlike"}  # fmt: skip
    found = {}
    for claim in result.claims():
        found[next(k for w, k in words.items() if w in claim.statement)] = claim.verdict
    return found


def correct_by_hand(p: list[float]) -> list[float]:
    """Holm: of m p-values each is multiplied by how many are not below it, then made monotone."""
    m = len(p)
    ranks = {place: rank for rank, place in enumerate(sorted(range(m), key=lambda i: p[i]))}
    raised = [min(1.0, p[i] * (m - ranks[i])) for i in range(m)]
    return [max(raised[j] for j in range(m) if ranks[j] <= ranks[i]) for i in range(m)]


def test_planted_gains_are_measured_and_corrected_within_their_pair():
    gains = {MAIN: 9, LOGITS: 4, "kd": 0.6, "dist": -0.5, "infonce": 8.6, "no_dwt": 9}
    gains |= {(LIKE, MAIN): 3, (SECOND, MAIN): 5}
    answers = draw_answers(gains)
    cells, contrasts, across = compare_arms(list_arms(None), KINDS, answers)
    assert [(pair, arm) for pair, arm, *_ in cells] == [(p, a) for p in KINDS for a in USUAL]
    found = {(pair, arm): gain for pair, arm, _, gain in cells}
    for pair, arm, values, gain in cells:
        np.testing.assert_allclose(values, 100 * answers[pair, arm].sum(axis=1) / N)
        if arm == BASE:
            assert gain is None
            continue
        gaps = 100 * (answers[pair, arm] - answers[pair, BASE]).mean(axis=1)
        low, high = stats.t.interval(0.95, SEEDS - 1, gaps.mean(), stats.sem(gaps))
        seeds = gain.seeds
        assert (seeds.mean, seeds.low, seeds.high) == pytest.approx((gaps.mean(), low, high))
    assert found[FIRST, MAIN].beats() and found[FIRST, MAIN].holm < 0.05
    assert not found[FIRST, "ofa"].beats() and found[FIRST, "ofa"].holm > 0.05
    for pair in KINDS:
        families = (
            [found[pair, arm] for arm in USUAL if arm != BASE],
            [contrasts[name][pair] for name in contrasts],
        )
        for family in families:
            assert pair != FIRST or len({gap.p for gap in family}) > 2
            wanted = correct_by_hand([gap.p for gap in family])
            assert [gap.holm for gap in family] == pytest.approx(wanted)
    there = {couple for couple in COUPLES if set(couple) <= set(USUAL)}
    assert set(contrasts) == {name_contrast(*couple) for couple in there}
    for one, two in there:
        gap = 100 * (answers[SECOND, one].mean() - answers[SECOND, two].mean())
        assert contrasts[name_contrast(one, two)][SECOND].seeds.mean == pytest.approx(gap)
    for arm in (MAIN, LOGITS, "kd"):
        gain = {pair: 100 * (answers[pair, arm].mean() - answers[pair, BASE].mean())
                for pair in KINDS}  # fmt: skip
        wanted = gain[FIRST] - gain[LIKE]  # the second pair's student is in no pair of one kind
        assert across[arm].seeds.mean == pytest.approx(wanted)
    assert set(across) == set(USUAL) - {BASE}


def test_arms_that_a_pair_lacks_are_left_out_of_its_family():
    answers = draw_answers({MAIN: 9})
    kept = {key: x for key, x in answers.items() if key[0] == FIRST or key[1] in SHORT}
    cells, contrasts, across = compare_arms(list_arms(None), KINDS, kept)
    assert [arm for pair, arm, *_ in cells if pair == LIKE] == list(SHORT)
    assert set(contrasts[name_contrast(MAIN, LOGITS)]) == set(KINDS)
    assert set(contrasts[name_contrast(MAIN, MSE)]) == {FIRST}
    assert set(across) == {LOGITS, MAIN}


def test_everything_planted_agrees():
    gains = {MAIN: 16, WHOLE: 8, (LIKE, MAIN): 2}
    found = judge_claims(gather(gains))
    assert found.pop("unlike") == claims.OPEN  # one pair of each kind
    assert found == dict.fromkeys(["gain", "filter", "parts", "rivals", "image"], claims.SUPPORTED)


def test_unlike_pairs_gain_more_where_two_of_each_kind_say_so_and_their_logits_do_not():
    kinds = {FIRST: UNLIKE, "vit_small-resnet18": UNLIKE, LIKE: ALIKE, "resnet50-resnet18": ALIKE}
    gains = {(pair, MAIN): 12 for pair, kind in kinds.items() if kind == UNLIKE}
    result = gather(gains, arms=[MAIN, LOGITS], kinds=kinds)
    assert judge_claims(result)["unlike"] == claims.SUPPORTED
    gains |= {(pair, LOGITS): 12 for pair, kind in kinds.items() if kind == UNLIKE}
    result = gather(gains, arms=[MAIN, LOGITS], kinds=kinds)
    assert judge_claims(result)["unlike"] == claims.MATCHED


def test_nothing_planted_is_nothing_found():
    verdicts = judge_claims(gather({}))
    assert len(verdicts) == 6 and claims.SUPPORTED not in verdicts.values()
    assert claims.MATCHED not in verdicts.values()
    assert judge_claims(gather({MAIN: -9}))["gain"] == claims.REFUTED
    assert judge_claims(gather({MAIN: -9, PLAIN: 9}))["parts"] == claims.REFUTED


def test_a_logit_term_that_does_as_much_takes_the_credit():
    arms = [MAIN, LOGITS]
    assert judge_claims(gather({MAIN: 9, LOGITS: 9}, arms=arms))["gain"] == claims.MATCHED
    assert judge_claims(gather({MAIN: 9, LOGITS: 3}, arms=arms))["gain"] == claims.SUPPORTED
    unsure = gather({MAIN: 3}, noise={LOGITS: 1.0}, arms=arms)  # gains nothing, is not beaten
    assert judge_claims(unsure)["gain"] == claims.OPEN
    alone = gather({MAIN: 9}, arms=[MAIN])
    assert judge_claims(alone)["gain"] == claims.SUPPORTED
    assert alone.claims()[0].control == "not run"


def test_mse_with_more_weight_takes_the_filters_credit():
    arms = [MAIN, MSE, STRONG, "infonce"]
    assert judge_claims(gather({MAIN: 9, STRONG: 9}, arms=arms))["filter"] == claims.MATCHED
    assert judge_claims(gather({MAIN: 9, STRONG: 3}, arms=arms))["filter"] == claims.SUPPORTED
    assert judge_claims(gather({MAIN: 9, "infonce": 9}, arms=arms))["filter"] == claims.OPEN
    unsure = gather({MAIN: 3}, noise={STRONG: 1.0}, arms=arms)  # gains nothing, is not beaten
    assert judge_claims(unsure)["filter"] == claims.OPEN
    claim = next(c for c in gather({MAIN: 9}, arms=arms[:2] + arms[3:]).claims()
                 if "filtered loss" in c.statement)  # fmt: skip
    assert claim.verdict == claims.SUPPORTED and claim.control.endswith("not run")
    assert "filter" not in judge_claims(gather({MAIN: 9}, arms=[MAIN, MSE]))


def test_one_better_rival_is_enough_to_differ_and_holm_must_agree():
    arms = [MAIN, *RIVALS]
    result = gather({MAIN: 6, "ofa": 12}, arms=arms)
    assert judge_claims(result)["rivals"] == claims.REFUTED
    assert judge_claims(gather({MAIN: 6, "ofa": 6}, arms=arms))["rivals"] == claims.OPEN
    lost = gather(dict.fromkeys(RIVALS, 9), arms=arms)
    assert judge_claims(lost)["rivals"] == claims.REFUTED
    for name in RIVALS:
        found = lost.contrasts[name_contrast(MAIN, name)]
        for pair in found:
            found[pair] = replace(found[pair], holm=0.2)
    assert judge_claims(lost)["rivals"] == claims.OPEN
    assert "rivals" not in judge_claims(gather({"kd": 9}, arms=[MAIN, "kd"]))


def test_the_image_matters_only_where_its_teacher_helps():
    arms = [MAIN, OTHERS]
    found = judge_claims(gather({MAIN: 9, OTHERS: 9}, arms=arms))
    assert found["image"] == claims.OPEN and found["gain"] == claims.SUPPORTED
    assert judge_claims(gather({MAIN: 9}, arms=arms))["image"] == claims.SUPPORTED
    harmed = gather({OTHERS: -20}, arms=arms)  # others harm, and its own do not help
    assert harmed.contrast(MAIN, OTHERS)[FIRST].beats()
    assert judge_claims(harmed)["image"] == claims.OPEN


def test_claims_about_unlike_pairs_are_made_of_them_alone():
    result = gather({MAIN: 14}, kinds={LIKE: ALIKE, FIRST: UNLIKE})
    assert judge_claims(result)["rivals"] == claims.SUPPORTED
    assert LIKE not in next(c for c in result.claims() if "OFA" in c.statement).ours
    assert judge_claims(gather({MAIN: 14}, kinds={LIKE: ALIKE})) == {}


def test_planted_results_are_drawn_told_and_kept(tmp_path):
    write_result(tmp_path / "heterogeneous.json", gather({MAIN: 5, (LIKE, MAIN): 1}))
    result = read_result(tmp_path / "heterogeneous.json")
    said = result.finding()
    assert f"{N} test samples, {SEEDS} seeds" in said and "reconstruction" in said
    assert all(pair in said for pair in KINDS) and "teacher 90.0 %" in said
    plates = figures.plates(result)
    assert list(plates) == ["arms", "pairs", "missed"]
    axis = plates["pairs"].figure.axes[0]
    labels = [label.get_text().replace(" →\n", "-") for label in axis.get_yticklabels()]
    assert labels == [FIRST, SECOND, LIKE]
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert means == [result.find(pair, MAIN).gain.both.mean for pair in KINDS]
    arms = plates["arms"].figure.axes[0]
    assert len(arms.get_yticklabels()) == len(USUAL)
    for axis in plates["missed"].figure.axes[:2]:
        curves = [line for line in axis.lines if len(line.get_xdata()) == 3]
        assert [list(line.get_ydata()) for line in curves] == [[0.2, 0.6, 1.0]] * 3
    tables = {name: table.frame for name, table in figures.tables(result).items()}
    assert set(tables) == {"arms", "gains", "contrasts", "filter", "recipes"}
    assert len(tables["arms"]) == len(KINDS) * (1 + len(USUAL))
    assert len(tables["gains"]) == len(KINDS) * (len(USUAL) - 1)
    couples = sum(set(couple) <= set(USUAL) for couple in COUPLES)
    assert len(tables["contrasts"]) == couples * len(KINDS) + len(USUAL) - 1
    row = tables["arms"][tables["arms"]["arm"] == "SFKD"].iloc[0]
    assert (row["time"], row["memory"], row["of the student's"]) == ("× 1.50", "× 1.25", "25%")
    row = tables["filter"].iloc[0]
    assert (row["SFKD's / MSE"], row["high-pass / MSE"], row["missed"]) == ("1.50", "0.50", "40%")


# What a student's maps miss


def place_rings(h: int, w: int) -> np.ndarray:
    """(h, w) nearest whole radius of each frequency."""
    down, along = (np.fft.fftfreq(size) * size for size in (h, w))
    return np.rint(np.hypot(down[:, None], along)).astype(int)


def sum_rings(maps: np.ndarray) -> np.ndarray:
    """(N, C, h, w) → (N, K) energies by the whole transform."""
    power = np.abs(np.fft.fft2(maps, norm="ortho")) ** 2
    rings = place_rings(*maps.shape[2:])
    return np.stack(
        [power[..., rings == k].sum(axis=(1, 2)) for k in range(rings.max() + 1)], axis=1
    )


def read_linearly(mine, theirs, fitted, tested) -> tuple[np.ndarray, np.ndarray]:
    """What the reading misses of the tested maps and the maps less their mean, by least squares of
    stacked rows, the ridge as rows of its own; the maps have one size."""

    def stack(x, rows):
        return np.moveaxis(x[rows], 1, -1).reshape(-1, x.shape[1])

    x, y = stack(mine, fitted), stack(theirs, fitted)
    own, target = x.mean(axis=0), y.mean(axis=0)
    ridge = RIDGE * x.var(axis=0).mean()
    below = math.sqrt(ridge * len(x)) * np.eye(x.shape[1])
    left = np.concatenate([x - own, below])
    right = np.concatenate([y - target, np.zeros((x.shape[1], y.shape[1]))])
    weights = np.linalg.lstsq(left, right, rcond=None)[0]
    there = theirs[tested] - target[:, None, None]
    return there - np.einsum("nchw,cd->ndhw", mine[tested] - own[:, None, None], weights), there


def look_at(mine: np.ndarray, theirs: np.ndarray):
    """As two networks that give these maps."""

    def output(x, name, rows):
        maps = {name: torch.from_numpy(x)[rows]}
        return ModelOutput(torch.zeros(len(rows), 2), torch.zeros(len(rows), 2), maps)

    return lambda rows: (output(mine, "own", rows), output(theirs, "their", rows))


def measure(mine, theirs, fitted, tested, size=7, **options):
    """The one pair of maps, in batches of which the last is smaller."""
    batches = (torch.as_tensor(rows).split(size) for rows in (fitted, tested))
    return measure_energies(look_at(mine, theirs), [("own", "their")], *batches, **options)[0]


@pytest.mark.parametrize("own, size", [((3, 4, 4), (5, 6, 7)), ((4, 8, 6), (2, 8, 6)),
                                       ((6, 5, 5), (4, 3, 3))])  # fmt: skip
def test_the_reading_is_least_squares_and_its_energies_those_of_the_whole_transform(own, size):
    rng = np.random.default_rng(1)
    mine, theirs = 3 + rng.normal(size=(40, *own)), rng.normal(size=(40, *size)) - 2
    theirs[:, 0] += mine.mean(axis=(1, 2, 3))[:, None, None] * np.linspace(0, 3, size[2])
    fitted, tested = np.arange(0, 23), np.arange(23, 40)
    found = measure(mine, theirs, fitted, tested)
    sides = oracles_planes.whiten(oracles_maps.resize_bilinearly(mine, *size[1:]))
    targets = oracles_planes.whiten(theirs)
    gap, there = read_linearly(sides, targets, fitted, tested)
    np.testing.assert_allclose(found.missed, sum_rings(gap), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.there, sum_rings(there), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.missed.sum(axis=1), (gap**2).sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.there.sum(axis=1), (there**2).sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.radii * min(size[1:]) / 2, range(len(found.radii)))
    assert found.shape == size and found.missed.shape == (17, place_rings(*size[1:]).max() + 1)
    losses = found.losses
    assert losses["mse"] == pytest.approx((gap**2).mean(), rel=1e-5)
    assert losses["flat"] == pytest.approx(losses["mse"], rel=1e-6)
    for passes in ("low", "high"):
        frequencies = [np.fft.fftfreq(n) * n for n in size[1:]]
        square = np.add.outer(*(f**2 for f in frequencies))
        weights = np.exp(-square / (2 * (0.25 * min(size[1:])) ** 2))
        weights = weights if passes == "low" else 1 - weights
        power = np.abs(np.fft.fft2(gap, norm="ortho")) ** 2
        wanted = (power * weights / weights.mean()).mean()
        assert losses[passes] == pytest.approx(wanted, rel=1e-5)
    assert abs(losses["low"] / losses["mse"] - 1) > 1e-3


def test_the_width_is_that_of_the_filter():
    rng = np.random.default_rng(2)
    mine, theirs = rng.normal(size=(2, 12, 3, 8, 8))
    wide, narrow = (measure(mine, theirs, range(8), range(8, 12), width=w) for w in (1e6, 0.1))
    assert wide.losses["low"] == pytest.approx(wide.losses["mse"], rel=1e-6)
    assert abs(narrow.losses["low"] / narrow.losses["mse"] - 1) > 1e-2


def draw_band(rng, count: int, channels: int, side: int, kept: np.ndarray, energy: float):
    """White noise of some frequencies, of one energy per value in every sample."""
    spectrum = np.fft.fft2(rng.normal(size=(count, channels, side, side))) * kept
    maps = np.fft.ifft2(spectrum).real
    return maps * np.sqrt(energy / (maps**2).mean(axis=(1, 2, 3), keepdims=True))


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_share_missed_is_what_was_planted(share):
    """The student's low frequencies, of this share of its energy, are the teacher's in other
    channels, and its high ones have nothing to do with it. The best reading takes the share of
    every channel: it misses (1 - share)² of the low frequencies, and of the high ones all and what
    it adds itself."""
    rng, count, channels, side = np.random.default_rng(3), 120, 4, 12
    rings = place_rings(side, side)
    low, high = (rings >= 1) & (rings <= 3), rings > 3
    weights = stats.ortho_group.rvs(channels, random_state=0)
    part = draw_band(rng, count, channels, side, low, share)
    mine = part + draw_band(rng, count, channels, side, high, 1 - share)
    theirs = np.einsum("nchw,cd->ndhw", part, weights)
    theirs = theirs + draw_band(rng, count, channels, side, high, 0.5)
    found = measure(mine, theirs, range(90), range(90, 120), size=40)
    missed, there = found.missed.mean(axis=0), found.there.mean(axis=0)
    shares = missed[1:] / there[1:]  # no energy was planted at 0
    np.testing.assert_allclose(shares[:3], (1 - share) ** 2, atol=0.02)
    np.testing.assert_allclose(shares[3:], 1 + share**2 * (1 - share) / 0.5, rtol=0.05)
    if share == 1:
        assert missed[1:4].sum() < 1e-3 * there[1:4].sum()
        assert summarise_share(found.missed[None], found.there[None])[5].mean > 0.97


def test_a_share_is_a_ratio_of_means_with_an_interval_over_images():
    rng = np.random.default_rng(4)
    there = rng.uniform(1, 3, (3, 400, 4))
    missed = there * rng.uniform(0, 1, (3, 400, 4))
    missed[..., 0] = 0.25 * there[..., 0]
    found = summarise_share(missed, there)
    for k, share in enumerate(found):
        assert share.mean == pytest.approx(missed[..., k].sum() / there[..., k].sum())
        assert share.n == 3 and share.low <= share.mean + 1e-12
    assert (found[0].low, found[0].high) == pytest.approx((0.25, 0.25))
    one = summarise_share(missed[:1], there[:1])[1]
    x, y = missed[0, :, 1], there[0, :, 1]
    deviation = np.std(x - one.mean * y) / y.mean() / math.sqrt(len(x))  # by linearisation
    assert (one.high - one.low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 7, 10), (5, 9, 4)])
@pytest.mark.parametrize("passes", ["low", "high"])
def test_a_rings_weight_is_the_filters_mean_there(shape, passes):
    found = weigh_rings(shape, 0.25, passes)
    rings = place_rings(*shape[1:])
    filters = oracles_planes.gaussian(*shape[1:], 0.25, passes)
    np.testing.assert_allclose(found, [filters[rings == k].mean() for k in range(len(found))])
    assert np.average(found, weights=np.bincount(rings.ravel())) == pytest.approx(1)


# The refinement, the logit term alone, the small vision transformer


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 3)])
def test_a_convolution_per_channel_is_torchs_at_every_size(size):
    torch.manual_seed(5)
    layer = PerChannel(6, 6, 3, padding=1, groups=6, bias=False).double()
    x = torch.randn(4, 6, *size, dtype=torch.float64, requires_grad=True)
    up = torch.randn(4, 6, *size, dtype=torch.float64)
    found = layer(x)
    mine = torch.autograd.grad(found, [x, layer.weight], up)
    wanted = functional.conv2d(x, layer.weight, padding=1, groups=6)
    theirs = torch.autograd.grad(wanted, [x, layer.weight], up)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    pixels = oracles_maps.convolve(x.detach().numpy(), layer.weight.detach().numpy(), separate=True)
    np.testing.assert_allclose(found.detach().numpy(), pixels, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channels", [4, 8, 12])
@pytest.mark.parametrize("size", [(1, 1), (4, 6)])
def test_a_stream_does_not_see_how_its_input_lies_in_memory(channels, size):
    torch.manual_seed(6)
    stream = plant(Stream(channels)).double()
    x = torch.randn(5, channels, *size, dtype=torch.float64)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = x.clone(memory_format=layout).requires_grad_()
        y = stream(own)
        grads = torch.autograd.grad(y.square().sum(), [own, *stream.parameters()])
        found.append([y, *grads])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("levels, size", [(0, (3, 3)), (2, (4, 4)), (2, (8, 6))])
def test_a_wide_refinement_is_its_transcription(levels, size):
    """With the channels last in memory, and at (4, 4) down to a single position."""
    torch.manual_seed(7)
    refinement = plant(Refinement(8, levels)).double()
    parameters = {key: x.numpy().copy() for key, x in refinement.state_dict().items()}
    x = torch.randn(4, 8, *size, dtype=torch.float64)
    wanted = oracles_planes.refine(x.numpy(), parameters, levels)
    found = refinement(x).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)


def test_without_weight_no_map_is_compared_and_nothing_is_built_for_it():
    torch.manual_seed(8)
    sides = [Side(8, {f"layer{i}": (c * 2**i, 8 // 2**i, 8 // 2**i) for i in range(4)})
             for c in (4, 6)]  # fmt: skip
    sizes = Sizes(*sides, 5)
    full = build_method("sfkd", {}, sizes)
    bare = build_method("sfkd", {"weight": 0.0}, sizes).double()
    assert sum(p.numel() for p in full.parameters()) > 0 and full.teacher_maps
    assert sum(p.numel() for p in bare.parameters()) == 0 and not bare.teacher_maps
    labels = torch.tensor([0, 3, 1, 3])
    student, teacher = (
        ModelOutput(*(torch.randn(4, n, dtype=torch.float64) for n in (5, 8))) for _ in range(2)
    )
    terms = bare(student, teacher, Batch(labels))
    assert set(terms) == {"task", "kd"}
    z = student.logits.numpy(), teacher.logits.numpy()
    wanted = oracles.cross_entropy(z[0], labels.numpy()) + oracles.ofa(*z, labels.numpy())
    assert sum(terms.values()).item() == pytest.approx(wanted, rel=1e-9)


def test_the_small_vision_transformer_has_two_heads_of_twice_the_width():
    pytest.importorskip("transformers")
    for width in (8, 16):
        model = plant(MODELS["vit_small"]((3, 32, 32), 5, width, 0)).double().eval()
        assert model.feature_width == 4 * width and len(model.encoder.layer) == 6
        attention = model.encoder.layer[2].attention
        x = torch.randn(2, 7, 4 * width, dtype=torch.float64)
        with torch.no_grad():
            found = attention(x)[0]
            q, k, v = (getattr(attention, f"{n}_proj")(x).numpy() for n in "qkv")
            heads = []
            for own in (slice(0, 2 * width), slice(2 * width, 4 * width)):
                scores = q[..., own] @ k[..., own].transpose(0, 2, 1) / math.sqrt(2 * width)
                heads.append(special.softmax(scores, axis=-1) @ v[..., own])
            wanted = attention.o_proj(torch.from_numpy(np.concatenate(heads, axis=2)))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


# The whole


@torch.no_grad()
def see(model: nn.Module, data: PairedData, split: str) -> ModelOutput:
    return model(data.batch("image", data.rows[split]))


def test_every_arm_is_trained_judged_and_read(small, measured):
    store = small.open_store()
    data = PairedData.load(store, ["image"], CPU)
    labels = np.asarray(store.labels[store.rows("test")])
    pair = "resnet14-resnet8"
    configs = configure_heterogeneous(small, [pair], [LOGITS, MAIN, MSE], 1)
    waves = find_waves([complete(config) for config in configs.values()])
    assert measured.runs == sorted({find_name(c) for wave in waves for c in wave})
    assert len(measured.runs) == 5  # four arms, and one teacher for all
    assert (measured.n, measured.kinds, measured.first) == (len(labels), {pair: ALIKE}, pair)
    students = {}
    for (_, arm, _), config in configs.items():
        run = ensure_run(config)
        students[arm] = run.load_student(store)
        right = see(students[arm], data, "test").logits.argmax(dim=1).numpy() == labels
        cell = measured.find(pair, arm)
        assert cell.values == pytest.approx([100 * right.mean()])
        assert cell.cost.relative.mean > 0 and cell.cost.bytes > 0
    assert {c.arm: c.extra > 0 for c in measured.cells} == {
        BASE: False, LOGITS: False, MAIN: True, MSE: True,
    }  # fmt: skip
    teacher = next(c for wave in waves for c in wave if c.network == "resnet14")
    network = ensure_run(teacher).load_student(store)
    for name, model in (("resnet8", students[BASE]), ("resnet14", network)):
        assert measured.parameters[name] == sum(p.numel() for p in model.parameters())
    right = see(network, data, "test").logits.argmax(dim=1).numpy() == labels
    assert measured.teachers[pair] == pytest.approx([100 * right.mean()])
    shown = (START, BASE, MSE, MAIN)
    assert [s.arm for s in measured.stages] == [a for a in shown for _ in range(3)]
    kind = {"width": small.width, "seed": 0, "network": "resnet8"}
    students[START] = build_untrained(store, data, "image", **kind)
    for stage in measured.stages:
        models = students[stage.arm], network
        sides = [
            oracles_planes.whiten(np.concatenate(
                [see(m, data, split).maps[stage.name].double().numpy()
                 for split in ("train", "test")]))
            for m in models
        ]  # fmt: skip
        train = len(data.rows["train"])
        gap, there = read_linearly(*sides, np.arange(train), np.arange(train, len(sides[0])))
        assert stage.shape == list(there.shape[1:])
        assert stage.energy == pytest.approx(
            sum_rings(there).sum(axis=0) / (there**2).sum(), rel=1e-3
        )
        assert stage.missed == pytest.approx((gap**2).sum() / (there**2).sum(), rel=1e-3)
        assert stage.losses["mse"] == pytest.approx((gap**2).mean(), rel=1e-3)
        assert stage.losses["low"] == pytest.approx(
            oracles_planes.filtered(gap, 0 * gap, 0.25, "low"), rel=1e-3
        )
        shares = sum_rings(gap).sum(axis=0) / sum_rings(there).sum(axis=0)
        # Beside the other rings' energy a ring may have next to none, which float32 rounds.
        assert [share.mean for share in stage.share] == pytest.approx(shares, rel=2e-2)


def test_a_measured_result_is_drawn_told_and_kept(measured, tmp_path):
    write_result(tmp_path / "heterogeneous.json", measured)
    again = read_result(tmp_path / "heterogeneous.json")
    assert again.finding() == measured.finding()
    assert f"{measured.n} test samples, 1 seed." in again.finding()
    assert set(figures.plates(again)) == {"arms", "pairs", "missed"}
    assert set(figures.tables(again)) == {"arms", "gains", "contrasts", "filter", "recipes"}
    assert again.claims() == []  # no pair is unlike


def test_no_distillation_alone_is_a_result_too(small):
    result = compare_architectures(small, pairs=["resnet14-resnet8"], arms=[BASE], epochs=1)
    assert (result.teachers, result.stages, result.contrasts) == ({}, [], {})
    assert "by itself): not run." in result.finding()
    assert set(figures.plates(result)) == {"arms"}
    tables = figures.tables(result)
    assert set(tables) == {"arms", "gains", "recipes"} and len(tables["arms"].frame) == 1
    assert result.claims() == []


# The notebook


def test_the_notebooks_parameters_are_what_the_study_takes(small):
    parameters = read_parameters(ROOT / "notebooks" / "19_heterogeneous.ipynb")
    study = [*inspect.signature(compare_architectures).parameters][1:]
    planned = [name for name in inspect.signature(make_plan).parameters if name != "study"]
    assert set(parameters) == {*study, *planned, "venue"}
    examples = {
        name: json.loads(re.search(r"\[.*?\]", parameters[name].help)[0])
        for name in ("pairs", "arms")
    }
    chosen = configure_heterogeneous(small, **examples)
    assert {arm for _, arm, _ in chosen} == set(examples["arms"])
    assert "have three" in parameters["every"].help and len(SHORT) == 3
    values = {name: parameter.default for name, parameter in parameters.items()}
    assert list(NEEDS["heterogeneous"](small, values)) == [*configure_heterogeneous(small).values()]
