"""Facts about the drift fit: it recovers a power law, its intervals cover, and it refuses what it cannot know."""

import math

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.lr_fit import fit_optima, fit_sweep
from hptransfer.prediction.laws.sweep_table import make_table
from scripts.public_data import TOKENS_PER_STEP_124M, schedule_runs
from tests.support.reference import reference

LRS = 2.0 ** np.arange(-14, -5)


def optima(noise=0.0, seed=0, exponents=(-0.5, 0.3)):
    rng = np.random.default_rng(seed)
    scales = [{"params": n, "tokens": d} for n in (1e7, 4e7, 1.6e8) for d in (1e9, 8e9)]
    lrs = [
        2e-3
        * (s["params"] / 1e7) ** exponents[0]
        * (s["tokens"] / 1e9) ** exponents[1]
        * math.exp(noise * rng.normal())
        for s in scales
    ]
    return scales, lrs


def test_exact_optima_give_their_exponents_and_an_empty_interval():
    fit = fit_optima(*optima())
    assert fit.exponents == pytest.approx({"params": -0.5, "tokens": 0.3})
    predicted = fit.predict(params=1.6e9, tokens=8e10)
    assert predicted.value == pytest.approx(2e-3 * 160**-0.5 * 80**0.3)
    assert predicted.high / predicted.low == pytest.approx(1.0, abs=1e-6)
    assert fit.octaves_per_doubling("params") == pytest.approx(-0.5)


def test_intervals_cover_as_often_as_they_say():
    # 90% t-intervals of a new optimum and of an exponent, over 400 repetitions: binomial sd .015
    new, slope = [], []
    for seed in range(400):
        fit = fit_optima(*optima(noise=0.2, seed=seed))
        truth = 2e-3 * 64**-0.5 * 64**0.3 * math.exp(0.2 * np.random.default_rng(10_000 + seed).normal())
        new.append(fit.predict(params=6.4e8, tokens=6.4e10).contains(truth))
        slope.append(fit.intervals["params"][0] < -0.5 < fit.intervals["params"][1])
    assert 0.85 < np.mean(new) < 0.95 and 0.85 < np.mean(slope) < 0.95


def test_the_interval_widens_with_distance_and_the_extrapolation_is_said():
    fit = fit_optima(*optima(noise=0.1))
    near, far = fit.predict(params=4e7, tokens=2e9), fit.predict(params=4e10, tokens=2e12)
    assert far.high / far.low > near.high / near.low
    assert any("params is 250x outside the sweep: extrapolated" in a for a in far.assumptions)
    assert str(far.kind) == "exponent measured, constant measured"


def sweep_table(scales, lrs, grid=LRS):
    rows = [
        (s["params"], s["tokens"], lr, 3 + 0.01 * math.log(lr / best) ** 2)
        for s, best in zip(scales, lrs, strict=True)
        for lr in grid
    ]
    params, tokens, lr, loss = np.array(rows).T
    return make_table(params=params, tokens=tokens, lr=lr, loss=loss)


def test_a_sweep_table_gives_the_same_law_and_leaves_edges_out():
    scales, lrs = optima()
    assert fit_sweep(sweep_table(scales, lrs)).exponents == pytest.approx({"params": -0.5, "tokens": 0.3}, abs=1e-6)
    narrow = sweep_table(scales, lrs, grid=LRS[LRS < 5e-3])  # the fastest scale now peaks at the edge
    fit = fit_sweep(narrow)
    assert (fit.edges, fit.points) == (1, 5)
    assert fit.exponents["params"] == pytest.approx(-0.5, abs=1e-6)
    assert any("edge" in a for a in fit.predict(params=1e8, tokens=1e10).assumptions)


def test_a_variable_that_was_never_varied_is_flagged_at_the_target():
    scales, lrs = optima(noise=0.05)
    fit = fit_optima([s | {"batch": 1e6} for s in scales], lrs)
    assert set(fit.exponents) == {"params", "tokens"}
    notes = fit.predict(params=1e8, tokens=1e9, batch=4e6).assumptions
    assert any("batch is 4x outside the sweep and was never varied" in a for a in notes)


def test_fewer_than_three_optima_and_too_many_exponents_are_refused():
    scales, lrs = optima()
    with pytest.raises(UsageError, match="at least 3 optima"):
        fit_optima(scales[:2], lrs[:2])
    with pytest.raises(UsageError, match="Give at least 4"):
        fit_optima(scales[:3], lrs[:3])
    assert set(fit_optima(scales[:3], lrs[:3], over=["params"]).exponents) == {"params"}
    with pytest.raises(UsageError, match="but the optima vary in"):
        fit_optima(scales, lrs, over=["batch"])
    together = [{"params": n, "tokens": 20 * n} for n in (1e7, 3e7, 1e8, 3e8)]
    with pytest.raises(UsageError, match="vary only together"):
        fit_optima(together, [1e-3, 9e-4, 8e-4, 7e-4])
    with pytest.raises(UsageError, match="lr must be positive"):
        fit_optima(scales, [0.0] * 6)
    with pytest.raises(UsageError, match="no scale"):
        fit_optima(scales, lrs).predict(params=1e9)


def test_a_table_whose_optima_all_lie_at_the_edge_is_refused_with_advice():
    scales, lrs = optima()
    with pytest.raises(UsageError, match="widen"):
        fit_sweep(sweep_table(scales, lrs, grid=LRS[:3]))


def test_real_runs_lower_their_rate_with_the_horizon_by_less_than_the_root():
    # 124M, WSD with 20% linear cooldown: optima near 1.29, 1.11, 1.07, .94e-3 at 15, 25, 35, 50 thousand steps
    reference("lr-scheduling/runs_index.csv")
    runs = [r for r in schedule_runs() if r.family == "wsd 0.2 linear" and r.lr > 2e-4]
    tokens = np.array([r.schedule.steps * TOKENS_PER_STEP_124M for r in runs], dtype=float)
    lr, loss = (np.array([getattr(r, name) for r in runs]) for name in ("lr", "loss"))
    fit = fit_sweep(make_table(tokens=tokens, lr=lr, loss=loss))
    assert fit.points == 4
    assert -0.32 < fit.exponents["tokens"] < -0.18
    low, high = fit.intervals["tokens"]
    assert -0.5 < low < high < 0
