"""Fans read off a use: how many entries a parameter contracts and produces, and the role that this gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Kind, Role
from hptransfer.graph.operands import is_transposed
from hptransfer.graph.ops import facts
from hptransfer.graph.parameters.uses import Unsettled, Use


def role_of_use(use: Use, shape: Sequence[int], base: Use, base_shape: Sequence[int], *, share: float = 1.0) -> Role:
    """The role that one use gives a parameter, from its shapes at target and base.

    share: ratio of the share of what it contracts that is not zero. Only those entries are summed and make the fan_in;
    as many fewer examples as there are entries for one of them reach each row, as if it were one of so many copies.
    A number of blocks (heads, experts) that grows makes more outputs, each of which reads as many inputs as before.
    Raises UsageError of entries taken one by one along two growing axes: a matrix, whose sum is out of sight.
    """
    _refuse_two_axes(use, shape, base_shape)
    (fan_in, fan_out), (base_in, base_out) = _fans(use, shape), _fans(base, base_shape)
    blocks, base_blocks = _product(use, shape, "batched"), _product(base, base_shape, "batched")
    if blocks != base_blocks:
        fan_out, base_out = fan_out * blocks, base_out * base_blocks
    contracts = any(label in {"contracted", "indexed"} for label in use.axes)
    entries, fan_in = fan_in, max(1, round(fan_in * share)) if contracts else fan_in
    grows_in, grows_out = _contracted(use, shape) != _contracted(base, base_shape), fan_out != base_out
    grows_in = grows_in if fan_in == entries else fan_in != base_in
    if grows_in:
        kind: Kind = "hidden" if grows_out else "readout"
    elif grows_out:
        kind = "input" if contracts else "vector"
    else:
        kind = "scalar"
    return Role(kind, fan_in, fan_out, base_in, base_out, *((entries, fan_in) if entries != fan_in else ()))


def _refuse_two_axes(use: Use, shape: Sequence[int], base_shape: Sequence[int]) -> None:
    pairs = zip(use.axes, shape, base_shape, strict=True)
    growing = [(size, base) for label, size, base in pairs if label == "elementwise" and size != base]
    if len(growing) > 1 and facts(use.node).multiplies:
        sizes, bases = (" x ".join(map(str, side)) for side in zip(*growing, strict=True))
        raise UsageError(
            f"The role of parameter {use.parameter!r} cannot be settled: {use} takes its entries one by one along axes "
            f"of {sizes} ({bases} in the base), and no sum right behind it says which of them is contracted. Write a "
            f"matrix product (F.linear, @), or say what it is with roles={{{use.parameter!r}: Role(...)}}."
        )


def _fans(use: Use, shape: Sequence[int]) -> tuple[int, int]:
    """fan_in: contracted x kernel sizes (per group); fan_out: produced, or elementwise where nothing is produced."""
    sizes = {label: _product(use, shape, label) for label in ("kernel", "produced", "elementwise")}
    fan_in = _contracted(use, shape) * sizes["kernel"]
    return fan_in, sizes["produced"] * sizes["elementwise"]


def _contracted(use: Use, shape: Sequence[int]) -> int:
    size = _product(use, shape, "contracted")
    return max(1, size // use.groups) if is_transposed(use.node) else size


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
