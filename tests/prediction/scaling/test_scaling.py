"""Facts about loss laws: the three are one formula, the best split is the minimum, and fits find what made the data."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize_scalar

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.scaling import FREE, LOSS_LAWS, LossLaw, kaplan
from hptransfer.prediction.laws.scaling_fit import fit_loss_law, huber_objective
from hptransfer.prediction.scaling.line import fit_loss_line
from hptransfer.prediction.scaling.problem import Problem
from scripts.public_data import chinchilla_runs
from tests.support.reference import reference

CHINCHILLA = LossLaw("chinchilla", 1.8, 480.0, 0.35, 2100.0, 0.37)
GENERAL = LossLaw("generalised", 1.7, 400.0, 0.33, 1250.0, 0.33, 0.6)
LAWS = [CHINCHILLA, GENERAL, kaplan()]
ids = [law.form for law in LAWS]


def grid(law, noise=0.0, seed=0):
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 3e11, 8)))
    scatter = np.exp(noise * np.random.default_rng(seed).normal(size=len(params)))
    return params, tokens, law.loss(params, tokens) * scatter


def test_chinchilla_is_a_sum_of_two_power_laws():
    expected = 1.8 + 480 / 1e9**0.35 + 2100 / 2e10**0.37
    assert float(CHINCHILLA.loss(1e9, 2e10)) == pytest.approx(expected, rel=1e-12)


def test_kaplan_is_the_published_bracket_and_its_limits_are_the_single_laws():
    N, D = 3e8, 1e10
    bracket = ((8.8e13 / N) ** (0.076 / 0.095) + 5.4e13 / D) ** 0.095
    assert float(kaplan().loss(N, D)) == pytest.approx(bracket, rel=1e-12)
    assert float(kaplan().loss(N, 1e30)) == pytest.approx((8.8e13 / N) ** 0.076, rel=1e-6)
    assert float(kaplan().loss(1e60, D)) == pytest.approx((5.4e13 / D) ** 0.095, rel=1e-6)


def test_the_general_law_holds_both_and_tends_to_the_larger_error():
    as_chinchilla = dataclasses.replace(CHINCHILLA, form="generalised")
    assert float(as_chinchilla.loss(1e9, 1e10)) == pytest.approx(float(CHINCHILLA.loss(1e9, 1e10)), rel=1e-14)
    larger = dataclasses.replace(GENERAL, g=1e-3)
    terms = 400 / 1e8**0.33, 1250 / 1e12**0.33
    assert float(larger.loss(1e8, 1e12)) == pytest.approx(1.7 + max(terms), rel=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=ids)
@pytest.mark.parametrize("flop", [1e18, 1e24])
def test_the_optimal_split_is_the_minimum_of_the_law(law, flop):
    params, tokens, loss = law.optimal(flop)
    assert params * tokens * 6 == pytest.approx(flop)
    found = minimize_scalar(
        lambda x: float(law.loss(np.exp(x), flop / 6 / np.exp(x))),
        bounds=(np.log(params) - 3, np.log(params) + 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found.x == pytest.approx(np.log(params), abs=1e-5)
    assert found.fun == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=ids)
def test_the_fits_gradient_is_the_derivative(law):
    params, tokens, losses = grid(law, noise=3e-3)
    problem = Problem(np.log(params), np.log(tokens), np.log(losses), law.form, 1e-3)
    q = problem.start(np.random.default_rng(1))
    numeric = approx_fprime(q, lambda x: problem.value(x)[0], 1e-7)
    np.testing.assert_allclose(problem.value(q)[1], numeric, rtol=2e-4)


@pytest.mark.parametrize("law", LAWS, ids=ids)
def test_a_fit_recovers_the_law_that_made_the_runs(law):
    params, tokens, losses = grid(law)
    fit = fit_loss_law(params, tokens, losses, form=law.form, starts=15)
    assert fit.objective < 1e-8
    assert float(fit.law.loss(1e11, 1e13)) == pytest.approx(float(law.loss(1e11, 1e13)), rel=1e-3)


def test_intervals_hold_the_truth_when_the_scatter_is_known():
    hits = []
    for seed in range(12):
        params, tokens, losses = grid(CHINCHILLA, noise=4e-3, seed=seed)
        fit = fit_loss_law(params, tokens, losses, starts=4, resamples=60, seed=seed)
        new = float(CHINCHILLA.loss(4e10, 8e11)) * np.exp(4e-3 * np.random.default_rng(100 + seed).normal())
        hits.append(fit.predict(4e10, 8e11, widen=1.0).contains(new))
    assert sum(hits) >= 8  # 90% intervals; P(< 8 of 12) = .0043 if they are right


def test_extrapolated_intervals_hold_the_forms_error_by_backtest_and_others_do_not():
    fit = fit_loss_law(*grid(CHINCHILLA, noise=4e-3), starts=4, resamples=40)
    inside, bare, wide = fit.predict(1e9, 1e10), fit.predict(4e10, 8e11, widen=1.0), fit.predict(4e10, 8e11)
    assert inside == fit.predict(1e9, 1e10, widen=1.0)
    assert fit.backtest is not None
    form = fit.backtest.reach(4e10 * 8e11 / fit.most_compute)
    assert np.log(wide.high / wide.value) == pytest.approx(np.hypot(np.log(bare.high / bare.value), form))
    assert any("form's error by backtest" in a for a in wide.assumptions)
    twice = fit.predict(4e10, 8e11, widen=2.0)
    assert np.log(twice.high / twice.low) == pytest.approx(2 * np.log(bare.high / bare.low))


def test_the_optimal_split_of_a_fit_has_intervals_that_hold_the_true_split():
    fit = fit_loss_law(*grid(CHINCHILLA, noise=4e-3, seed=3), starts=4, resamples=60)
    params, tokens, loss = fit.optimal(1e22)
    truth = CHINCHILLA.optimal(1e22)
    assert [bool(p.contains(t)) for p, t in zip((params, tokens, loss), truth, strict=True)] == [True] * 3
    assert (params.unit, tokens.unit, loss.unit) == ("parameters", "tokens", "nats")
    assert params.value * tokens.value * 6 == pytest.approx(1e22)
    low, high = fit.interval("a")
    assert low < 0.35 < high
    without = fit_loss_law(*grid(CHINCHILLA), starts=4).optimal(1e22)
    assert all(p.low is None for p in without)


def test_predictions_say_how_far_they_extrapolate_and_what_they_rest_on():
    params, tokens, losses = grid(CHINCHILLA)
    fit = fit_loss_law(params, tokens, losses, starts=4)
    near, far = fit.predict(1e9, 1e10), fit.predict(1e11, 1e10)
    assert near.low is None and not any("extrapolated" in a for a in near.assumptions)
    assert any("N=1e+11 is 10x outside" in a for a in far.assumptions)
    assert str(far.kind) == "exponent fitted, constant fitted"
    with pytest.raises(UsageError, match="resamples"):
        fit.interval("a")


def public_runs():
    reference("chinchilla/svg_extracted_data.csv")
    return chinchilla_runs()


def test_the_chinchilla_refit_reaches_the_known_optimum():
    params, tokens, losses = public_runs()
    assert len(losses) == 240
    fit = fit_loss_law(params, tokens, losses)
    assert fit.objective <= 0.00101828
    law = fit.law
    np.testing.assert_allclose(
        [law.A, law.B, law.E, law.a, law.b], [477.83, 2143.4, 1.81722, 0.34731, 0.36717], rtol=2e-5
    )


def test_published_laws_score_as_known_on_the_public_runs():
    logs = [np.log(x) for x in public_runs()]
    scores = {name: huber_objective(LOSS_LAWS[name].law, *logs) for name in ("chinchilla", "besiroglu")}
    assert scores["besiroglu"] == pytest.approx(0.0010228, abs=5e-8)
    assert scores["chinchilla"] == pytest.approx(0.001231, abs=2e-6)
    rounded = LossLaw("chinchilla", 1.69, 406.4, 0.34, 410.7, 0.28)
    assert huber_objective(rounded, *logs) == pytest.approx(0.004121, abs=5e-7)


def test_a_form_with_more_freedom_never_fits_worse():
    params, tokens, losses = public_runs()
    scores = [fit_loss_law(params, tokens, losses, form=form, starts=8).objective for form in FREE]
    chinchilla, kaplans, general = scores
    assert general <= min(chinchilla, kaplans) + 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"losses": np.full(20, np.nan)}, "positive and finite"),
        ({"losses": np.ones(19)}, "equally long"),
        ({"params": np.full(20, 1e9)}, "same N"),
        ({"form": "linear"}, "choose from"),
        ({"params": np.ones(4), "tokens": np.ones(4), "losses": np.ones(4)}, "5 parameters; 4 runs"),
    ],
)
def test_runs_that_cannot_be_fitted_are_refused(change, words):
    rng = np.random.default_rng(0)
    good = {"params": 1e9 * rng.random(20), "tokens": 1e10 * rng.random(20), "losses": 2 + rng.random(20)}
    with pytest.raises(UsageError, match=words):
        fit_loss_law(**(good | change))


def test_impossible_laws_and_budgets_are_refused():
    with pytest.raises(UsageError, match="> 0"):
        LossLaw("chinchilla", 1.0, -1.0, 0.3, 1.0, 0.3)
    with pytest.raises(UsageError, match="choose from"):
        LossLaw("cubic", 1.0, 1.0, 0.3, 1.0, 0.3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="positive"):
        CHINCHILLA.optimal(0.0)


@pytest.mark.parametrize("jitter", [0.0, 0.05])
@pytest.mark.parametrize("power", [1.0, 1.3])
def test_runs_whose_tokens_follow_their_parameters_are_refused(power, jitter):
    params = np.geomspace(1e7, 1e10, 12)
    tokens = 20 * params**power * np.exp(jitter * np.random.default_rng(0).normal(size=12))
    with pytest.raises(UsageError, match=r"vary only together.*fit_loss_line"):
        fit_loss_law(params, tokens, CHINCHILLA.loss(params, tokens))


def test_a_line_tells_the_loss_along_itself_and_nothing_beside_it():
    """90% intervals at 10 times the compute hold the true loss in at least 13 of 16 draws: P(fewer) = .007."""
    params, hits = np.geomspace(1e7, 1e10, 10), 0
    target = 3e10
    for seed in range(16):
        noise = np.exp(3e-3 * np.random.default_rng(seed).normal(size=10))
        line = fit_loss_line(params, 20 * params, CHINCHILLA.loss(params, 20 * params) * noise, resamples=30, seed=seed)
        hits += bool(line.predict(target, 20 * target).contains(float(CHINCHILLA.loss(target, 20 * target))))
    assert hits >= 13
    with pytest.raises(UsageError, match="off the line"):
        line.predict(target, 60 * target)
    with pytest.raises(UsageError, match="no point beside it was seen"):
        line.optimal(1e22)
    with pytest.raises(UsageError, match="5 runs"):
        fit_loss_line(params[:4], params[:4], params[:4])


@pytest.mark.parametrize("unit", [1e-5, 1e5])
@pytest.mark.parametrize("form", list(FREE))
def test_the_unit_of_the_loss_and_of_the_tokens_changes_nothing(unit, form):
    params, tokens, losses = grid(CHINCHILLA, noise=3e-3)
    one = fit_loss_law(params, tokens, losses, form=form, starts=6)
    other = fit_loss_law(params, tokens * 1e-6, losses * unit, form=form, starts=6)
    assert (other.law.a, other.law.b) == pytest.approx((one.law.a, one.law.b), rel=1e-3)
    assert float(other.law.loss(1e11, 1e12 * 1e-6)) == pytest.approx(unit * float(one.law.loss(1e11, 1e12)), rel=1e-4)


def test_tied_exponents_are_equal_and_their_gradient_is_the_derivative():
    params, tokens, losses = grid(CHINCHILLA, noise=3e-3)
    fit = fit_loss_law(params, tokens, losses, starts=6, tie=True)
    assert fit.law.a == fit.law.b and 0.34 < fit.law.a < 0.38
    for form in ("chinchilla", "generalised"):
        problem = Problem(np.log(params), np.log(tokens), np.log(losses), form, 1e-3, tie=True, undertuned=0.3)
        q = problem.start(np.random.default_rng(1))
        numeric = approx_fprime(q, lambda x, p=problem: p.value(x)[0], 1e-7)
        np.testing.assert_allclose(problem.value(q)[1], numeric, rtol=2e-4)


def test_undertuned_runs_pull_the_law_up_less_when_weighted_less():
    """A third of the runs is up to 10% too high: the true law is the lower edge."""
    params, tokens, losses = grid(CHINCHILLA)
    excess = np.random.default_rng(0).uniform(0, 0.1, len(losses)) * (np.arange(len(losses)) % 3 == 0)
    truth, poor = float(CHINCHILLA.loss(1e9, 1e10)), losses * (1 + excess)

    def off(weight):
        law = fit_loss_law(params, tokens, poor, starts=6, delta=0.05, undertuned=weight).law
        return abs(float(law.loss(1e9, 1e10)) / truth - 1)

    assert off(0.05) < off(1.0) / 3
    for bad in (0.0, 1.5, -1.0):
        with pytest.raises(UsageError, match="undertuned"):
            fit_loss_law(params, tokens, losses, undertuned=bad)


def test_rows_of_one_run_are_resampled_together():
    """Ten copies of every run say no more than one: only by groups does the interval stay as wide."""
    params, tokens, losses = grid(CHINCHILLA, noise=1e-2)
    copied = [np.repeat(x, 10) for x in (params, tokens, losses)]
    groups = np.repeat(np.arange(len(params)), 10).tolist()
    options = {"starts": 4, "resamples": 25}

    def width(fit):
        low, high = fit.interval("E")
        return high - low

    single, wrong = width(fit_loss_law(params, tokens, losses, **options)), width(fit_loss_law(*copied, **options))
    right = width(fit_loss_law(*copied, groups=groups, **options))
    assert right > 2 * wrong and right == pytest.approx(single, rel=0.5)
    for labels, words in (([1, 2], "2 labels"), ([1] * len(params), "needs at least 3")):
        with pytest.raises(UsageError, match=words):
            fit_loss_law(params, tokens, losses, groups=labels)


def test_the_backtest_knows_a_form_that_bends_away():
    """Runs of the general law with a kink: Kaplan's form, which has no floor, misses further out, and says so."""
    params, tokens, losses = grid(CHINCHILLA, noise=1e-3)
    options = {"starts": 4, "resamples": 10}
    right, wrong = (fit_loss_law(params, tokens, losses, form=f, **options) for f in ("chinchilla", "kaplan"))
    assert right.backtest and wrong.backtest and wrong.backtest.error > 3 * right.backtest.error
    far = float(CHINCHILLA.loss(1e11, 3e12))
    assert wrong.predict(1e11, 3e12).contains(far) and not wrong.predict(1e11, 3e12, widen=1.0).contains(far)
