"""Logarithmic axes of the pages, and numbers in running text, are plain text that reads without mathematics."""

from __future__ import annotations

import itertools
import re

import pytest

from hptransfer.reporting import svg
from hptransfer.reporting.numerals import short_positive
from hptransfer.reporting.ticks import log_scale


def labels(low: float, high: float) -> list[str]:
    """The tick labels that a line from low to high is drawn with on a log scale, bottom to top."""
    with svg.drawing(5.0, 3.0) as (figure, (ax,)):
        ax.plot([0, 1], [low, high])
        ax.set_xticks([])
        log_scale(ax, "y")
        return re.findall(r"<text[^>]*>([^<]*)</text>", svg.inline(figure, "t", "a line"))


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.01, 1.0, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        (1e-6, 10.0, ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1", "10"]),
        (2e-5, 6e-5, ["2×10⁻⁵", "5×10⁻⁵"]),
        (30.0, 2400.0, ["50", "100", "200", "500", "1000", "2000"]),
    ],
)
def test_a_log_axis_names_1_2_5_or_powers_of_ten(low, high, shown):
    assert labels(low, high) == shown


def test_an_axis_of_less_than_an_octave_has_even_steps():
    shown = [float(label) for label in labels(4.6, 5.8)]
    steps = {round(b - a, 9) for a, b in itertools.pairwise(shown)}
    assert len(shown) >= 4 and len(steps) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (999.0, "999"), (9999.0, "9999"), (1e4, "10⁴"), (3e-4, "3×10⁻⁴")]
)
def test_a_positive_number_is_written_short(value, text):
    assert short_positive(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("costs -8.92e-05 here", "costs −8.92×10⁻⁵ here"),
        ("+1e+06 tokens", "+1×10⁶ tokens"),
        ("forecast 35e-05ab, layer-3", "forecast 35e-05ab, layer-3"),
        ("v1.2e-05", "v1.2e-05"),
        ("from 2^-7 to -0.5", "from 2^−7 to −0.5"),
    ],
)
def test_running_text_has_minus_signs_and_powers(text, shown):
    assert svg.minus(text) == shown
