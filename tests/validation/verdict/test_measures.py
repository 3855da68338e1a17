"""The field's measures on curves of known laws: exponents, limits and shares come back; what is not known is None."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hptransfer.reporting.report.measures import measure_rows
from hptransfer.reporting.words import table
from hptransfer.validation.records.runs import Run
from hptransfer.validation.verdict.measures import measures_of
from hptransfer.validation.verdict.optimum import Curve, Fit
from tests.cases.reporting import result

SIZES, X = (16, 32, 64, 128), np.arange(-11.0, -0.9, 0.5)
LEVELS = np.array([-0.001, 0.0, 0.001])


def fits(*, slope=0.0, limit=1.0, gain=0.5, power=0.5, bend=0.05, kappa=0.0, sizes=SIZES, moved=None, scheme="mup"):
    """Parabolas with optimum -6 + slope log2(n / 16) and loss limit + gain (n / 16)^-power at it.

    A rate an octave off costs bend (n / 16)^-kappa of the loss.
    """
    made = []
    for place, size in enumerate(sizes):
        octaves = math.log2(size / 16)
        best = -6 + slope * octaves + (moved[place] if moved else 0.0)
        loss = limit + gain * 2 ** (-power * octaves)
        cost = loss * bend * 2 ** (-kappa * octaves)
        noise = 1e-4 * np.random.default_rng(place).standard_normal((len(X), 3))
        made.append(Fit.of(Curve(scheme, size, X, loss + cost * (X[:, None] - best) ** 2 + LEVELS + noise)))
    return made


def of(mup, sp=None, runs=()):
    given = {"mup": mup, **({"sp": sp} if sp else {})}
    return {m.scheme: m for m in measures_of(given, runs)}


def test_the_power_law_of_the_best_rate_and_how_far_the_optima_lie_from_it():
    straight = of(fits(slope=-0.5))["mup"]
    assert straight.exponent == pytest.approx(-0.5, abs=0.02) and straight.fit_error < 0.03
    bent = of(fits(moved=(0.5, -0.5, -0.5, 0.5)))["mup"]
    assert bent.exponent == pytest.approx(0.0, abs=0.03)
    assert bent.fit_error == pytest.approx(math.sqrt(4 * 0.5**2 / 2), abs=0.08)


def test_robustness_is_minus_the_exponent_of_what_an_octave_costs():
    for kappa in (-0.4, 0.0, 0.4):
        measured = of(fits(kappa=kappa))["mup"]
        assert measured.robustness == pytest.approx(kappa, abs=0.1)
        assert measured.robustness_low <= measured.robustness <= measured.robustness_high


def test_the_penalty_is_the_limit_of_the_loss_over_the_best_scheme_s():
    found = of(fits(limit=1.2), fits(limit=1.0, scheme="sp"))
    assert found["mup"].penalty == pytest.approx(0.2, abs=0.02) and found["sp"].penalty == 0.0
    assert found["mup"].penalty_low > 0.15 and found["mup"].penalty_high < 0.25
    equal_at_the_largest = of(fits(limit=1.0, gain=0.5), fits(limit=1.0 + 0.5 * 8**-0.5, gain=0.0, scheme="sp"))
    assert equal_at_the_largest["sp"].penalty > 0.1  # where it goes counts, not where it is


def test_a_carried_rate_is_fast_where_it_surely_loses_less_than_size_gains():
    stays, moves = of(fits())["mup"], of(fits(slope=-1.0))["mup"]
    assert stays.speed == "fast" and abs(stays.share) < 0.02
    cost, gained = 0.05 * (1 + 0.5 * 8**-0.5) * 9, 0.5 * (1 - 8**-0.5)
    assert moves.share == pytest.approx(cost / gained, rel=0.1) and moves.speed == "slow"
    assert of(fits(gain=0.0))["mup"].speed == "unknown"


def test_what_a_search_at_the_smallest_size_saves():
    def run(size, seconds, state="complete", scheme="mup"):
        return Run(scheme, size, None, 0.1, 0, 10, 1.0, 1.0, (), False, seconds, state)

    runs = [run(16, 1.0), run(16, 2.0), run(128, 6.0), run(128, 1.0, "diverged"), run(128, 1.0, scheme="sp")]
    assert of(fits(), runs=runs)["mup"].saved == pytest.approx(0.75)
    assert of(fits(), runs=[run(16, 0.0), run(128, 0.0)])["mup"].saved is None


def test_two_sizes_or_one_scheme_leave_unknown_what_they_cannot_tell():
    two = of(fits(sizes=(16, 128)), fits(sizes=(16, 128), scheme="sp"))["mup"]
    assert two.exponent is None and two.fit_error is None and two.penalty is None
    assert two.speed == "fast"
    assert of(fits())["mup"].penalty is None
    gone = [Fit.of(Curve("mup", size, X, np.full((len(X), 3), math.inf))) for size in SIZES]
    lost = of(gone, fits(scheme="sp"))["mup"]
    assert lost.speed == "unknown" and lost.exponent is lost.penalty is lost.share is None


def test_the_table_says_unknown_and_keeps_to_the_order_of_the_schemes():
    measured = measures_of({"sp": fits(slope=-1.0, scheme="sp"), "mup": fits()}, ())
    shown = dataclasses.replace(result(), measures=measured, sizes=SIZES)
    heading, first, second = measure_rows(shown)
    assert (first[0], second[0], first[-1]) == ("muP", "SP", "unknown") and "16" in heading[-1]
    assert "width^-1.00" in second[1] and second[1] in table(shown)
    assert measure_rows(result()) == []
