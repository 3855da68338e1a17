"""An optimum beside rates whose runs failed is left open; failed runs elsewhere change nothing."""

from __future__ import annotations

import math

import pytest

from hptransfer.validation.records.runs import Run
from hptransfer.validation.verdict.optimum import Fit, curve_of


def fit(failed: list[int], *, best: int = 0) -> Fit:
    """Rates 2^-3 to 2^3 with a parabola about 2^best, two seeds; the runs at `failed` octaves failed."""
    runs = [
        Run(
            *("mup", 8, None, 2.0**octave, seed, 9),
            *(math.inf if octave in failed else (octave - best) ** 2 + 1.0 + 1e-3 * seed, 1.0, (), False, 0.1),
            "failed" if octave in failed else "complete",
        )
        for octave in range(-3, 4)
        for seed in (0, 1)
    ]
    return Fit.of(curve_of(runs, scheme="mup", size=8, seeds=(0, 1)))


@pytest.mark.parametrize(
    ("failed", "blocked"),
    [([], False), ([1], True), ([-1], True), ([2], False), ([-2, 3], False), ([-3, 1], True)],
)
def test_only_a_failure_beside_the_best_rate_leaves_it_open(failed, blocked):
    assert fit(failed).blocked is blocked and fit(failed).settled is not blocked


def test_where_all_failed_nothing_is_blocked_for_nothing_was_found():
    everything = fit(list(range(-3, 4)))
    assert not everything.found and not everything.blocked and everything.missing == "failed"


def test_the_first_rate_of_the_grid_is_an_edge_and_a_failure_beside_it_counts():
    assert fit([], best=-3).edge == -1 and fit([-2], best=-3).blocked and not fit([-1], best=-3).blocked
