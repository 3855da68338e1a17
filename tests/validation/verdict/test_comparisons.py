"""Comparisons by hand: intervals from their variances, paired tests as scipy has them, one-sided errors shared out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from hptransfer.validation.verdict.comparisons import drift_between, loss_gaps, regret_of, size_pairs, transferred_lr
from hptransfer.validation.verdict.optimum import Curve, Fit, half_width, optima, resamples, variance

SEEDS = 3
X = np.arange(-8.0, -2.0)


def fit(size: int, at: float, spread: float = 0.0, *, loss: float = 2.0, scheme: str = "mup", x=X) -> Fit:
    """A fit with known noise: its three seeds lie at -spread, 0 and +spread from `at` and from `loss`."""
    per_seed = spread * np.array([-1.0, 0.0, 1.0])
    drawn = per_seed[resamples(SEEDS)].mean(axis=1)
    y = loss + 0.1 * (x[:, None] - at) ** 2 + per_seed
    return Fit(Curve(scheme, size, x, y), at, loss, at + drawn, loss + drawn)


def textbook(spread: float) -> float:
    """Variance of the mean of three seeds at -spread, 0, +spread: s^2 / n with s^2 = spread^2."""
    return spread**2 / SEEDS


def test_a_drift_has_twice_the_pooled_variance_and_both_ends_grid_errors() -> None:
    """Three sizes of 2 degrees of freedom each: Student's t with 6. Spacings of 1 and 1/2: uniform, h / sqrt(12)."""
    half_spaced = np.arange(-8.0, -2.0, 0.5)
    fits = [fit(8, -5.0, 0.1), fit(16, -5.0, 0.2), fit(32, -5.7, 0.3, x=half_spaced)]
    found = drift_between(fits[0], fits[2], fits)
    pooled = np.mean([textbook(s) for s in (0.1, 0.2, 0.3)])
    grid = stats.norm.ppf(0.95) * math.hypot(1.0, 0.5) / math.sqrt(12)
    half = math.hypot(stats.t.ppf(0.95, 6) * math.sqrt(2 * pooled), grid)
    assert found.octaves == pytest.approx(-0.7)
    assert (found.low, found.high) == pytest.approx((-0.7 - half, -0.7 + half))


def test_a_rate_run_beside_another_makes_the_grid_no_finer() -> None:
    x = np.array([-1.0, -0.5, -0.43, 0.0, 0.5])
    y = (x[:, None] + 0.5).repeat(3, axis=1) ** 2
    assert Fit.of(Curve("mup", 8, x, y)).grid_error == pytest.approx(0.5 / math.sqrt(12))


@pytest.mark.parametrize("tests", [1, 2, 5])
def test_drifts_that_are_read_together_share_their_errors(tests: int) -> None:
    fits = [fit(8, -5.0, 0.1), fit(16, -5.0, 0.2), fit(32, -5.7, 0.3)]
    one, several = drift_between(fits[0], fits[2], fits), drift_between(fits[0], fits[2], fits, tests=tests)
    ratio = stats.t.ppf(1 - 0.05 / tests, 6) / stats.t.ppf(0.95, 6)
    assert several.high - several.octaves == pytest.approx(ratio * (one.high - one.octaves))


def test_an_optimum_s_interval_pools_its_scheme_and_adds_the_grid_s_and_the_shape_s_error(monkeypatch) -> None:
    fits = [fit(8, -5.0, 0.1), fit(8, -4.0, 9.0, scheme="sp"), fit(16, -5.0, 0.3)]
    best = optima(fits)[0]
    pooled = (textbook(0.1) + textbook(0.3)) / 2
    half = math.hypot(stats.t.ppf(0.95, 4) * math.sqrt(pooled), stats.norm.ppf(0.95) / math.sqrt(12))
    assert (best.low, best.high) == pytest.approx((-5 - half, -5 + half))
    loss = stats.t.ppf(0.95, 2) * math.sqrt(textbook(0.1))
    assert (best.loss_low, best.loss_high) == pytest.approx((2 - loss, 2 + loss))
    monkeypatch.setattr(Fit, "shape_error", property(lambda self: 0.4))
    error = stats.norm.ppf(0.95) * math.hypot(1 / math.sqrt(12), 0.4)
    wide = math.hypot(stats.t.ppf(0.95, 4) * math.sqrt(pooled), error)
    assert optima(fits)[0].high == pytest.approx(-5 + wide)


@pytest.mark.parametrize(
    ("lrs", "spacing"),
    [
        ([-2.0, -1.0, 0.0], 1.0),
        ([-2.0, -1.0, -0.5], 0.75),
        ([-1.0, -0.5, 3.0], 2.0),
        ([-1.0, 0.0], 1.0),
    ],
)
def test_the_grid_s_error_is_that_of_its_local_spacing(lrs: list[float], spacing: float) -> None:
    """The best point is the second; its neighbours' mean distance counts, at an edge the only one's."""
    x = np.array(lrs, dtype=float)
    y = np.array([1.0, 0.0, 1.0][: len(x)])[:, None].repeat(3, axis=1)
    assert Fit.of(Curve("mup", 8, x, y)).grid_error == pytest.approx(spacing / math.sqrt(12))


def test_a_variance_without_two_seeds_or_a_finite_value_is_unknown() -> None:
    assert math.isnan(variance(np.ones(4), 1)) and math.isnan(variance(np.full(4, math.inf), 3))
    assert variance(np.array([1.0, 3.0, math.inf]), 2) == 2.0  # of the finite ones, x n/(n-1)
    assert math.isnan(half_width([math.nan], 3))
    assert half_width([math.nan, 0.04], 3) == half_width([0.04], 3)


@pytest.mark.parametrize("sizes", [1, 2, 4])
def test_the_tolerance_shares_five_per_cent_over_all_sizes(sizes: int) -> None:
    """Bonferroni: at k sizes, each one's one-sided error is 5% / k. With one it is the interval's half."""
    scheme = [fit(8 * 2**k, -5.0, 0.1, loss=1.9) for k in range(sizes)]
    control = [fit(8 * 2**k, -5.0, 0.4, scheme="sp") for k in range(sizes)]
    freedom = 2 * sizes
    spread = math.sqrt(textbook(0.3))  # seeds are paired: the difference's spread is .4 - .1
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
    Curve("sp", 16, X, np.full((6, 3), math.inf)), math.nan, math.inf, np.full(27, math.nan), np.full(27, math.inf)
)


def test_a_size_where_one_of_the_two_has_no_optimum() -> None:
    """Both gone: unknown. Only the control: better without bound. Only the scheme: worse without bound."""
    here = fit(16, -5.0, 0.1)
    assert math.isnan(loss_gaps([GONE], [dataclasses.replace(GONE)], base_size=8)[0].mup_minus_sp)
    (better,) = loss_gaps([here], [GONE], base_size=8)
    (worse,) = loss_gaps([GONE], [here], base_size=8)
    assert (better.mup_minus_sp, better.ok) == (-math.inf, True)
    assert (worse.mup_minus_sp, worse.ok) == (math.inf, False)


def whole(size: int, at: float, *, noise: float = 0.0, seeds: int = 3, cliff: float = math.inf, x=None) -> Fit:
    """The fit of a curve that is nearly a parabola of curvature .1, from half octaves."""
    x = np.arange(-9.0, -1.0, 0.5) if x is None else x
    jitter = noise * np.random.default_rng(size).standard_normal((len(x), seeds))
    return Fit.of(
        Curve("mup", size, x, np.where(x[:, None] > cliff, math.inf, 2 + 0.1 * (x[:, None] - at) ** 2 + jitter))
    )


@pytest.mark.parametrize("off", [-3.0, -1.0, -0.4, 0.0, 0.7])
def test_regret_is_what_the_fitted_curve_says_at_both_ends(off: float) -> None:
    """Read off one smooth curve, it is never less than 0; it is right to 15%, or .3% of the loss."""
    small, large = whole(8, -5.0), whole(32, -5.2)
    found = regret_of(small, large, lr=2.0 ** (large.log2_lr + off), tolerance=0.5)
    assert found.loss == pytest.approx(0.1 * off**2, abs=0.0067, rel=0.15) and found.loss >= 0
    assert found.shift == pytest.approx(0.1 * 0.75**2, abs=0.0067, rel=0.15)


def test_regret_s_interval_is_of_resampled_transfers_and_of_the_grid_s_error() -> None:
    small, large = whole(8, -5.0, noise=0.01), whole(32, -5.0, noise=0.01)
    at = small.log2_lr
    found = regret_of(small, large, lr=2.0**at, tolerance=0.5)
    drawn = np.array(
        [
            smooth_height(large, pick, at + moved - small.log2_lr)
            for pick, moved in zip(resamples(3), small.log2_lrs, strict=True)
        ]
    )
    noise = stats.t.ppf(0.95, 2) * math.sqrt(drawn.var() * 3 / 2)
    off = math.hypot(small.grid_error, large.grid_error)
    beside = max(abs(large.height(at + s * off) - large.height(at)) for s in (-1, 1))
    assert found.high - found.loss == pytest.approx(math.hypot(noise, beside))


def smooth_height(fit: Fit, pick, log2_lr: float) -> float:
    assert fit.smoother is not None
    return fit.smoother.height_at(fit.curve.losses[:, pick].mean(axis=1), log2_lr)


def test_regret_of_a_rate_that_diverged_is_infinite_and_of_one_that_was_not_run_unknown() -> None:
    small, walled = whole(8, -5.0), whole(32, -5.0, cliff=-4.4)
    for lr, infinite in ((2**-4.5, False), (2**-4.0, True), (2**-3.0, True)):
        assert (regret_of(small, walled, lr=lr, tolerance=0.5).loss == math.inf) is infinite
    assert math.isnan(regret_of(small, whole(32, -5.0), lr=2**-12.0, tolerance=0.5).loss)
    assert math.isnan(regret_of(small, GONE, lr=2**-5.0, tolerance=0.5).loss)


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
