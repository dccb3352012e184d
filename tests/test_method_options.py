"""What a method refuses when it is built, and what the error names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.methods.adapt import match_width
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.output import ModelOutput, Side

EQUAL = Sizes(Side(12), Side(12), 4, torch.arange(8) % 4)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("fdcmkd", {"frequencies": True}, "did you mean 'frequency'.*cutoff, dc, bands"),
        ("heads_only", {"low_weight": 1.0}, "Choices: frequency, align, cutoff, dc"),
        ("none", {"weight": 1.0}, "none has no options"),
        ("fdcmkd", {"align": 1}, "expected bool"),
        ("fdcmkd", {"cutoff": "half"}, "expected float"),
        ("fdcmkd", {"low_weight": True}, "expected float"),
        ("fdcmkd", {"dc": 0}, "expected str"),
        ("fdcmkd", {"dc": "keep"}, "Choices: drop, low, own"),
        ("heads_only", {"dc": "keep"}, "Choices: drop, low, own"),
        ("fdcmkd", {"reduction": "max"}, "Choices: mean, sum"),
        ("feat", {"reduction": "max"}, "Choices: mean, sum"),
        ("fdcmkd", {"cutoff": 1.5}, "0 to 1"),
        ("heads_only", {"cutoff": 1.5}, "0 to 1"),
        ("fdcmkd", {"high_weight": -1.0}, "finite number from 0"),
        ("kd", {"temperature": 0.0}, "above 0"),
        ("kd", {"temperature": float("inf")}, "a finite float"),
        ("kd", {"weight": float("nan")}, "a finite float"),
        ("dist", {"gamma": -1.0}, "gamma is -1.0: expected a finite number from 0"),
        ("dkd", {"warmup": -0.1}, "warmup is -0.1"),
        ("nkd", {"temperature": -3.0}, "above 0"),
        ("crd", {"temperature": 0.0}, "above 0"),
        ("crd", {"momentum": 1.5}, "momentum is 1.5: expected 0 to 1"),
        ("crd", {"negatives": 0}, "above 0"),
        ("crd", {"units": 12.5}, "expected int"),
        ("mlkd", {"temperature": 4.0}, "Choices: task_weight, weight"),
        ("rkd", {"angle_weight": -2.0}, "finite number from 0"),
        ("figkd", {"bands": "details"}, "bands is 'details': expected some of LL"),
        ("figkd", {"bands": "HL+LH"}, "in this order, such as LH"),
        ("figkd", {"bands": "LH+LH"}, "each once"),
        ("figkd", {"bands": ""}, "expected some of LL"),
        ("figkd", {"distance": "l3"}, "Choices: l1, l2"),
        ("figkd", {"wavelet": "harr"}, "wavelet is 'harr'"),
        ("figkd", {"levels": 0}, "levels is 0"),
        ("figkd", {"mode": "zeros"}, "did you mean 'zero'"),
        ("figkd", {"mode": "reflect", "levels": 2}, "a side has one position"),
        ("figkd", {"base": "kd"}, "Choices: ce, mlkd, mlkd_released"),
        ("figkd", {"order": "shuffled"}, "Choices: label, random"),
        ("figkd", {"temperature": 4.0}, "Choices: alpha, beta, bands"),
        ("figkd", {"beta": -1.0}, "beta is -1.0"),
        ("fdcmkd", {"bands": "middle"}, "Choices: both, low, high"),
        ("fdcmkd", {"bands": "low", "frequency": False}, "without frequency there are none"),
        ("fdcmkd", {"basis": "fft"}, "Choices: dft, dct"),
        ("heads_only", {"basis": "fft"}, "Choices: dft, dct"),
        ("fdcmkd_soft", {"basis": "dct"}, "takes no basis"),
        ("fdcmkd_soft", {"cutoff": 1.0}, "to start from"),
        ("fdcmkd_soft", {"groups": 5}, "divisor of the 12 channels"),
        ("fdcmkd_soft", {"softness": 0.0}, "above 0"),
    ],
)
def test_a_wrong_option_is_refused_when_the_method_is_built(name, options, message):
    with pytest.raises(UserError, match=message):
        build_method(name, options, EQUAL)


def test_an_unknown_method_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"did you mean 'fdcmkd' .*Choices: none, heads_only, kd"):
        build_method("fdckmd", {}, EQUAL)


def test_a_whole_number_is_taken_for_a_float():
    assert build_method("fdcmkd", {"low_weight": 2}, EQUAL).options.low_weight == 2.0


PROJECTING = ["feat", "fdcmkd", "fdcmkd_soft"]  # what needs both features in one space


@pytest.mark.parametrize("name", PROJECTING)
def test_a_student_of_another_width_is_projected_by_a_layer_that_trains_and_is_counted(name):
    def count(width: int, options: dict) -> int:
        method = build_method(name, options, Sizes(Side(width), Side(12), 4))
        return sum(p.numel() for p in method.parameters())

    off = {} if name == "feat" else {"align": False}
    equal = count(12, off)
    assert [count(width, off) - equal for width in (9, 12, 16)] == [9 * 12 + 12, 0, 16 * 12 + 12]
    method = build_method(name, off, Sizes(Side(9), Side(12), 4))
    assert method.projector.weight.shape == (12, 9)
    student, teacher = (ModelOutput(torch.randn(5, 4), torch.randn(5, d)) for d in (9, 12))
    terms = method(student, teacher, Batch(torch.arange(5) % 4))
    for term in METHODS[name].compares:
        if term in terms:
            method.zero_grad()
            terms[term].backward(retain_graph=True)
            assert all(p.grad.any() for p in method.projector.parameters()), term


def test_the_projection_learns_a_linear_relation():
    """The teacher's feature is a matrix times the student's: the distance goes to zero."""
    torch.manual_seed(0)
    x, matrix = torch.randn(64, 6), torch.randn(6, 9)
    student, teacher = ModelOutput(torch.zeros(64, 4), x), ModelOutput(None, x @ matrix)
    method, batch = (
        build_method("feat", {}, Sizes(Side(6), Side(9), 4)),
        Batch(torch.arange(64) % 4),
    )
    optimiser = torch.optim.Adam(method.parameters(), lr=0.1)
    with torch.no_grad():
        start = method(student, teacher, batch)["feature"].item()
    for _ in range(300):
        optimiser.zero_grad()
        method(student, teacher, batch)["feature"].backward()
        optimiser.step()
    assert method(student, teacher, batch)["feature"].item() < 1e-4 * start


def test_equal_widths_or_no_teacher_take_no_projection():
    assert isinstance(match_width(Sizes(Side(12), Side(12), 4)), nn.Identity)
    assert isinstance(match_width(Sizes(Side(12), None, 4)), nn.Identity)
    alone = build_method("heads_only", {}, Sizes(Side(9), None, 4))
    assert {head.weight.shape for head in alone.task_heads.values()} == {(4, 9)}


@pytest.mark.parametrize("name", ["none", "kd", "dist", "dkd", "mlkd", "figkd", "rkd", "pkt"])
def test_methods_of_logits_and_of_relations_take_any_widths_as_they_are(name):
    method = build_method(name, {}, Sizes(Side(9), Side(12), 4))
    assert not list(method.parameters())


def test_the_spatial_axis_is_for_segmentation_alone():
    from fdlab.methods.base import resolve_method_options

    for name, options in (("fdcmkd", {"axis": "space"}), ("kd+fdcmkd", {"fdcmkd_axis": "space"})):
        assert resolve_method_options(name, options, "segmentation")
        with pytest.raises(UserError, match="expected segmentation"):
            resolve_method_options(name, options, "classification")
    with pytest.raises(UserError, match="warmup"):
        resolve_method_options("mmanet", {"warmup": 1.0}, "segmentation")


def test_fdcmkd_aligns_in_classification_and_not_in_segmentation():
    from fdlab.methods.base import resolve_method_options

    for name in ("fdcmkd", "heads_only", "fdcmkd_soft"):
        assert resolve_method_options(name, {}, "classification")["align"] is True
        assert resolve_method_options(name, {}, "segmentation")["align"] is False
