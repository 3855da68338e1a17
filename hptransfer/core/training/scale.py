"""A point in scale space, and the axes that span it; light to import, for the command line reads both."""

# pyright: strict
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from hptransfer.core.errors import UsageError

Axis = Literal["width", "depth", "batch", "tokens", "experts", "active", "expert_width"]
"""What a transfer is checked over, the others staying fixed."""
MIXTURE: tuple[Axis, ...] = ("experts", "active", "expert_width")
"""Those of a mixture of experts: a job that names none has the base's."""


@dataclass(frozen=True)
class Scale:
    """A point in scale space.

    width: the model's width as its builder understands it (channels, d_model, hidden units).
    depth: number of residual blocks or layers; None = the builder's own.
    batch: examples (or tokens) per optimizer step, in the unit of `tokens`; None = the recipe's own.
    tokens: examples (or tokens) seen in the whole run; None = the recipe's own.
    experts, active, expert_width: of a mixture of experts, how many there are, how many of them every token meets, and
    the hidden width of one; None = the builder's own, or no mixture.
    Raises UsageError where a value is not positive.
    """

    width: int | None = None
    depth: int | None = None
    batch: float | None = None
    tokens: float | None = None
    experts: int | None = None
    active: int | None = None
    expert_width: int | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"Scale({name}={value!r}): must be a positive finite number.")

    def with_(self, **changes: float | None) -> Scale:
        """The same scale with some axes changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def said(self) -> dict[str, float]:
        """Axis -> value, of those that are given."""
        return {axis: value for axis, value in dataclasses.asdict(self).items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{axis}={value:g}" for axis, value in self.said.items()) or "unscaled"
