"""Hyperparameters at a base -> at a target: one factor per axis, each with its law, and none counted twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import DECAY_RULES
from hptransfer.core.rules import Scheme
from hptransfer.core.training.recipe import Scale
from hptransfer.prediction.laws.decay import DecaySettings, weight_decay_at
from hptransfer.prediction.provenance import Basis, Kind, Prediction


@dataclass(frozen=True)
class Factor:
    """One multiplication of one quantity.

    quantity: what is multiplied, e.g. "learning rate"; axes: what the factor accounts for, among width, depth, batch,
    tokens, schedule; value: the ratio target/base, with low and high where the law gives an interval.
    law, source, assumptions, kind: as in Prediction.
    """

    quantity: str
    axes: frozenset[str]
    value: float
    low: float
    high: float
    law: str
    source: str
    assumptions: tuple[str, ...]
    kind: Kind

    @classmethod
    def derived(cls, axis: str, octaves: float, law: str, source: str, *assumptions: str) -> Factor:
        """The rate stays, as derived; octaves: half of the interval that measured transfers give it."""
        ends = 1.0, 2.0**-octaves, 2.0**octaves
        return cls("learning rate", frozenset({axis}), *ends, law, source, assumptions, Kind("derived", "none"))

    @classmethod
    def between(cls, quantity: str, axes: Iterable[str], base: float, at: Prediction) -> Factor:
        """The ratio of a prediction at the target to the value at the base."""
        low, high = (at.value if end is None else end for end in (at.low, at.high))
        ends = at.value / base, low / base, high / base
        return cls(quantity, frozenset(axes), *ends, at.law, at.source, at.assumptions, at.kind)


def compose(start: Prediction, factors: Sequence[Factor]) -> Prediction:
    """start x all factors of its quantity; intervals add up in quadrature of their logarithms.

    start: the value at the base; without an interval (a given rate) it counts as exactly the base's best, and says so,
    where a factor moves it.
    Raises UsageError where two factors account for the same axis: a law with a D exponent beside another duration rule,
    or a batch rule beside a law that already contains the batch.
    """
    scaling = [factor for factor in factors if factor.quantity == start.name]
    refuse_double_counting(scaling)
    value = start.value * math.prod(factor.value for factor in scaling)
    down, up = (_reach(start, scaling, side) for side in (0, 1))
    laws = [start.law, *(factor.law for factor in scaling if factor.value != 1)]
    assumptions = dict.fromkeys(a for part in (start, *scaling) for a in part.assumptions)
    given = start.low is None and start.high is None
    if given and all(factor.value == 1 for factor in scaling):
        down = up = 0.0
    elif given:
        assumptions |= {"the given rate is the best one at the base: the interval is that of the factors": None}
    return start.replace(
        value=value,
        low=value * math.exp(-down) if down else start.low and value,
        high=value * math.exp(up) if up else start.high and value,
        law=" x ".join(laws),
        source="; ".join(dict.fromkeys([start.source, *(f.source for f in scaling if f.value != 1)])),
        assumptions=tuple(assumptions),
        kind=Kind(_weakest(scaling), start.kind.constant),
    )


def refuse_double_counting(factors: Sequence[Factor]) -> None:
    """Raise UsageError where two factors of one quantity account for the same axis."""
    for k, factor in enumerate(factors):
        for other in factors[:k]:
            shared = sorted(factor.axes & other.axes)
            if shared and factor.quantity == other.quantity:
                raise UsageError(
                    f"The {factor.quantity} would be scaled twice with {' and '.join(shared)}: by {other.law!r} (x "
                    f"{other.value:.4g}) and by {factor.law!r} (x {factor.value:.4g}). Choose one of them."
                )


def _reach(start: Prediction, factors: Sequence[Factor], side: int) -> float:
    ends = [(start.value, (start.low, start.high)[side]), *((f.value, (f.low, f.high)[side]) for f in factors)]
    return math.hypot(*(math.log(end / middle) for middle, end in ends if end is not None and end > 0))


def _weakest(factors: Sequence[Factor]) -> Basis:
    """The least trustworthy basis among the exponents used."""
    order: tuple[Basis, ...] = ("published", "given", "fitted", "measured", "derived", "none")
    used = {factor.kind.exponent for factor in factors if factor.value != 1} or {"derived"}
    return next(basis for basis in order if basis in used)


# The rules, axis by axis.


def refuse_unknown_base(base: Scale, target: Scale) -> None:
    """Raise UsageError where the target sets an axis that the base leaves open: there is no ratio to scale by."""
    for axis in ("width", "depth", "batch", "tokens"):
        if getattr(target, axis) is not None and getattr(base, axis) is None:
            raise UsageError(
                f"The target sets {axis}={getattr(target, axis):g}, but the base ({base}) does not say its own {axis}. "
                f"Give the recipe a base with {axis}=..., in the target's unit."
            )


TRANSFER_ERROR = 0.25
"""Octaves, one standard deviation: what a transfer over width, or over depth, adds to the error of the base's optimum.
It is the drift allowance of a passing check (half an octave at 95%), used until a check of this recipe says better."""


def width_and_depth(
    base: Scale, target: Scale, scheme: Scheme, *, depths: bool, drift: float | None = None
) -> list[Factor]:
    """Under a transferring scheme the base LR stays: the plan's per-parameter multipliers carry width (and depth).

    depths: whether the model has residual branches that the scheme's depth rule covers. drift: half of the 90% interval
    over width that a check of this recipe measured, octaves.
    """
    if scheme.global_lr:
        raise UsageError(f"Scheme {scheme.name!r} has no transfer rule: its optimum moves. Use mup or completep.")
    factors: list[Factor] = []
    assumed = NORMAL_90 * TRANSFER_ERROR
    if base.width != target.width:
        text = "the plan's multipliers carry the width"
        within = assumed if drift is None else drift
        factors.append(Factor.derived("width", within, f"{scheme.name}: {text}", scheme.source, text))
    if base.depth is not None and target.depth is not None and base.depth != target.depth:
        if scheme.depth_alpha is None or not depths:
            raise UsageError(
                f"The target is {target.depth / base.depth:g} times deeper, but scheme {scheme.name!r} has no depth "
                f"rule for this model. Use scheme='completep' (residual networks), or keep the depth."
            )
        text = f"residual branches x m_L^-{scheme.depth_alpha}"
        factors.append(Factor.derived("depth", assumed, f"{scheme.name}: {text}", scheme.source, text))
    return factors


NORMAL_90 = 1.645
"""Standard deviations on either side of a normal's central 90%."""


def decayed(rule: str, base: DecaySettings, target: DecaySettings) -> Prediction:
    """Weight decay at the target; `target.lr` is the composed rate, so that no factor of lr is applied again."""
    return weight_decay_at(rule, base, target)


def decay_axes(rule: str, base: Scale, target: Scale) -> tuple[str, ...]:
    """The axes among batch and tokens whose factor a rule's weight decay holds."""
    row = DECAY_RULES[rule]
    changed = [axis for axis in ("batch", "tokens") if getattr(base, axis) != getattr(target, axis)]
    return tuple(axis for axis in changed if row.absolute or row.lr or getattr(row, axis))
