"""The verdict: each part of the rule decides as it says, and no doubt ever passes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hptransfer.validation.records.results import Drift, LossGap, Optimum, Regret
from hptransfer.validation.verdict import comparisons, judge
from hptransfer.validation.verdict.optimum import Curve, Fit

X = np.arange(-10.0, -1.0, 0.5)


def fit(
    width: int, at: float, *, scheme: str = "mup", lift: float = 0.0, noise: float = 0.001, seeds: int = 3, x=X
) -> Fit:
    """A parabola's fit with a little noise between seeds, the same noise at every width."""
    jitter = noise * np.random.default_rng(0).standard_normal((len(x), seeds))
    return Fit.of(Curve(scheme, width, x, 1.0 + lift + 0.1 * (x[:, None] - at) ** 2 + jitter))


def verdict(fits, control=None, tolerance: float = 0.5, regret=None):
    gaps = comparisons.loss_gaps(fits, control, base_size=8) if control else []
    drift = comparisons.drift_between(fits[0], fits[-1], fits)
    return judge.verdict_of(judge.findings(fits, control or [], tolerance, drift=drift, regret=regret, gaps=gaps))


def still(**options):
    return [fit(w, -5.0, **options) for w in (8, 16, 32)]


def test_an_optimum_that_stays_passes_and_says_so():
    found, reasons = verdict(still(), still(scheme="sp"))
    assert found == "PASS" and "moves by +0.00 octaves" in reasons[0] and "0.5 are allowed" in reasons[0]


def test_an_optimum_that_moves_fails():
    found, reasons = verdict([fit(8, -5.0), fit(16, -6.0), fit(32, -7.0)])
    assert found == "FAIL" and any("from width 8 to 32" in r for r in reasons)


def test_a_tolerance_is_a_tolerance():
    moved = [fit(8, -5.0), fit(16, -5.0), fit(32, -5.8)]
    assert verdict(moved)[0] == "FAIL" and verdict(moved, tolerance=1.0)[0] == "PASS"


def test_a_width_in_between_counts_too():
    found, reasons = verdict([fit(8, -5.0), fit(16, -7.0), fit(32, -5.0)])
    assert found == "FAIL" and "mup at width 16: the optimum lies -" in reasons[0]


def test_fewer_than_three_seeds_are_never_a_pass():
    for seeds in (1, 2):
        found, reasons = verdict(still(seeds=seeds))
        assert found == "INCONCLUSIVE" and "at least 3 are needed" in reasons[0]


@pytest.mark.parametrize("edge", [-10.5, -1.5])
def test_an_optimum_at_the_edge_of_the_grid_is_never_a_pass(edge):
    for fits in ([*still()[:2], fit(32, edge)], [fit(8, edge), *still()[1:]], [fit(w, edge) for w in (8, 16)]):
        found, reasons = verdict(fits)
        assert found == "INCONCLUSIVE" and any("at the edge of the grid" in reason for reason in reasons)


def test_an_interval_wider_than_a_tolerance_and_a_quarter_allows_no_statement():
    """Three seeds whose optima lie octaves apart: what they agree on is too little."""
    wide = [Fit.of(Curve("mup", w, X, 1.0 + 0.1 * (X[:, None] - np.array([-6.5, -5.0, -3.5])) ** 2)) for w in (8, 32)]
    found, reasons = verdict(wide)
    assert found == "INCONCLUSIVE" and reasons


def test_all_diverged_fails():
    gone = Fit.of(Curve("mup", 32, X, np.full((len(X), 3), math.inf)))
    found, reasons = verdict([fit(8, -5.0), gone], [fit(8, -5.0, scheme="sp"), fit(32, -5.0, scheme="sp")])
    assert found == "FAIL" and "mup at width 32: every run diverged." in reasons


def test_a_loss_worse_than_the_controls_fails_and_a_better_one_passes():
    worse = [fit(8, -5.0), fit(16, -5.0, lift=0.1), fit(32, -5.0, lift=0.1)]
    found, reasons = verdict(worse, still(scheme="sp"))
    assert found == "FAIL" and "Width 16: tuned loss less that of tuned sp is +0.1000" in reasons[0]
    assert verdict(still(), [fit(w, -5.0, scheme="sp", lift=0.1) for w in (8, 16, 32)])[0] == "PASS"


def test_a_control_whose_optimum_is_at_its_edge_proves_nothing_about_the_loss():
    found, reasons = verdict(still(), [fit(w, -10.5, scheme="sp", lift=0.5) for w in (8, 16, 32)])
    assert found == "INCONCLUSIVE" and "sp's optimum lies at the edge of its grid" in reasons[0]


def test_a_control_that_diverges_everywhere_is_no_better():
    gone = [Fit.of(Curve("sp", w, X, np.full((len(X), 3), math.inf))) for w in (8, 16, 32)]
    gaps = comparisons.loss_gaps(still(), gone, base_size=8)
    assert all(gap.ok and gap.mup_minus_sp == -math.inf for gap in gaps)


@pytest.mark.parametrize(
    ("regret", "status"),
    [
        (Regret("mup", 0.001, -0.01, 0.012, 0.1), "ok"),
        (Regret("mup", 0.05, -0.01, 0.11, 0.1, 0.07), "ok"),  # more than 1%, but within seed noise
        (Regret("mup", 0.05, -0.01, 0.11, 0.1, 0.05), "unknown"),  # not known to better than what a shift costs
        (Regret("mup", 0.0, -0.011, 0.011, 0.1, 0.002), "unknown"),  # nor to better than a hundredth
        (Regret("mup", 0.0, -0.009, 0.009, 0.1, 0.002), "ok"),
        (Regret("mup", 0.05, 0.04, 0.06, 0.1), "bad"),
        (Regret("mup", 0.015, 0.005, 0.025, 0.1), "unknown"),
        (Regret("mup", math.inf, math.inf, math.inf, 0.1), "bad"),
        (Regret("mup", math.nan, math.nan, math.nan, 0.1), "unknown"),
    ],
)
def test_regret_against_a_hundredth_of_the_loss_and_noise(regret, status):
    assert judge.judge_regret(regret, size=32, tuned=1.0).status == status


def test_a_drift_is_ok_bad_or_unknown():
    cases = {
        (0.1, -0.2, 0.4): "ok",
        (0.4, 0.1, 0.7): "ok",  # inside, and its interval within 1.75 tolerances
        (0.4, -0.08, 0.88): "unknown",  # inside, but the interval reaches further
        (-0.4, -0.88, 0.08): "unknown",
        (0.4, -0.07, 0.87): "ok",
        (0.1, -0.6, 0.8): "unknown",  # too wide
        (0.6, 0.3, 0.9): "unknown",  # outside, but perhaps not
        (0.9, 0.6, 1.2): "bad",
        (-0.9, -1.2, -0.6): "bad",
        (0.0, math.nan, math.nan): "unknown",
    }
    for numbers, status in cases.items():
        assert judge.judge_drift(Drift("mup", *numbers), sizes=(8, 32), tolerance=0.5).status == status, numbers


def test_bad_beats_unknown_and_unknown_beats_ok():
    ok, bad, unknown = (judge.Finding(status, status) for status in ("ok", "bad", "unknown"))
    assert judge.verdict_of([ok, bad, unknown]) == ("FAIL", ("bad", "unknown"))
    assert judge.verdict_of([ok, unknown]) == ("INCONCLUSIVE", ("unknown",))
    assert judge.verdict_of([ok, ok]) == ("PASS", ("ok", "ok"))


def test_runs_that_are_the_same_differ_by_exactly_nothing():
    gaps = comparisons.loss_gaps(
        still(), [*still(scheme="sp")[:1], fit(16, -6.0, scheme="sp"), fit(32, -7.0, scheme="sp")], base_size=8
    )
    assert gaps[0] == LossGap(8, 0.0, 0.0, 0.0, 0.0, True) and gaps[1].tolerance > 0
    assert [gap.size for gap in comparisons.loss_gaps(still(), still(scheme="sp"), base_size=16)] == [16, 32]


def test_without_a_known_noise_no_gap_is_called_worse_and_equal_runs_are_equal():
    alone, other = fit(16, -6.0, seeds=1), fit(16, -6.0, scheme="sp", lift=-0.1, seeds=1)
    (unknown,) = comparisons.loss_gaps([alone], [other], base_size=8)
    assert unknown.mup_minus_sp > 0 and not unknown.ok and not unknown.worse
    (same,) = comparisons.loss_gaps([alone], [fit(16, -6.0, scheme="sp", seeds=1)], base_size=8)
    assert same == LossGap(16, 0.0, 0.0, 0.0, 0.0, True)
    (worse,) = comparisons.loss_gaps([fit(16, -6.0)], [fit(16, -6.0, scheme="sp", lift=-0.1)], base_size=8)
    assert worse.worse


def test_size_pairs_at_every_shared_rate():
    x = np.array([-3.0, -2.0, -1.0])
    narrow = Curve("mup", 8, x, np.array([[3.0, 3.1, 3.2], [2.0, 2.1, 2.2], [1.0, 1.0, math.inf]]))
    wide = Curve("mup", 16, x[:2], np.array([[2.9, 3.0, 3.1], [2.5, 2.6, 2.7]]))
    better, worse = comparisons.size_pairs([narrow, wide])
    assert (better.lr, better.ok, better.difference) == (0.125, True, pytest.approx(-0.1))
    assert (worse.lr, worse.ok, worse.difference) == (0.25, False, pytest.approx(0.5))
    gone = Curve("mup", 16, x[:1], np.array([[math.inf] * 3]))
    assert [(p.ok, p.difference) for p in comparisons.size_pairs([narrow, gone])] == [(False, math.inf)]


def test_a_curve_that_does_not_bend_says_nothing_and_never_passes():
    rng = np.random.default_rng(0)
    for _ in range(20):  # nor do they fail: where the lowest point of noise lies is no drift
        flat = [Fit.of(Curve("mup", w, X, 1.0 + 0.01 * rng.standard_normal((len(X), 3)))) for w in (8, 16, 32)]
        assert verdict(flat)[0] == "INCONCLUSIVE"
    assert judge.judge_bend(*still()[:2]) == []


@pytest.mark.parametrize(
    ("bends", "said"), [((3.0, 0.6), False), ((1.8, 1.7), True), ((9.0, -8.0), True), ((3.0, 3.0), False)]
)
def test_both_ends_together_must_bend(bends, said):
    """Each is a standard normal of a flat curve: their sum over sqrt(2), against 2.5."""
    small, _, large = still()
    ends = [
        dataclasses.replace(end, basin=dataclasses.replace(end.basin, bend=bend))
        for end, bend in zip((small, large), bends, strict=True)
    ]
    assert bool(judge.judge_bend(*ends)) is said


def test_sizes_in_between_are_judged_together():
    """Four sizes in between at the same distance: one alone would be called too far, four together are not."""
    sizes = [8, 16, 32, 64, 128, 256]
    for octaves in np.linspace(0.9, 1.6, 29):
        fits = [fit(w, -5.0 + (octaves if w == 16 else 0.0)) for w in sizes]
        alone = comparisons.drift_between(fits[0], fits[1], fits).low > 0.5
        together = comparisons.drift_between(fits[0], fits[1], fits, tests=4).low > 0.5
        assert any("at width 16" in reason for reason in verdict(fits)[1]) is together
        if alone and not together:
            break
    else:
        pytest.fail("no distance told the two apart")


def test_the_rule_names_its_numbers():
    text = judge.rule_text("mup", "sp", 0.25)
    assert "at most 0.25 octaves" in text and "tuned sp" in text and "1%" in text and "at least 3 seeds" in text
    assert isinstance(judge.judge_optima([Optimum("mup", 8, -5.0, -6, -4, 1, 0, 2, False, 3)]), list)
