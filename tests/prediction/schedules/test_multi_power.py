"""Facts about the multi-power law: its double sum, its published fit, what a fit of ours does on curves left out."""

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.multi_power import (
    LossCurve,
    MultiPowerLaw,
    evaluate,
    jacobian,
    read_curve,
    summarise,
)
from hptransfer.prediction.schedules.multi_power_fit import (
    fit_multi_power,
    held_out_errors,
    leave_one_out,
    predict_final_loss,
)
from hptransfer.prediction.schedules.schedule import cosine, wsd
from scripts.public_data import curves_25m, rates_25m
from tests.oracles.laws import multi_power_loss
from tests.support.reference import reference

PUBLISHED_25M = MultiPowerLaw(3.0405, 0.5247, 0.5079, 363.8, 2.066, 0.5828, 0.6414)  # arXiv:2503.12811, 25M
SMALL = [
    3e-4 * wsd(300, cooldown=0.3, final=0.1, warmup=20).factors,
    3e-4 * cosine(300, final=0.1, warmup=20).factors,
    3e-4 * np.repeat([1.0, 0.3, 0.6, 0.1], 60),  # with a rise
]


def synthetic(name, lrs, noise=0.0, seed=0):
    steps = np.arange(30, len(lrs), 5)
    losses = PUBLISHED_25M.curve(lrs, steps)
    return LossCurve(name, lrs, steps, losses * np.exp(noise * np.random.default_rng(seed).normal(size=len(steps))))


@pytest.mark.parametrize("lrs", SMALL, ids=["wsd", "cosine", "steps"])
def test_the_sum_over_blocks_equals_the_double_loop(lrs):
    steps = np.array([25, 100, 239])
    expected = [multi_power_loss(PUBLISHED_25M.values(), lrs, t) for t in steps]
    np.testing.assert_allclose(PUBLISHED_25M.curve(lrs, steps), expected, rtol=1e-12)
    assert PUBLISHED_25M.final_loss(lrs) == pytest.approx(
        multi_power_loss(PUBLISHED_25M.values(), lrs, len(lrs) - 1), rel=1e-12
    )


def test_merging_many_drops_moves_the_curve_by_less_than_a_ten_thousandth():
    lrs = rates_25m("cosine_24000")
    steps = np.arange(2200, 24000, 500)
    exact = PUBLISHED_25M.curve(lrs, steps, blocks=len(lrs))
    assert np.abs(PUBLISHED_25M.curve(lrs, steps, blocks=512) - exact).max() < 1e-4


def test_the_jacobian_is_the_derivative():
    p, sums = PUBLISHED_25M.values(), summarise(SMALL[0], np.array([50, 200, 299]))
    for i in range(7):
        h = 1e-6 * p[i]
        up, down = p.copy(), p.copy()
        up[i] += h
        down[i] -= h
        central = (evaluate(up, sums) - evaluate(down, sums)) / (2 * h)
        np.testing.assert_allclose(jacobian(p, sums)[:, i], central, rtol=1e-5, atol=1e-9)


def test_a_drop_only_ever_lowers_the_loss_and_saturates():
    flat = np.full(400, 3e-4)
    dropped = flat.copy()
    dropped[100:] = 1.5e-4
    without_sum = MultiPowerLaw(3.0, 1e-9, 0.5, 363.8, 2.066, 0.58, 0.64)  # the drop term alone
    curve = without_sum.curve(dropped, np.arange(400))
    assert np.all(np.diff(curve[99:]) < 0) and np.allclose(curve[:100], 3.0)
    assert curve[-1] > 3.0 - 363.8 * 1.5e-4


def test_a_fit_recovers_the_law_that_made_the_curves():
    curves = [synthetic(str(i), lrs) for i, lrs in enumerate(SMALL)]
    fit = fit_multi_power(curves, prior=0.0, starts=4)
    assert fit.mae < 1e-5
    assert "0, 1, 2" in str(fit) and "MAE" in str(fit)
    unseen = 3e-4 * wsd(300, cooldown=0.6, final=0.1, warmup=20).factors
    assert fit.law.final_loss(unseen) == pytest.approx(PUBLISHED_25M.final_loss(unseen), abs=1e-4)


def test_the_held_out_interval_is_reported_only_when_something_was_held_out():
    curves = [synthetic(str(i), lrs, noise=1e-3, seed=i) for i, lrs in enumerate(SMALL)]
    fit = fit_multi_power(curves, starts=2)
    assert predict_final_loss(fit, SMALL[0]).low is None
    errors = leave_one_out(curves, starts=2)
    predicted = predict_final_loss(fit, SMALL[0], errors)
    assert predicted.low < predicted.value < predicted.high
    assert [e.curve for e in errors] == ["0", "1", "2"]
    assert not any("extrapolated" in a for a in predicted.assumptions)
    assert any("extrapolated" in a for a in predict_final_loss(fit, 2 * SMALL[0]).assumptions)


def public_curves():
    reference("multi-power-law/csv_25")
    return curves_25m()


def test_the_published_parameters_give_the_published_error_on_the_six_curves_left_out():
    errors = [np.abs(PUBLISHED_25M.curve(c.lrs, c.steps) - c.losses).mean() for c in public_curves()[3:]]
    assert np.mean(errors) == pytest.approx(0.00376, abs=5e-5)  # MAE .00376 in the authors' repository


def test_a_fit_on_three_public_curves_predicts_the_other_six():
    curves = public_curves()
    fit = fit_multi_power(curves[:3])
    errors = held_out_errors(fit, curves[3:])
    assert np.mean([e.mae for e in errors]) <= 0.0045


def test_rates_read_off_the_log_serve_nearly_as_well_as_the_schedule_itself():
    for name in ("wsdcon_9", "wsd_20000_24000", "cosine_24000"):
        path = reference(f"multi-power-law/csv_25/{name}.csv")
        known, logged = read_curve(path, lrs=rates_25m(name)), read_curve(path, warmup=2160)
        off = [np.abs(PUBLISHED_25M.curve(c.lrs, c.steps) - c.losses).mean() for c in (known, logged)]
        assert abs(off[0] - off[1]) < 5e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lrs": np.array([1e-3])}, "two steps"),
        ({"lrs": np.array([1e-3, 0.0, 1e-3, 1e-3])}, "just above 0"),
        ({"lrs": np.array([1e-3, np.nan, 1e-3, 1e-3])}, "finite"),
        ({"losses": np.array([3.0, np.inf])}, "before it diverged"),
        ({"losses": np.array([3.0])}, "must be equal"),
        ({"steps": np.array([2, 1])}, "increase"),
        ({"steps": np.array([1, 9])}, "within 0 to 3"),
    ],
)
def test_a_bad_curve_is_refused(change, words):
    good = {"lrs": np.full(4, 1e-3), "steps": np.array([1, 3]), "losses": np.array([3.0, 2.0])}
    with pytest.raises(UsageError, match=words):
        LossCurve("bad", **(good | change))


def test_curves_that_cannot_determine_the_law_are_refused():
    flat = LossCurve("flat", np.full(100, 1e-3), np.arange(50, 90), np.linspace(3, 2, 40))
    with pytest.raises(UsageError, match="ever lowers its rate"):
        fit_multi_power([flat])
    with pytest.raises(UsageError, match="7 parameters"):
        fit_multi_power([])
    with pytest.raises(UsageError, match="at least 3"):
        leave_one_out([flat, flat])


def test_a_curve_file_without_rates_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(UsageError, match="no column 'lr'"):
        read_curve(tmp_path / "c.csv")
