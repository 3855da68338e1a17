"""The noise scale moves while training: reading and interval are those of the newest steps, whichever way it moved."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from hptransfer.prediction.noise.noise_meter import NoiseScaleMeter
from hptransfer.prediction.noise.noise_scale import NoiseScale, predict_noise_scale

EARLY, LATE = 2.0, 50.0  # noise scales, in examples


def steps(value: float, count: int, seed: int) -> list[NoiseScale]:
    """Estimates around a noise scale, each off by a tenth."""
    rng = np.random.default_rng(seed)
    return [NoiseScale(1 + 0.1 * rng.normal(), value * (1 + 0.1 * rng.normal())) for _ in range(count)]


@pytest.mark.parametrize(("first", "then"), [(EARLY, LATE), (LATE, EARLY)])
def test_value_and_interval_forget_what_was_before(first: float, then: float) -> None:
    # at decay .8 all before the last 40 steps weigh .8^40 = 1e-4 of the newest
    found = predict_noise_scale(steps(first, 40, 0) + steps(then, 40, 1), decay=0.8)
    alone = predict_noise_scale(steps(then, 40, 1), decay=0.8)
    assert found.value == pytest.approx(alone.value, rel=0.02)
    assert found.low is not None and found.high is not None
    assert 0.8 * then < found.low < found.value < found.high < 1.25 * then


def test_the_meter_does_too() -> None:
    """|g_small|^2 = |G|^2 + tr S / m and |g_big|^2 = |G|^2 + tr S / n with |G| = 1: fed exactly, read exactly."""
    meter = NoiseScaleMeter(nn.Linear(1, 1, bias=False), micro_batch=4, decay=0.8)
    for noise in [EARLY] * 40 + [LATE] * 40:
        meter.update(torch.tensor([1 + noise / 4]), torch.tensor([1 + noise / 8]), microbatches=2)
    assert meter.reading().value == pytest.approx(LATE, rel=0.01)
    predicted = meter.prediction()
    assert predicted.low is not None and predicted.low > 0.9 * LATE
    assert predicted.high is not None and predicted.high < 1.1 * LATE


def test_the_interval_is_that_of_all_resamples_of_the_steps() -> None:
    """Brute force: every ordered choice of 4 steps out of 4, each with its own weight .5^age."""
    history = [NoiseScale(1.0, v) for v in (1.0, 2.0, 4.0, 8.0)]
    weights = [0.5**age for age in (3, 2, 1, 0)]
    ratios = [
        sum(weights[i] * history[i].noise for i in pick) / sum(weights[i] * history[i].signal for i in pick)
        for pick in product(range(4), repeat=4)
    ]
    found = predict_noise_scale(history, decay=0.5)
    for got, level in ((found.low, 0.05), (found.high, 0.95)):
        # 500 draws: a level is met within 3 binomial standard errors, .03
        low, high = np.quantile(ratios, [max(level - 0.03, 0), min(level + 0.03, 1)], method="inverted_cdf")
        assert got is not None and low <= got <= high
