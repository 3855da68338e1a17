"""What the batch size does: to the best learning rate under each rule, and to the time and cost of a run.

The rules for lr(B) are rows of core/horizon/rules.py, where plans read them too.

Checked: `mccandlish` against the minimiser of the exact expected loss after one step on a noisy quadratic; `surge`
against that of one signSGD step with E sign = erf; `sde_adam` by simulating Adam at both batch sizes. Measured slope
d ln lr*/d ln B on a public LLM grid: .66 up to 256 sequences, .00 above: none of the rules, closest to `mccandlish`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import BATCH_RULES as BATCH_RULES
from hptransfer.core.horizon.evidence import reach_about
from hptransfer.prediction.provenance import Basis, Kind, Prediction

Array = np.ndarray


def lr_at_batch(rule: str, lr: float, batch: float, target: float, *, noise_scale: float | None = None) -> Prediction:
    """The best rate at batch `target` given the best one, `lr`, at `batch`, under a rule.

    noise_scale: B_n in the unit of the batches, where the rule needs it. The 90% interval is a new data set's: how far
    the exponents measured on others lie from the rule's mean exponent between the two batches. Raises UsageError for an
    unknown rule, a missing noise scale, or numbers that are not positive.
    """
    if rule not in BATCH_RULES:
        raise UsageError(f"Unknown batch rule {rule!r}: choose from {', '.join(BATCH_RULES)}.")
    chosen = BATCH_RULES[rule]
    if chosen.needs_noise and noise_scale is None:
        raise UsageError(f"Batch rule {rule!r} needs the noise scale. Measure it with NoiseScaleMeter.")
    noise = noise_scale or 1.0
    _positive(lr=lr, batch=batch, target=target, noise_scale=noise)
    ratio = chosen.shape(target, noise) / chosen.shape(batch, noise)
    half = reach_about(math.log(ratio), target / batch)
    ends = lr * ratio, lr * ratio * math.exp(-half), lr * ratio * math.exp(half)
    kind = Kind(_BASES.get(chosen.basis, "derived"), "given")
    return Prediction("learning rate", *ends, "1", f"{rule} batch rule", chosen.source, (chosen.holds,), kind)


_BASES: dict[str, Basis] = {"heuristic": "given", "published": "published"}


@dataclass(frozen=True)
class AdamSettings:
    """Adam's settings; eps as added to sqrt(v)."""

    lr: float
    beta1: float
    beta2: float
    eps: float


def sde_adam(settings: AdamSettings, factor: float) -> AdamSettings:
    """Adam's settings at a batch `factor` times as large, so that the same SDE is followed.

    lr x sqrt(k), 1 - beta x k for both betas, eps / sqrt(k) (arXiv:2205.10287, square-root scaling rule).
    Noise-dominated gradients only. Raises UsageError where 1 - beta would reach 1: one batch would then hold more than
    the averages remember.
    """
    _positive(factor=factor, lr=settings.lr)
    beta1, beta2 = (1 - factor * (1 - beta) for beta in (settings.beta1, settings.beta2))
    if min(beta1, beta2) < 1e-9:
        raise UsageError(
            f"sde_adam: at {factor:g}x the batch 1 - beta would be {factor * (1 - settings.beta1):.3g} and "
            f"{factor * (1 - settings.beta2):.3g}, which must stay below 1. Use a smaller factor."
        )
    root = math.sqrt(factor)
    return AdamSettings(settings.lr * root, beta1, beta2, settings.eps / root)


@dataclass(frozen=True)
class TradeOff:
    """Steps and examples to one and the same loss at several batches, relative to the fewest possible of each."""

    batches: tuple[float, ...]
    steps: tuple[float, ...]
    examples: tuple[float, ...]


def trade_off(critical_batch: float, batches: Array | list[float]) -> TradeOff:
    """S/S_min = 1 + B_c/B and E/E_min = 1 + B/B_c, that is (S/S_min - 1)(E/E_min - 1) = 1 (arXiv:1812.06162 eq. 2.11).

    At the critical batch both are 2: twice the steps of an endless batch, twice the examples of a batch of one.
    """
    b = np.asarray(batches, dtype=np.float64)
    if not (critical_batch > 0 and b.size and np.all(b > 0)):
        raise UsageError(f"trade_off: the batches and critical_batch={critical_batch!r} must be positive.")
    return TradeOff(
        tuple(b.tolist()), tuple((1 + critical_batch / b).tolist()), tuple((1 + b / critical_batch).tolist())
    )


def batch_for_overhead(critical_batch: float, overhead: float) -> float:
    """The largest batch that costs at most `overhead` more examples than the fewest possible (.2 = 20% more)."""
    _positive(critical_batch=critical_batch, overhead=overhead)
    return critical_batch * overhead


def critical_batch(noise_scale: Prediction) -> Prediction:
    """The critical batch: the noise scale itself (arXiv:1812.06162 sec. 2.3), good to a small factor.

    It grows during training (as the loss falls, |G|^2 does faster than tr S), so measure it late rather than early.
    """
    return noise_scale.replace(
        name="critical batch",
        law="critical batch = noise scale",
        source=noise_scale.source.replace("appendix A.1", "sec. 2.3"),
        assumptions=(*noise_scale.assumptions, "the noise scale now is the noise scale throughout"),
    )


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{name}={value!r} must be positive and finite.")
