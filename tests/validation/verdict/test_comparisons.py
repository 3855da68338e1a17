"""Comparisons by hand: intervals from their variances, paired tests as scipy has them, one-sided errors shared out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from hptransfer.validation.verdict.comparisons import drift_between, loss_gaps, regret_of, size_pairs, transferred_lr
from hptransfer.validation.verdict.optimum import Curve, Fit, half_width, optima, resamples, variance
from tests.validation.records.test_results import RUN

SEEDS = 3
X = np.arange(-8.0, -2.0)


def fit(
    size: int, at: float, spread: float = 0.0, *, loss: float = 2.0, scheme: str = "mup", other: float = 0.0
) -> Fit:
    """A fit with known noise: its three seeds lie at -spread, 0 and +spread from `at` and from `loss`."""
    per_seed = spread * np.array([-1.0, 0.0, 1.0])
    drawn = per_seed[resamples(SEEDS)].mean(axis=1)
    y = loss + 0.1 * (X[:, None] - at) ** 2 + per_seed
    return Fit(Curve(scheme, size, X, y), at, loss, at + drawn, loss + drawn, other, other)


def textbook(spread: float) -> float:
    """Variance of the mean of three seeds at -spread, 0, +spread: s^2 / n with s^2 = spread^2."""
    return spread**2 / SEEDS


def test_a_drift_has_twice_the_pooled_variance_and_its_own_shape_error() -> None:
    """Three sizes of 2 degrees of freedom each: Student's t with 6. Half the shape errors' difference is added."""
    fits = [fit(8, -5.0, 0.1, other=0.02), fit(16, -5.0, 0.2), fit(32, -5.7, 0.3, other=0.1)]
    found = drift_between(fits[0], fits[2], fits)
    pooled = np.mean([textbook(s) for s in (0.1, 0.2, 0.3)])
    half = stats.t.ppf(0.95, 6) * math.sqrt(2 * pooled + (0.08 / 2) ** 2)
    assert found.octaves == pytest.approx(-0.7)
    assert (found.low, found.high) == pytest.approx((-0.7 - half, -0.7 + half))


def test_an_optimum_s_interval_pools_its_scheme_and_adds_the_shape_s_error() -> None:
    fits = [fit(8, -5.0, 0.1, other=0.1), fit(16, -5.0, 0.3), fit(8, -4.0, 9.0, scheme="sp")]
    best = optima(fits)[0]
    pooled = (textbook(0.1) + textbook(0.3)) / 2
    half = stats.t.ppf(0.95, 4) * math.sqrt(pooled + 0.05**2 + 0.08**2)  # SHAPE_BIAS is .08 octaves
    assert (best.low, best.high) == pytest.approx((-5 - half, -5 + half))
    loss = stats.t.ppf(0.95, 2) * math.sqrt(textbook(0.1) + 0.05**2)
    assert (best.loss_low, best.loss_high) == pytest.approx((2 - loss, 2 + loss))


def test_a_variance_without_two_seeds_or_a_finite_value_is_unknown() -> None:
    assert math.isnan(variance(np.ones(4), 1)) and math.isnan(variance(np.full(4, math.inf), 3))
    assert variance(np.array([1.0, 3.0, math.inf]), 2) == 2.0  # of the finite ones, x n/(n-1)
    assert math.isnan(half_width([math.nan], 3))
    assert half_width([math.nan, 0.04], 3) == half_width([0.04], 3)


@pytest.mark.parametrize("sizes", [1, 2, 4])
def test_the_tolerance_shares_five_per_cent_over_all_sizes(sizes: int) -> None:
    """Bonferroni: at k sizes, each one's one-sided error is 5% / k. With one it is the interval's half."""
    scheme = [fit(8 * 2**k, -5.0, 0.1, loss=1.9) for k in range(sizes)]
    control = [fit(8 * 2**k, -5.0, 0.4, scheme="sp", other=0.02) for k in range(sizes)]
    freedom = 2 * sizes
    spread = math.sqrt(textbook(0.3) + 0.01**2)  # seeds are paired: the difference's spread is .4 - .1
    for gap in loss_gaps(scheme, control, base_size=8):
        assert gap.mup_minus_sp == pytest.approx(-0.1)
        assert gap.high - gap.mup_minus_sp == pytest.approx(stats.t.ppf(0.95, freedom) * spread)
        assert gap.mup_minus_sp - gap.low == pytest.approx(stats.t.ppf(0.95, freedom) * spread)
        assert gap.tolerance == pytest.approx(stats.t.ppf(1 - 0.05 / sizes, freedom) * spread)


def test_a_gap_is_ok_up_to_its_tolerance() -> None:
    control = fit(16, -5.0, 0.4, scheme="sp")
    allowed = loss_gaps([fit(16, -5.0, 0.1, loss=1.9)], [control], base_size=8)[0].tolerance
    for excess, ok in ((0.999, True), (1.001, False)):
        assert loss_gaps([fit(16, -5.0, 0.1, loss=2 + excess * allowed)], [control], base_size=8)[0].ok is ok


def test_sizes_below_the_base_are_left_out_and_without_a_base_none_is() -> None:
    pairs = [[fit(n, -5.0, 0.1, loss=1.9, scheme=s) for n in (8, 16, 32)] for s in ("mup", "sp")]
    assert [gap.size for gap in loss_gaps(*pairs, base_size=16)] == [16, 32]
    assert [gap.size for gap in loss_gaps(*pairs, base_size=None)] == [8, 16, 32]


GONE = Fit(
    Curve("sp", 16, X, np.full((6, 3), math.inf)),
    math.nan,
    math.inf,
    np.full(27, math.nan),
    np.full(27, math.inf),
    0,
    0,
)


def test_a_size_where_one_of_the_two_has_no_optimum() -> None:
    """Both gone: unknown. Only the control: better without bound. Only the scheme: worse without bound."""
    here = fit(16, -5.0, 0.1)
    assert math.isnan(loss_gaps([GONE], [dataclasses.replace(GONE)], base_size=8)[0].mup_minus_sp)
    (better,) = loss_gaps([here], [GONE], base_size=8)
    (worse,) = loss_gaps([GONE], [here], base_size=8)
    assert (better.mup_minus_sp, better.ok) == (-math.inf, True)
    assert (worse.mup_minus_sp, worse.ok) == (math.inf, False)


def runs(lr: float, losses: list[float], **changes) -> list:
    return [dataclasses.replace(RUN, width=32, lr=lr, seed=s, val_loss=v, **changes) for s, v in enumerate(losses)]


def test_regret_s_interval_is_that_of_the_paired_difference() -> None:
    """The runs at the transferred rate see the same seeds as the tuned ones: only their difference is noise."""
    large = fit(32, -5.0, 0.3, loss=2.0, other=0.04)
    found = regret_of(large, runs(0.1, [1.8, 2.1, 2.4]), lr=0.1)  # tuned: -.3, 0, .3; here the same about 2.1
    assert found.loss == pytest.approx(0.1)
    assert found.high - found.loss == pytest.approx(stats.t.ppf(0.95, 2) * 0.02)  # shape error only, by half
    unlike = regret_of(large, runs(0.1, [2.4, 2.1, 1.8]), lr=0.1)
    assert unlike.high - unlike.loss == pytest.approx(stats.t.ppf(0.95, 2) * math.sqrt(textbook(0.6) + 0.02**2))


def test_regret_counts_this_size_this_rate_and_finished_runs_only() -> None:
    large = fit(32, -5.0, 0.1)
    right = runs(0.1, [2.1, 2.1, 2.1])
    wrong = runs(0.2, [9.0] * 3) + runs(0.1, [9.0] * 3, scheme="sp") + runs(0.1, [9.0] * 3, state="failed")
    wrong += [dataclasses.replace(run, width=16, val_loss=9.0) for run in right]
    assert regret_of(large, [*right, *wrong], lr=0.1).loss == pytest.approx(0.1)
    assert math.isnan(regret_of(large, [*right[:2], *wrong], lr=0.1).loss)
    assert math.isnan(regret_of(GONE, runs(0.1, [2.1] * 3), lr=0.1).loss)


def test_the_transferred_rate_is_the_optimum_to_four_digits_and_none_at_an_edge() -> None:
    assert transferred_lr(fit(8, -5.3, 0.1)) == 0.02538  # 2^-5.3 = .0253826
    assert transferred_lr(fit(8, -8.4, 0.1)) is None and transferred_lr(fit(8, -2.6, 0.1)) is None
    assert transferred_lr(GONE) is None


def test_a_pair_of_sizes_is_ok_unless_a_paired_t_test_says_it_is_worse() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(-6.0, 0.0)
    small = Curve("mup", 8, x, 2 + 0.1 * rng.standard_normal((6, 5)))
    large = Curve("mup", 16, x, small.losses + np.linspace(-0.1, 0.2, 6)[:, None] + 0.1 * rng.standard_normal((6, 5)))
    pairs = size_pairs([large, small])
    assert [pair.lr for pair in pairs] == [2.0**u for u in x]
    for k, pair in enumerate(pairs):
        p = stats.ttest_rel(large.losses[k], small.losses[k], alternative="greater").pvalue
        assert pair.ok == (p >= 0.05) and (pair.small, pair.large) == (8, 16)
        low, high = stats.ttest_rel(large.losses[k], small.losses[k]).confidence_interval(0.90)
        assert (pair.low, pair.high) == pytest.approx((low, high))
    assert {pair.ok for pair in pairs} == {True, False}


def test_with_one_seed_a_pair_is_ok_where_the_larger_is_no_worse() -> None:
    x = np.arange(3.0)
    small, large = Curve("mup", 8, x, np.full((3, 1), 2.0)), Curve("mup", 16, x, np.array([[1.9], [2.0], [2.1]]))
    assert [pair.ok for pair in size_pairs([small, large])] == [True, True, False]


def test_a_pair_whose_larger_one_diverges_is_not_ok_at_its_rate() -> None:
    x = np.arange(-3.0, 0.0)
    y = np.full((3, 3), 2.0)
    large = y.copy()
    large[2, 1] = math.inf
    last = size_pairs([Curve("mup", 8, x, y), Curve("mup", 16, x, large)])[-1]
    assert (last.lr, last.small, last.large, last.ok) == (0.5, 8, 16, False)
    assert last.difference == last.low == last.high == math.inf
    assert len(size_pairs([Curve("mup", 8, x, large), Curve("mup", 16, x, y)])) == 2  # the small one's is no comparison


def test_pairs_are_of_one_scheme_and_of_neighbours() -> None:
    x = np.arange(2.0)
    curves = [Curve(s, n, x, np.full((2, 3), 2.0)) for s in ("sp", "mup") for n in (32, 8, 16)]
    assert {(p.scheme, p.small, p.large) for p in size_pairs(curves)} == {
        (scheme, *sizes) for scheme in ("mup", "sp") for sizes in ((8, 16), (16, 32))
    }
