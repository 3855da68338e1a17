"""The role of a parameter: which of its fans grow between the base and the target model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hptransfer.core.errors import UsageError
from hptransfer.core.uses import Unsettled, Use

Kind = Literal["input", "hidden", "readout", "bottleneck", "vector", "scalar", "unused"]


@dataclass(frozen=True)
class Role:
    """What a parameter does, and how its fans compare with the base's.

    kind: hidden (fan_in and fan_out grow), readout (only fan_in), bottleneck (only fan_in, but what it makes is no
    output: a LoRA's A; initialised like a hidden matrix), input (only fan_out, contracted or looked up),
    vector (only fan_out, elementwise: gains, biases), scalar (nothing grows), unused (not in the traced forward).
    fan_in, fan_out: sizes at the target; base_fan_in, base_fan_out: at the base. A vector's fan_in is 1.
    Raises UsageError where the kind is unknown or a fan is not positive.
    """

    kind: Kind
    fan_in: int = 1
    fan_out: int = 1
    base_fan_in: int = 1
    base_fan_out: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"Role kind {self.kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
        if min(self.fan_in, self.fan_out, self.base_fan_in, self.base_fan_out) < 1:
            raise UsageError(f"{self}: every fan must be at least 1.")

    @property
    def m_in(self) -> float:
        """fan_in / base fan_in."""
        return self.fan_in / self.base_fan_in

    @property
    def m_out(self) -> float:
        """fan_out / base fan_out."""
        return self.fan_out / self.base_fan_out


def role_of_use(use: Use, shape: Sequence[int], base: Use, base_shape: Sequence[int]) -> Role:
    """The role that one use gives a parameter, from its shapes at target and base.

    A number of blocks (heads, experts) that grows makes more outputs, each of which reads as many inputs as before.
    """
    (fan_in, fan_out), (base_in, base_out) = _fans(use, shape), _fans(base, base_shape)
    blocks, base_blocks = _product(use, shape, "batched"), _product(base, base_shape, "batched")
    if blocks != base_blocks:
        fan_out, base_out = fan_out * blocks, base_out * base_blocks
    grows_in, grows_out = _contracted(use, shape) != _contracted(base, base_shape), fan_out != base_out
    contracts = any(label in {"contracted", "indexed"} for label in use.axes)
    if grows_in:
        kind: Kind = "hidden" if grows_out else "readout"
    elif grows_out:
        kind = "input" if contracts else "vector"
    else:
        kind = "scalar"
    return Role(kind, fan_in, fan_out, base_in, base_out)


def _fans(use: Use, shape: Sequence[int]) -> tuple[int, int]:
    """fan_in: contracted x kernel sizes (per group); fan_out: produced, or elementwise where nothing is produced."""
    sizes = {label: _product(use, shape, label) for label in ("kernel", "produced", "elementwise")}
    fan_in = _contracted(use, shape) * sizes["kernel"]
    return fan_in, sizes["produced"] * sizes["elementwise"]


def _contracted(use: Use, shape: Sequence[int]) -> int:
    size = _product(use, shape, "contracted")
    return max(1, size // use.groups) if use.op.startswith("conv_transpose") else size


def _product(use: Use, shape: Sequence[int], label: str) -> int:
    return math.prod(size for size, own in zip(shape, use.axes, strict=True) if own == label)


def settle(name: str, uses: Sequence[Use | Unsettled]) -> list[Use]:
    """The uses of a parameter, or a UsageError that names it and what stopped the trace."""
    open_uses = [use for use in uses if isinstance(use, Unsettled)]
    if open_uses:
        shown = "; ".join(str(use) for use in uses)
        raise UsageError(
            f"The role of parameter {name!r} cannot be settled. Uses found: {shown}. Say what it is with "
            f"roles={{{name!r}: Role(kind, fan_in, fan_out, base_fan_in, base_fan_out)}}, kind being one of "
            f"{', '.join(get_args(Kind))}."
        )
    return [use for use in uses if isinstance(use, Use)]
