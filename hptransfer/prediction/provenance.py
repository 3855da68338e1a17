"""A prediction: a number with an interval, its law, what the law assumes, and how far it was derived."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document

Basis = Literal["derived", "measured", "fitted", "published", "given", "none"]
"""Where a number comes from: mathematics; this user's own runs; a fit to this user's runs; someone else's fit,
as published; the user said so; or there is no such number (a law without an exponent, a rule without a constant).
"""


@dataclass(frozen=True)
class Kind:
    """The basis of a law's exponent and of its constant, separately: they are rarely equally trustworthy."""

    exponent: Basis
    constant: Basis

    def __post_init__(self) -> None:
        for name in ("exponent", "constant"):
            if (value := getattr(self, name)) not in get_args(Basis):
                raise UsageError(f"Kind({name}={value!r}): must be one of {', '.join(get_args(Basis))}.")

    def __str__(self) -> str:
        return f"exponent {self.exponent}, constant {self.constant}"


@dataclass(frozen=True)
class Prediction(Document):
    """One predicted number.

    name: what is predicted, e.g. "learning rate". value: finite; low, high: the interval around it, in the
    same unit, or None where the law gives none (never a made-up one). unit: e.g. "1", "tokens", "nats".
    law: the name of the rule; source: paper equation and arXiv id, or how it was derived here; assumptions:
    what must hold for it; kind: basis of its exponent and constant.
    Raises UsageError where the value is not finite or lies outside its own interval.
    """

    TITLE = "a prediction"
    STRICT = True

    name: str
    value: float
    low: float | None
    high: float | None
    unit: str
    law: str
    source: str
    assumptions: tuple[str, ...]
    kind: Kind

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise UsageError(f"Prediction {self.name!r}: value {self.value!r} is not finite.")
        below = self.low is not None and not self.low <= self.value
        above = self.high is not None and not self.value <= self.high
        if below or above:
            raise UsageError(
                f"Prediction {self.name!r}: low <= value <= high must hold, but got "
                f"(low={self.low!r}, value={self.value!r}, high={self.high!r})."
            )

    def contains(self, observed: float) -> bool | None:
        """Whether the interval holds the observed value; None where there is no two-sided interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= observed <= self.high

    def octaves_off(self, observed: float) -> float:
        """log2(value / observed): the signed error in octaves. Raises UsageError unless both are positive."""
        if not (self.value > 0 and observed > 0):
            raise UsageError(
                f"Prediction {self.name!r}: an error in octaves needs positive numbers, but got "
                f"(predicted={self.value!r}, observed={observed!r})."
            )
        return math.log2(self.value / observed)

    def replace(self, **changes: Any) -> Prediction:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        limits = "no interval"
        if self.low is not None or self.high is not None:
            low, high = (
                ("-inf" if self.low is None else f"{self.low:.4g}"),
                ("inf" if self.high is None else f"{self.high:.4g}"),
            )
            limits = f"{low} to {high}"
        unit = "" if self.unit in ("", "1") else f" {self.unit}"
        return f"{self.name} = {self.value:.4g}{unit} ({limits}) by {self.law} [{self.kind}]"
