"""Facts about noise-scale estimates: unbiased over every possible batch, and honest about what they cannot see."""

import math
from itertools import product

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.noise.noise_scale import (
    NoiseScale,
    microbatch_estimate,
    predict_noise_scale,
    summarise,
    two_batch_estimate,
)

EXAMPLES = np.random.default_rng(0).normal([1.0, 0.5, 0.0], size=(5, 3))  # per-example gradients of a tiny data set
SIGNAL = float(np.sum(EXAMPLES.mean(0) ** 2))
NOISE = float(np.trace(np.cov(EXAMPLES.T, bias=True)))


def all_batches(size):
    """Every batch drawn with replacement: (5^size, 3) mean gradients."""
    return np.array([EXAMPLES[list(pick)].mean(0) for pick in product(range(5), repeat=size)])


def squares(gradients):
    return (gradients**2).sum(-1)


@pytest.mark.parametrize(("small", "big"), [(1, 2), (1, 4), (2, 3)])
def test_the_two_batch_estimate_is_unbiased_over_all_batches(small, big):
    got = two_batch_estimate(squares(all_batches(small)).mean(), squares(all_batches(big)).mean(), small=small, big=big)
    assert got.signal == pytest.approx(SIGNAL, rel=1e-12)
    assert got.noise == pytest.approx(NOISE, rel=1e-12)
    assert got.value == pytest.approx(NOISE / SIGNAL)


def test_the_microbatch_estimate_is_unbiased_though_its_batches_overlap():
    # every ordered triple of microbatches of one example: the mean of estimates is the truth exactly
    estimates = [
        microbatch_estimate(squares(EXAMPLES[list(pick)]), float(squares(EXAMPLES[list(pick)].mean(0))), micro_batch=1)
        for pick in product(range(5), repeat=3)
    ]
    assert np.mean([e.signal for e in estimates]) == pytest.approx(SIGNAL, rel=1e-12)
    assert np.mean([e.noise for e in estimates]) == pytest.approx(NOISE, rel=1e-12)


def test_the_ratio_of_means_is_right_where_the_mean_of_ratios_is_not():
    rng = np.random.default_rng(1)
    picks = rng.integers(5, size=(4000, 2))
    history = [
        microbatch_estimate(squares(EXAMPLES[p]), float(squares(EXAMPLES[p].mean(0))), micro_batch=1) for p in picks
    ]
    assert summarise(history).value == pytest.approx(NOISE / SIGNAL, rel=0.1)
    ratios = [h.noise / h.signal for h in history if h.signal != 0]
    assert abs(np.mean(ratios) / (NOISE / SIGNAL) - 1) > 0.2


def test_the_interval_covers_the_truth():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(100):
        picks = rng.integers(5, size=(80, 4))
        history = [
            microbatch_estimate(squares(EXAMPLES[p]), float(squares(EXAMPLES[p].mean(0))), micro_batch=1) for p in picks
        ]
        hits += bool(predict_noise_scale(history).contains(NOISE / SIGNAL))
    assert 82 <= hits <= 98  # 90% nominal, binomial sd 3


def test_weights_favour_the_newest():
    old, new = NoiseScale(1.0, 1.0), NoiseScale(1.0, 3.0)
    assert summarise([old, new]).noise == 2.0
    assert summarise([old, new], decay=0.5).noise == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_an_unresolved_signal_is_said_not_guessed():
    assert NoiseScale(-0.1, 5.0).value == math.inf
    assert NoiseScale(1.0, -0.1).value == 0.0
    with pytest.raises(UsageError, match="not resolved"):
        predict_noise_scale([NoiseScale(-0.1, 5.0)] * 3)
    open_ended = predict_noise_scale([NoiseScale(2.0, 1.0), NoiseScale(-1.5, 1.0), NoiseScale(0.5, 1.0)])
    assert open_ended.high is None and open_ended.low is not None
    assert predict_noise_scale([NoiseScale(1.0, 2.0)]).high is None  # one step says nothing about its error


def test_bad_sizes_and_too_few_microbatches_are_refused():
    with pytest.raises(UsageError, match="small < big"):
        two_batch_estimate(1.0, 1.0, small=8, big=8)
    with pytest.raises(UsageError, match="one batch size only"):
        microbatch_estimate([1.0], 1.0, micro_batch=8)
    with pytest.raises(UsageError, match="at least one step"):
        summarise([])
