"""Facts about the convex bound: anchors, its brute-force twin, its scalings, and that it really bounds."""

import math
import time

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.convex_bound import best_cooldown, convex_bound, lr_ratio, theory_exponent
from hptransfer.prediction.schedules.schedule import constant, cosine, from_array, linear, power, wsd
from tests.oracles.laws import convex_bound_terms
from tests.support.reference import anchors

ANCHORED = {
    "const": constant,
    "linear": linear,
    "cos": cosine,
    "wsd20": lambda n: wsd(n, cooldown=0.2),
    "wsd40": lambda n: wsd(n, cooldown=0.4),
    "wsd60": lambda n: wsd(n, cooldown=0.6),
    "wsd80": lambda n: wsd(n, cooldown=0.8),
    "wsd20sqrt": lambda n: wsd(n, cooldown=0.2, shape="1-sqrt"),
}


@pytest.mark.parametrize("steps", [100, 200, 400, 1000, 4000, 10000])
@pytest.mark.parametrize("name", ANCHORED)
def test_best_rate_and_bound_meet_the_computed_anchors(name, steps):
    expected = anchors("schaipp_bound_D=G=1 [gamma*,Omega_T]")[str(steps)][name]
    got = convex_bound(ANCHORED[name](steps))
    np.testing.assert_allclose([got.best_lr, got.best_value], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "factors",
    [
        np.random.default_rng(0).random(40),
        linear(30).factors,
        cosine(25, final=0.1, warmup=5).factors,
        np.array([0.0, 1.0, 0.0, 0.5]),
        np.array([2.0]),
        np.geomspace(1, 1e-12, 30),
    ],
)
def test_linear_time_terms_equal_the_double_sum(factors):
    gradient = np.linspace(2, 1, len(factors))
    got = convex_bound(factors, distance=3.0, gradient_norm=gradient)
    np.testing.assert_allclose((got.t1, got.t2, got.t3), convex_bound_terms(factors, 3.0, gradient), rtol=1e-12)


def test_steps_at_rate_zero_at_the_end_change_nothing():
    factors = np.array([1.0, 0.7, 0.3])
    padded = convex_bound(np.concatenate([factors, [0.0, 0.0]]))
    assert padded == convex_bound(factors)
    assert padded.steps == 3


def test_scaling_the_schedule_scales_the_best_rate_back_and_leaves_the_bound():
    one, ten = convex_bound(wsd(500).factors), convex_bound(10 * wsd(500).factors)
    assert ten.best_lr == pytest.approx(one.best_lr / 10)
    assert ten.best_value == pytest.approx(one.best_value)


def test_distance_and_gradient_norm_set_the_units():
    base, scaled = convex_bound(cosine(200)), convex_bound(cosine(200), distance=3.0, gradient_norm=5.0)
    assert scaled.best_lr == pytest.approx(base.best_lr * 3 / 5)
    assert scaled.best_value == pytest.approx(base.best_value * 15)


def test_the_best_rate_minimises_the_bound():
    bound = convex_bound(wsd(300, cooldown=0.3))
    assert bound.value(bound.best_lr) == pytest.approx(bound.best_value)
    assert all(bound.value(bound.best_lr * f) > bound.best_value for f in (0.9, 1.1))


@pytest.mark.parametrize("schedule", [constant(200), linear(200), wsd(200), cosine(200), power(200, hold=20)])
def test_subgradient_descent_ends_below_the_bound(schedule):
    # f(x) = max_i |x_i| has subgradients of norm 1; the start is at distance D from the minimiser 0
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = rng.normal(size=8)
        bound = convex_bound(schedule, distance=float(np.linalg.norm(x)))
        for factor in schedule.factors[:-1]:  # the last rate only leads to an iterate past the bounded one
            i = int(np.argmax(np.abs(x)))
            x[i] -= bound.best_lr * factor * np.sign(x[i])
        assert np.max(np.abs(x)) <= bound.best_value


def test_decaying_to_zero_removes_the_logarithm():
    # constant rates: Omega sqrt(T) grows with ln T (harmonic sum); linear decay: tends to 2 (arXiv:2310.07831)
    flat = [convex_bound(constant(n)).best_value * math.sqrt(n) for n in (100, 10000)]
    assert flat[1] > flat[0] + 0.5
    assert convex_bound(linear(10000)).best_value * 100 == pytest.approx(2.0, abs=2e-3)


def test_best_rate_falls_as_the_root_of_the_horizon():
    assert theory_exponent(lambda n: wsd(n, cooldown=0.2), 10000) == pytest.approx(-0.5, abs=5e-3)
    assert theory_exponent(cosine, 10000) == pytest.approx(-0.5, abs=1e-3)
    assert theory_exponent(constant, 10000) < -0.52  # the logarithm again
    assert lr_ratio(wsd(4000), cosine(4000)) == pytest.approx(1.89, abs=5e-3)


def test_the_bound_prefers_the_longest_linear_cooldown():
    found = best_cooldown(1000)
    assert found.fraction == 1.0
    assert found.bound == pytest.approx(convex_bound(linear(1000)).best_value)
    assert [v for _, v in found.tried] == sorted([v for _, v in found.tried], reverse=True)


def test_best_cooldown_beats_its_grid_and_respects_the_warm_up():
    found = best_cooldown(1000, shape="cosine", warmup=100)
    assert 0.5 < found.fraction < 0.9  # a full half-cosine spends too long near zero
    assert found.bound <= min(v for _, v in found.tried)


def test_a_million_steps_take_less_than_120_ms():
    factors = cosine(10**6).factors
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        convex_bound(factors)
        best = min(best, time.perf_counter() - start)
    assert best < 0.12


@pytest.mark.parametrize(
    "call",
    [
        lambda: convex_bound(np.array([])),
        lambda: convex_bound(np.zeros(3)),
        lambda: convex_bound(np.array([1.0, -0.1])),
        lambda: convex_bound(np.array([1.0, np.nan])),
        lambda: convex_bound(np.ones((2, 2))),
        lambda: convex_bound(np.ones(3), distance=0.0),
        lambda: convex_bound(np.ones(3), gradient_norm=np.ones(2)),
        lambda: convex_bound(from_array([1.0]), gradient_norm=-1.0),
    ],
)
def test_bad_schedules_and_units_are_refused(call):
    with pytest.raises(UsageError):
        call()
