"""The steps of a derivation and the lines of a forecast's headline, as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hptransfer.prediction.forecast.lean import Lean
from hptransfer.prediction.forecast.transfer import Factor
from hptransfer.prediction.provenance import Kind, Prediction

CONCLUSIVE = 1.0
"""Decades: an interval wider than this decides nothing that a guess would not."""


@dataclass(frozen=True)
class Step:
    """One step of the derivation: what it does in words, and the number it gives (None: nothing to change)."""

    title: str
    prediction: Prediction | None
    text: str = ""


def factor_step(factor: Factor) -> Step:
    ends = factor.value, factor.low, factor.high
    kind, told = Kind(factor.kind.exponent, "none"), (factor.law, factor.source, factor.assumptions)
    prediction = Prediction("factor on the learning rate", *ends, "1", *told, kind)
    return Step(f"Factor for {' and '.join(sorted(factor.axes))}", prediction)


def lean_step(found: Lean, advised: float) -> Step:
    cliff = (
        f"runs diverge between 2^{found.cliff_low:.2f} and 2^{found.cliff_high:.2f} at the base"
        if math.isfinite(found.cliff_high)
        else "no run of the base's sweep diverged above its optimum"
    )
    text = f"aim {found.octaves:.2f} octaves lower, at {advised:.4g}; {cliff}; P(diverges) = {found.diverges:.2g}"
    return Step("Lean away from the cliff", None, text)


def betas_step(base: tuple[float, ...] | None, betas: tuple[float, ...] | None, why_not: str) -> list[Step]:
    if why_not:
        return [Step("Betas", None, f"refused: {why_not}")]
    if betas is None or betas == base:
        return []
    shown = ", ".join(f"{beta:.6g}" for beta in betas)
    return [Step("Betas", None, f"({shown}): beta^(B/B0) keeps the half-life in samples (2205.10287 to first order)")]


def prediction_lines(p: Prediction) -> list[str]:
    interval = "" if p.low is None or p.high is None else f" [{p.low:.4g}, {p.high:.4g}]"
    unit = "" if p.unit == "1" else f" {p.unit}"
    lines = [f"{p.value:.4g}{interval}{unit}  ({p.kind})", f"law: {p.law}; source: {p.source}"]
    return [*lines, *([f"assumes: {'; '.join(p.assumptions)}"] if p.assumptions else [])]


def rate_line(advised: float, rate: Prediction) -> str:
    """The advised rate beside the interval of the best one."""
    if rate.low is None or rate.high is None:
        return f"=> learning rate {advised:.4g} (2^{math.log2(advised):.2f}), no interval"
    return (
        f"=> learning rate {advised:.4g} (2^{math.log2(advised):.2f}), 90% interval {rate.low:.3g} to {rate.high:.3g}"
    )


def inconclusive_line(decades: float) -> str:
    """What an interval too wide to act on asks for."""
    return (
        f"INCONCLUSIVE: the interval spans {decades:.1f} decades. Sweep at a batch and tokens nearer to the target's "
        "(two points of each give this data set's own exponents: --batch-rule power:E, --duration-rule power:E), or "
        "measure the noise scale (--noise)."
    )


def stability_line(advised: float, limit: Prediction) -> str:
    """How the advised rate stands to the base's stability limit at initialisation."""
    over = advised / limit.value
    told = f"   {over:.3g} times the base's stability limit at initialisation ({limit.value:.3g})"
    if over <= 1:
        return f"{told}: below it"
    return f"{told}: ABOVE it, so it needs a warm-up over which the curvature falls, and a watch for divergence"
