"""What a method refuses when it is built, and what the error names."""

from __future__ import annotations

import pytest

from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.methods.base import Sizes, build_method

EQUAL = Sizes(12, 12, 4)


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
    with pytest.raises(UserError, match=r"did you mean 'fdcmkd'\? Choices: none, kd, feat"):
        build_method("fdckmd", {}, EQUAL)


def test_a_whole_number_is_taken_for_a_float():
    assert build_method("fdcmkd", {"low_weight": 2}, EQUAL).options.low_weight == 2.0


@pytest.mark.parametrize("name", [*METHODS])
def test_unequal_widths_are_refused_by_the_methods_that_compare_features(name):
    if "feature" in METHODS[name].needs:
        with pytest.raises(UserError, match="the student has 12 channels, the teacher 16"):
            build_method(name, {}, Sizes(12, 16, 4))
    else:
        build_method(name, {}, Sizes(12, 16, 4))
