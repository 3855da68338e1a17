"""Facts about batch rules: each is the minimiser of the model that it stands for, and they agree where they must."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import erf

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.batch_rules import (
    BATCH_RULES,
    AdamSettings,
    batch_for_overhead,
    critical_batch,
    lr_at_batch,
    sde_adam,
    trade_off,
)
from hptransfer.prediction.noise.noise_scale import NoiseScale, predict_noise_scale


def best_lr(expected_loss):
    """The minimiser over ln lr."""
    return math.exp(minimize_scalar(lambda x: expected_loss(math.exp(x)), bracket=(-8, -2), tol=1e-12).x)


def test_mccandlish_is_the_minimiser_of_one_noisy_quadratic_step():
    # E L(theta - lr g), g ~ (G, S/B): -lr |G|^2 + lr^2/2 [G'HG + tr(HS)/B]
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 6, 6))
    H, S, G = a @ a.T, c @ c.T, rng.normal(size=6)
    noise_scale = np.trace(H @ S) / (G @ H @ G)

    def best(batch):
        return best_lr(lambda lr: -lr * G @ G + lr**2 / 2 * (G @ H @ G + np.trace(H @ S) / batch))

    for batch in (0.1 * noise_scale, noise_scale, 30 * noise_scale):
        predicted = lr_at_batch("mccandlish", best(4.0), 4.0, batch, noise_scale=noise_scale).value
        assert predicted == pytest.approx(best(batch), rel=1e-6)


def test_the_noisy_quadratic_itself_matches_simulation():
    rng = np.random.default_rng(1)
    h, s, g, batch, lr = np.array([1.0, 3.0]), np.array([2.0, 0.5]), np.array([1.0, -0.4]), 8, 0.3
    draws = g + rng.normal(size=(200_000, 2)) * np.sqrt(s / batch)
    theta = g / h  # where the gradient is g
    simulated = np.mean(0.5 * ((theta - lr * draws) ** 2 * h).sum(1)) - 0.5 * (theta**2 * h).sum()
    exact = -lr * g @ g + lr**2 / 2 * ((h * g * g).sum() + (h * s).sum() / batch)
    assert simulated == pytest.approx(exact, abs=4e-3 * abs(exact))


def test_surge_is_the_minimiser_of_one_sign_step_with_small_signal_per_coordinate():
    # sign updates: E s_i = erf(sqrt(B/2) mu_i/sigma_i); H = 1 on the diagonal, rho elsewhere
    d, rho = 2000, 0.5  # B_n far below where erf bends
    ratio = 0.002 * (1 + 0.3 * np.random.default_rng(0).random(d))  # mu/sigma

    def best(batch):
        s = erf(np.sqrt(batch / 2) * ratio)
        return ratio @ s / (d + rho * (s.sum() ** 2 - s @ s))  # minimiser of -lr mu.s + lr^2/2 E sign' H sign

    c = np.sqrt(2 / np.pi) * ratio
    noise_scale = d / (rho * (c.sum() ** 2 - c @ c))  # diagonal over off-diagonal part
    peak = max(range(1, 40), key=lambda i: best(noise_scale * i / 20))
    assert peak / 20 == pytest.approx(1.0, abs=0.06)  # the rate peaks at B_n
    for factor in (0.01, 0.2, 1.0, 5.0, 20.0):
        predicted = lr_at_batch(
            "surge", best(0.05 * noise_scale), 0.05 * noise_scale, factor * noise_scale, noise_scale=noise_scale
        )
        assert predicted.value == pytest.approx(best(factor * noise_scale), rel=0.02)


@pytest.mark.parametrize(("rule", "limit"), [("mccandlish", "linear"), ("surge", "sqrt"), ("sqrt-capped", "sqrt")])
def test_saturating_rules_tend_to_the_plain_ones_far_below_the_noise_scale(rule, limit):
    saturating = lr_at_batch(rule, 1e-3, 1.0, 8.0, noise_scale=1e7).value
    assert saturating == pytest.approx(lr_at_batch(limit, 1e-3, 1.0, 8.0).value, rel=1e-5)


def test_far_above_the_noise_scale_sgd_and_capped_are_flat_and_surge_falls():
    def above(rule):
        return lr_at_batch(rule, 1e-3, 1e6, 4e6, noise_scale=1.0).value

    assert above("mccandlish") == pytest.approx(1e-3, rel=1e-5)
    assert above("sqrt-capped") == pytest.approx(1e-3)
    assert above("surge") == pytest.approx(5e-4, rel=1e-5)
    assert lr_at_batch("constant", 1e-3, 1, 64).value == 1e-3


@pytest.mark.parametrize("rule", BATCH_RULES)
def test_going_to_another_batch_and_back_changes_nothing(rule):
    there = lr_at_batch(rule, 1e-3, 32, 500, noise_scale=100).value
    assert lr_at_batch(rule, there, 500, 32, noise_scale=100).value == pytest.approx(1e-3)


def adam(settings, batch, *, examples, replicas=4000, signal=0.02, seed=0):
    """Mean and spread of theta after `examples` examples on gradients signal + z/sqrt(batch): noise-dominated."""
    rng = np.random.default_rng(seed)
    theta, m, v = (np.zeros(replicas) for _ in range(3))
    for t in range(1, examples // batch + 1):
        g = signal + rng.normal(size=replicas) / math.sqrt(batch)
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g * g
        hat_m, hat_v = m / (1 - settings.beta1**t), v / (1 - settings.beta2**t)
        theta -= settings.lr * hat_m / (np.sqrt(hat_v) + settings.eps)
    return theta.mean(), theta.std()


def test_adam_follows_the_same_path_at_four_times_the_batch_with_sde_settings():
    base = AdamSettings(1e-3, 0.9, 0.98, 1e-8)
    mean, spread = adam(base, 1, examples=4000)
    scaled_mean, scaled_spread = adam(sde_adam(base, 4), 4, examples=4000, seed=1)
    assert scaled_mean == pytest.approx(mean, rel=0.08)
    assert scaled_spread == pytest.approx(spread, rel=0.08)
    kept_mean, _ = adam(base, 4, examples=4000, seed=1)
    linear_mean, _ = adam(AdamSettings(4e-3, 0.9, 0.98, 1e-8), 4, examples=4000, seed=1)
    assert abs(kept_mean) < 0.6 * abs(mean) and abs(linear_mean) > 1.6 * abs(mean)  # the other rules do not


def test_sde_settings_keep_the_memory_in_examples_and_the_place_of_eps():
    got = sde_adam(AdamSettings(1e-3, 0.9, 0.999, 1e-8), 4)
    assert got.lr == pytest.approx(2e-3) and got.eps == pytest.approx(5e-9)
    assert (1 - got.beta1) / 4 == pytest.approx(0.1) and (1 - got.beta2) / 4 == pytest.approx(1e-3)
    with pytest.raises(UsageError, match="smaller factor"):
        sde_adam(AdamSettings(1e-3, 0.9, 0.999, 1e-8), 10)


def test_time_and_cost_trade_against_each_other():
    curve = trade_off(1000.0, [1, 100, 1000, 1e5])
    s, e = np.array(curve.steps), np.array(curve.examples)
    np.testing.assert_allclose((s - 1) * (e - 1), 1.0)
    np.testing.assert_allclose(e / s, np.array(curve.batches) / 1000.0)  # examples = steps x batch
    assert (curve.steps[2], curve.examples[2]) == (2.0, 2.0)
    assert trade_off(1000.0, [batch_for_overhead(1000.0, 0.2)]).examples[0] == pytest.approx(1.2)


def test_the_trade_off_is_what_the_noisy_quadratic_step_gives():
    # progress per step at the best rate is dL_max/(1 + B_n/B): steps for a given loss are (1 + B_n/B) times the fewest
    gain = lambda batch, b_n: 1 / (1 + b_n / batch)  # noqa: E731
    for batch in (10.0, 300.0):
        assert trade_off(300.0, [batch]).steps[0] == pytest.approx(1 / gain(batch, 300.0))


def test_the_critical_batch_is_the_noise_scale_with_its_caveat():
    noise = predict_noise_scale([NoiseScale(1.0, 200.0 + i) for i in range(20)])
    critical = critical_batch(noise)
    assert critical.value == noise.value and critical.name == "critical batch"
    assert any("throughout" in a for a in critical.assumptions)


def test_bad_requests_are_refused():
    for call, words in [
        (lambda: lr_at_batch("cubic", 1e-3, 1, 2), "choose from"),
        (lambda: lr_at_batch("surge", 1e-3, 1, 2), "needs the noise scale"),
        (lambda: lr_at_batch("sqrt", 1e-3, 0, 2), "batch=0"),
        (lambda: lr_at_batch("sqrt", -1.0, 1, 2), "lr=-1.0"),
        (lambda: trade_off(0.0, [1]), "positive"),
        (lambda: trade_off(10.0, []), "positive"),
        (lambda: sde_adam(AdamSettings(1e-3, 0.9, 0.99, 1e-8), 0.0), "factor"),
    ]:
        with pytest.raises(UsageError, match=words):
            call()
