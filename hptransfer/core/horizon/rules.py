"""The rows: rules of batch, duration and decay, each with where it holds and its source. carried.py applies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.evidence import EVIDENCE, joint_rule
from hptransfer.core.rules import Geometry

Basis = Literal["derived", "published", "heuristic", "none"]
STEP = ("sign", "relative", "spectral")
"""Steps that do not see the gradient's size, so that noise averages as k^-1/2 per sample."""


@dataclass(frozen=True)
class BatchRule:
    """How the best rate follows the batch.

    shape: (batch, noise scale) -> lr up to a constant; needs_noise: whether B_n enters. geometries: of the optimizers
    it holds for. eps: the exponent of k in eps, under a sign step. holds: where; source. reach: the largest ratio of
    batches, up or down, at which a forecast takes it without a measured noise scale.
    """

    name: str
    shape: Callable[[float, float], float]
    geometries: tuple[Geometry, ...]
    holds: str
    source: str
    needs_noise: bool = False
    eps: float = 0.0
    basis: Basis = "derived"
    reach: float = math.inf


@dataclass(frozen=True)
class DurationRule:
    """lr ~ x^exponent at one batch, x being the steps (which fall as the batch grows) or the tokens themselves.

    interval: of the exponent, over what it was fitted on.
    """

    name: str
    exponent: float
    interval: tuple[float, float]
    holds: str
    source: str
    of: Literal["steps", "tokens"] = "steps"


@dataclass(frozen=True)
class DecayRule:
    """wd ~ lr^lr batch^batch tokens^tokens width^width, for decoupled decay; keeps: what stays the same.

    carries: the batch rule whose lr is already inside: lr must be scaled by exactly that. absolute: it sets wd itself,
    from the target alone (see prediction/laws/decay.py).
    """

    name: str
    keeps: str
    source: str
    lr: float = 0.0
    batch: float = 0.0
    tokens: float = 0.0
    width: float = 0.0
    carries: str = ""
    absolute: bool = False
    basis: Basis = "derived"

    def factor(self, **ratios: float) -> float:
        """The ratio of wd for target/base ratios of lr, batch, tokens and width, each 1 where not given."""
        powers = {axis: getattr(self, axis) for axis in ("batch", "lr", "tokens", "width")}
        up = math.prod(ratios.get(axis, 1.0) ** power for axis, power in powers.items() if power > 0)
        return up / math.prod(ratios.get(axis, 1.0) ** -power for axis, power in powers.items() if power < 0)


JOINT = joint_rule()
"""The rule of batch and tokens over all data sets of core/horizon/evidence.py."""

MEASURED_TOKENS = tuple(row.tokens for row in EVIDENCE if row.tokens is not None)

_BELOW = "both batches << B_n; the noise of examples is independent"

BATCH_RULES: Mapping[str, BatchRule] = {
    rule.name: rule
    for rule in (
        BatchRule("constant", lambda b, n: 1.0, ("gradient", *STEP), "the batch does not matter", "no change"),
        BatchRule("linear", lambda b, n: b, ("gradient",), f"SGD; {_BELOW}", "arXiv:1706.02677; 1511.06251"),
        BatchRule(
            "mccandlish",
            lambda b, n: 1 / (1 + n / b),
            ("gradient",),
            "SGD, any batch: linear, then flat; the noise of examples is independent",
            "arXiv:1812.06162 eq. 2.6",
            needs_noise=True,
        ),
        BatchRule(
            "joint",
            lambda b, n: b**JOINT.batch,
            STEP,
            "at fixed tokens; the mean over data sets",
            f"{JOINT.sources[0]} data sets, core/horizon/evidence.py",
            eps=-0.5,
            basis="published",
        ),
        BatchRule(
            "sqrt", lambda b, n: b**0.5, STEP, f"Adam as an SDE; {_BELOW}", "arXiv:2205.10287", eps=-0.5, reach=4.0
        ),
        BatchRule(
            "sqrt-capped",
            lambda b, n: min(b, n) ** 0.5,
            STEP,
            "Adam; no growth above B_n, as measured on a public LLM grid",
            "heuristic",
            needs_noise=True,
            basis="heuristic",
        ),
        BatchRule(
            "surge",
            lambda b, n: 2 / (math.sqrt(n / b) + math.sqrt(b / n)),
            STEP,
            "sign-like updates with small signal per coordinate; off-diagonal curvature adds up: rises, then falls",
            "arXiv:2405.14578",
            needs_noise=True,
        ),
    )
}
"""Plans call "constant" "none", and leave the betas then, too."""


LARGEST_POWER = 1.5
"""Of the batch or the tokens in the rate, either way: half as much again as linear scaling."""


def measured_exponent(name: str) -> float | None:
    """E of "power:E", an exponent of the batch or the tokens that the user has measured; None for another name.

    Raises UsageError where it lies beyond +-LARGEST_POWER, which no rule or measurement comes near.
    """
    kind, _, text = name.partition(":")
    try:
        exponent = float(text) if kind == "power" else None
    except ValueError:
        return None
    if exponent is not None and not abs(exponent) <= LARGEST_POWER:
        raise UsageError(
            f"{name!r}: batch or tokens to the power {exponent:g} in a rate was never measured: linear scaling is 1, "
            f"the steepest fall over tokens -.7. Give an exponent from -{LARGEST_POWER:g} to {LARGEST_POWER:g}."
        )
    return exponent


def measured_batch_rule(name: str) -> BatchRule | None:
    """lr ~ batch^E from "power:E"; None for another name."""
    exponent = measured_exponent(name)
    if exponent is None:
        return None
    return BatchRule(name, lambda b, n: b**exponent, ("gradient", *STEP), "as measured", "the user", eps=-0.5)


DURATION_RULES: Mapping[str, DurationRule] = {
    rule.name: rule
    for rule in (
        DurationRule("none", 0.0, (0.0, 0.0), "the best rate stays", "no change"),
        DurationRule(
            "bound",
            -0.5862 / 2,
            (-0.636 / 2, -0.536 / 2),
            "124M Llama on SlimPajama, AdamW, schedules that decay to zero; fixed batch",
            "convex bound T^-1/2 (arXiv:2501.18965), shrunk as fitted on its public runs",
        ),
        DurationRule(
            "joint",
            JOINT.tokens,
            (min(MEASURED_TOKENS), max(MEASURED_TOKENS)),
            "at fixed batch; the mean over data sets",
            f"{JOINT.sources[1]} data sets, core/horizon/evidence.py",
            of="tokens",
        ),
    )
}

DECAY_RULES: Mapping[str, DecayRule] = {
    rule.name: rule
    for rule in (
        DecayRule("fixed", "wd", "no change", basis="none"),
        DecayRule("independent", "lr wd", "arXiv:2309.14322", lr=-1),
        DecayRule("tokens", "B/(lr wd)", "derived from the EMA view", lr=-1, batch=1),
        DecayRule("timescale", "B/(lr wd D)", "arXiv:2405.13698", lr=-1, batch=1, tokens=-1),
        DecayRule(
            "sqrt-batch",
            "B/(lr wd D) with lr ~ sqrt(B)",
            "public training code (nanochat)",
            batch=0.5,
            tokens=-1,
            carries="sqrt",
        ),
        DecayRule(
            "power-lines", "B/(lr wd D) = 1.084 (D/N)^-.527", "arXiv:2505.13738", absolute=True, basis="published"
        ),
        DecayRule("sqrt-width", "wd/sqrt(width)", "arXiv:2510.15262", width=0.5, basis="published"),
        DecayRule("width", "lr wd of hidden matrices", "muP implementations", width=1),
    )
}
"""Plans call "fixed" "none"; the width they carry parameter by parameter, so the last three are for forecasts."""
