"""The role of a parameter: which of its fans grow between the base and the target model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hptransfer.core.errors import UsageError

Kind = Literal["input", "hidden", "readout", "bottleneck", "vector", "scalar", "unused"]


@dataclass(frozen=True)
class Role:
    """What a parameter does, and how its fans compare with the base's.

    kind: hidden (fan_in and fan_out grow), readout (only fan_in), bottleneck (only fan_in, but what it makes is no
    output: a LoRA's A; initialised like a hidden matrix), input (only fan_out, contracted or looked up),
    vector (only fan_out, elementwise: gains, biases), scalar (nothing grows), unused (not in the traced forward).
    fan_in, fan_out: sizes at the target; base_fan_in, base_fan_out: at the base. A vector's fan_in is 1.
    copies, base_copies: how many alike it is one of, whose outputs are added up (experts in a list).
    Raises UsageError where the kind is unknown or a fan is not positive.
    """

    kind: Kind
    fan_in: int = 1
    fan_out: int = 1
    base_fan_in: int = 1
    base_fan_out: int = 1
    copies: int = 1
    base_copies: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"Role kind {self.kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
        counts = (self.fan_in, self.fan_out, self.base_fan_in, self.base_fan_out, self.copies, self.base_copies)
        if min(counts) < 1:
            raise UsageError(f"{self}: every fan and every number of copies must be at least 1.")

    @property
    def m_in(self) -> float:
        """fan_in / base fan_in."""
        return self.fan_in / self.base_fan_in

    @property
    def m_out(self) -> float:
        """fan_out / base fan_out."""
        return self.fan_out / self.base_fan_out

    @property
    def m_copies(self) -> float:
        """copies / base copies."""
        return self.copies / self.base_copies
