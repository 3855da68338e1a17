"""How far below the optimum to aim: against a brute-force twin, and against symmetry."""

import numpy as np
import pytest

from hptransfer import UsageError
from hptransfer.prediction.forecast.lean import lean

X = np.arange(-10.0, -1.0)


def test_a_symmetric_loss_asks_for_no_lean():
    found = lean(X, 1 + 0.1 * (X + 6) ** 2, optimum=-6, sd=0.5, initial_loss=3)
    assert found.octaves == 0
    assert found.diverges == 0


def test_a_cliff_one_octave_above_asks_to_aim_low_and_lowers_the_expected_loss():
    losses = np.where(X <= -5, 1 + 0.02 * (X + 6) ** 2, np.inf)
    found = lean(X, losses, optimum=-6, sd=0.7, initial_loss=5)
    assert 0.3 < found.octaves < 2.1
    assert found.expected_loss < found.unleaned_loss
    assert (found.cliff_low, found.cliff_high) == (-5, -4)


def test_the_advice_is_the_brute_force_minimum_of_the_expected_loss():
    losses = np.where(X <= -5, 1 + 0.02 * (X + 6) ** 2, np.inf)
    draws = np.random.default_rng(0).normal(0, 0.7, 200_000)
    filled = np.where(np.isfinite(losses), losses, 5.0)
    found = lean(X, losses, optimum=-6, sd=0.7, initial_loss=5)
    shifts = np.linspace(0, 2.1, 22)
    brute = [np.interp(-6 - s + draws, X, filled).mean() for s in shifts]
    # 200 000 draws: the mean's standard error is below .005, and 201 quantiles of the normal below that
    assert found.expected_loss == pytest.approx(min(brute), abs=0.01)
    high = np.clip(-6 - found.octaves + draws + 5, 0, 1).mean()  # cliff uniform in [-5, -4]
    assert found.diverges == pytest.approx(high, abs=0.01)


def test_too_few_finite_losses_are_refused():
    with pytest.raises(UsageError, match="at least 3 finite"):
        lean([-3, -2, -1], [1.0, np.inf, np.inf], optimum=-3, sd=0.5, initial_loss=2)
