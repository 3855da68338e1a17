"""The gradient noise scale from squared gradient norms: how large a batch averages the noise away.

For gradients of batches of m and n examples, E|g_m|^2 = |G|^2 + tr(S)/m, with G the true gradient and S the covariance
of one example's gradient. Two batch sizes give two equations, hence the unbiased estimators (McCandlish et al. 2018,
arXiv:1812.06162, appendix A.1)

    |G|^2 = (n |g_n|^2 - m |g_m|^2) / (n - m),     tr S = (|g_m|^2 - |g_n|^2) / (1/m - 1/n),     B_simple = tr S/|G|^2

Each is averaged on its own and the ratio taken last, since a ratio of noisy numbers is biased. B_simple stands for the
B_noise = tr(H S)/(G' H G) of the theory where the Hessian H is a multiple of the identity. Unbiasedness is checked by
enumerating every batch of a small finite data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.provenance import Kind, Prediction

Array = np.ndarray


@dataclass(frozen=True)
class NoiseScale:
    """signal: |G|^2; noise: tr S, per example. Either may come out negative where it is small beside its error."""

    signal: float
    noise: float

    @property
    def value(self) -> float:
        """B_simple, in the batch's unit; inf where the signal is not resolved (<= 0), never below 0."""
        return max(0.0, self.noise / self.signal) if self.signal > 0 else math.inf


def two_batch_estimate(square_small: float, square_big: float, *, small: float, big: float) -> NoiseScale:
    """From the (mean) squared norms of gradients of batches of `small` and `big` examples.

    Raises UsageError unless 0 < small < big.
    """
    if not 0 < small < big:
        raise UsageError(f"Two batch sizes with 0 < small < big are needed, but got {small=}, {big=}.")
    signal = (big * square_big - small * square_small) / (big - small)  # arXiv:1812.06162 appendix A.1
    noise = (square_small - square_big) / (1 / small - 1 / big)
    return NoiseScale(signal, noise)


def microbatch_estimate(squares: Sequence[float] | Array, square_of_mean: float, *, micro_batch: float) -> NoiseScale:
    """From the squared norms (k,) of k microbatch gradients, and that of their mean; equal sizes.

    The two-batch estimate at m = micro_batch, n = k micro_batch: gradient accumulation and data parallelism hold both
    sizes already. Raises UsageError for fewer than 2 microbatches.
    """
    if len(squares) < 2:
        raise UsageError(
            f"{len(squares)} microbatch holds one batch size only. Accumulate over >= 2, or use several ranks."
        )
    big = micro_batch * len(squares)
    return two_batch_estimate(float(np.mean(squares)), square_of_mean, small=micro_batch, big=big)


def summarise(history: Sequence[NoiseScale], *, decay: float = 1.0) -> NoiseScale:
    """The mean of signal and of noise over estimates, the newest last, older ones weighted by decay^age."""
    if not history:
        raise UsageError("No noise estimate yet: measure at least one step.")
    weights = decay ** np.arange(len(history))[::-1].astype(float)
    signal, noise = (np.average([getattr(h, name) for h in history], weights=weights) for name in ("signal", "noise"))
    return NoiseScale(float(signal), float(noise))


def predict_noise_scale(
    history: Sequence[NoiseScale], *, decay: float = 1.0, unit: str = "examples", name: str = "noise scale"
) -> Prediction:
    """B_simple with a 90% interval (steps resampled, weights kept). No upper limit where the signal may be 0.

    Raises UsageError where the mean signal itself is not positive: more steps, or larger batches, are needed.
    """
    middle = summarise(history, decay=decay)
    if not math.isfinite(middle.value):
        raise UsageError(
            f"The gradient's signal is not resolved over {len(history)} steps (|G|^2 = {middle.signal:.3g}): the noise "
            "scale is larger than these batches can see. Average over more steps."
        )
    draws = _resampled(history, decay)
    low, high = np.quantile(draws, [0.05, 0.95], method="inverted_cdf") if len(history) > 1 else (0.0, math.inf)
    return Prediction(
        name=name,
        value=middle.value,
        low=min(float(low), middle.value),
        high=max(float(high), middle.value) if math.isfinite(high) else None,
        unit=unit,
        law="gradient noise scale, B_simple = tr S / |G|^2",
        source=f"arXiv:1812.06162 appendix A.1, over {len(history)} steps",
        assumptions=("examples independent", "Hessian like the identity, so that B_simple stands for B_noise"),
        kind=Kind("none", "measured"),
    )


def _resampled(history: Sequence[NoiseScale], decay: float, count: int = 500) -> Array:
    weights = decay ** np.arange(len(history))[::-1].astype(float)
    pick = numpy_generator(0).integers(len(history), size=(count, len(history)))
    signal, noise = (
        (weights[pick] * np.array([getattr(h, name) for h in history])[pick]).sum(axis=1)
        for name in ("signal", "noise")
    )
    safe = np.where(signal > 0, signal, 1.0)
    return np.where(signal > 0, np.maximum(noise / safe, 0.0), np.inf)
