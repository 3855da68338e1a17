"""Facts about carrying a base rate between schedules and horizons, and about the shrinkage that is applied."""

import math
from itertools import product

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.convex_bound import lr_ratio
from hptransfer.prediction.schedules.schedule import constant, cosine, linear, wsd
from hptransfer.prediction.schedules.schedule_transfer import (
    MEASURED_COOLDOWN,
    SHRINKAGE,
    ScheduleRun,
    fit_shrinkage,
    group_optima,
    transfer_lr,
)
from scripts.public_data import decays_to_zero, schedule_runs
from tests.support.reference import reference

FAMILIES = {
    "cosine": cosine,
    "linear": linear,
    "wsd.2": lambda n: wsd(n, cooldown=0.2),
    "wsd.5": lambda n: wsd(n, cooldown=0.5),
}


def synthetic_runs(schedule_s, horizon_s, noise=0.0, curvature=0.02):
    """Losses that are exact parabolas around optima that follow the shrunk law exactly."""
    rng, runs, origin = np.random.default_rng(0), [], wsd(1000, cooldown=0.2)
    for (family, make), steps in product(FAMILIES.items(), (1000, 2000, 4000)):
        schedule = make(steps)
        horizon = -0.5 * math.log(steps / 1000)
        best = math.log(1e-3) + schedule_s * (math.log(lr_ratio(origin, schedule)) - horizon) + horizon_s * horizon
        for lr in (5e-4, 1e-3, 2e-3, 4e-3):
            loss = 3 + 1e-5 * steps + curvature * (math.log(lr) - best) ** 2 + noise * rng.normal()
            runs.append(ScheduleRun(family, schedule, lr, loss))
    return runs


def test_the_fit_recovers_the_shrinkage_that_made_the_runs():
    fit = fit_shrinkage(synthetic_runs(0.8, 0.4), window=100)
    assert fit.schedule == pytest.approx(0.8, abs=1e-6) and fit.horizon == pytest.approx(0.4, abs=1e-6)
    assert fit.residual < 1e-6 and fit.groups == 12


def test_the_interval_covers_the_truth_under_noise():
    fit = fit_shrinkage(synthetic_runs(0.8, 0.4, noise=1e-3), window=100)
    assert fit.schedule_interval[0] < 0.8 < fit.schedule_interval[1]
    assert fit.horizon_interval[0] < 0.4 < fit.horizon_interval[1]


def test_an_optimum_past_the_edge_of_the_grid_is_found_from_the_shared_curvature():
    runs = synthetic_runs(1.0, 1.0)
    cut = [r for r in runs if not (r.family == "linear" and r.schedule.steps == 1000 and r.lr > 1e-3)]
    full = {(o.family, o.schedule.steps): o for o in group_optima(runs, window=100)}
    part = {(o.family, o.schedule.steps): o for o in group_optima(cut, window=100)}
    key = ("linear", 1000)
    assert part[key].log_lr == pytest.approx(full[key].log_lr, abs=1e-6)
    assert full[key].inside and not part[key].inside


def test_a_diverged_run_does_not_bend_the_parabola():
    runs = synthetic_runs(0.8, 0.4)
    wild = [ScheduleRun("cosine", cosine(1000), 6e-3, 7.5), ScheduleRun("cosine", cosine(1000), 8e-3, math.inf)]
    assert fit_shrinkage(runs + wild, window=100).schedule == pytest.approx(0.8, abs=1e-6)


def test_no_shrinkage_is_the_theory_and_full_shrinkage_is_no_change():
    source, target = wsd(1000, cooldown=0.2), cosine(8000)
    theory = fit_shrinkage(synthetic_runs(1.0, 1.0), window=100)
    moved = transfer_lr(1e-3, source, target, shrinkage=theory)
    assert moved.prediction.value == pytest.approx(1e-3 * lr_ratio(source, target), rel=1e-6)
    none = fit_shrinkage(synthetic_runs(0.0, 0.0), window=100)
    assert transfer_lr(1e-3, source, target, shrinkage=none).prediction.value == pytest.approx(1e-3, rel=1e-6)


def test_the_report_shows_the_theory_beside_what_was_used():
    moved = transfer_lr(1e-3, wsd(10000, cooldown=0.2), cosine(40000))
    assert moved.theory_ratio == pytest.approx(moved.schedule_ratio * moved.horizon_ratio)
    assert moved.horizon_ratio == pytest.approx(0.5)
    assert moved.ratio == pytest.approx(
        moved.schedule_ratio**SHRINKAGE.schedule * moved.horizon_ratio**SHRINKAGE.horizon
    )
    assert "bound" in str(moved) and "shrinkage" in str(moved)
    assert moved.prediction.kind.exponent == "published"
    assert moved.prediction.low < moved.prediction.value < moved.prediction.high


def test_the_same_schedule_and_horizon_need_no_change_and_have_no_interval():
    same = transfer_lr(2e-3, cosine(500), cosine(500)).prediction
    assert (same.low, same.value, same.high) == (2e-3, 2e-3, 2e-3)


def test_a_schedule_that_does_not_decay_to_zero_carries_a_warning():
    assert any("zero" in a for a in transfer_lr(1e-3, cosine(500), constant(500)).prediction.assumptions)
    assert not any("zero" in a for a in transfer_lr(1e-3, cosine(500), linear(500)).prediction.assumptions)


def test_too_little_or_degenerate_data_is_refused():
    runs = synthetic_runs(0.8, 0.4)
    with pytest.raises(UsageError, match="3 groups"):
        fit_shrinkage(runs[:4], window=100)
    with pytest.raises(UsageError, match="two schedules and two horizons"):
        fit_shrinkage([r for r in runs if r.family == "cosine"], window=100)
    with pytest.raises(UsageError, match="positive"):
        transfer_lr(0.0, cosine(10), cosine(20))


def public_runs():
    reference("lr-scheduling/runs_index.csv")
    return [r for r in schedule_runs() if decays_to_zero(r)]


def test_the_shipped_cooldown_table_is_what_the_public_runs_give():
    losses = {o.family: o.loss for o in group_optima(public_runs()) if o.schedule.steps == 50000}
    for fraction, excess in MEASURED_COOLDOWN.items():
        name = f"wsd {0.994 if fraction == 1.0 else fraction:g} linear"
        assert losses[name] - losses["wsd 0.6 linear"] == pytest.approx(excess, abs=6e-4)


def test_the_shipped_shrinkage_is_what_the_public_runs_give():
    fit = fit_shrinkage(public_runs())
    assert (fit.schedule, fit.horizon) == pytest.approx((SHRINKAGE.schedule, SHRINKAGE.horizon), abs=1e-3)
    assert fit.groups == SHRINKAGE.groups
    assert fit.residual == pytest.approx(SHRINKAGE.residual, abs=1e-3)
    for shipped, own in [
        (SHRINKAGE.schedule_interval, fit.schedule_interval),
        (SHRINKAGE.horizon_interval, fit.horizon_interval),
    ]:
        np.testing.assert_allclose(shipped, own, atol=2e-3)


def test_on_families_left_out_the_shrunk_rate_is_nearer_than_theory_and_than_no_change():
    runs = public_runs()
    optima = group_optima(runs)
    start = next(o for o in optima if o.family == "wsd 0.2 linear" and o.schedule.steps == 25000)
    errors = []
    for family in {o.family for o in optima} - {start.family}:
        fit = fit_shrinkage([r for r in runs if r.family != family], resamples=1)
        for o in (o for o in optima if o.family == family):
            moved = transfer_lr(math.exp(start.log_lr), start.schedule, o.schedule, shrinkage=fit)
            logs = [math.log(moved.ratio), math.log(moved.theory_ratio), 0.0]
            errors.append([abs(start.log_lr + x - o.log_lr) / math.log(2) for x in logs])
    shrunk, theory, unchanged = np.mean(errors, axis=0)
    assert shrunk < theory and shrunk < unchanged
    assert shrunk < 0.15  # octaves
