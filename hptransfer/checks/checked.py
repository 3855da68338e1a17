"""Arguments of the checks, held against what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe


def checked_widths(widths: Sequence[int], *, least: int = 3) -> tuple[int, ...]:
    """The widths, distinct and rising. Raises UsageError where they are not whole, not positive or too few."""
    for width in widths:
        if not isinstance(width, Integral) or isinstance(width, bool) or width < 1:
            raise UsageError(f"width {width!r}: must be a whole number >= 1.")
    distinct = tuple(sorted({int(w) for w in widths}))
    if len(distinct) < least:
        raise UsageError(
            f"widths={list(widths)}: {len(distinct)} distinct, but a slope with an interval needs at least {least}; "
            f"give for example {_example(distinct)}."
        )
    return distinct


def _example(widths: Sequence[int]) -> str:
    first = widths[0] if widths else 64
    return ",".join(str(first * 2**k) for k in range(4))


def checked_count(name: str, value: int, *, least: int) -> int:
    """A whole number >= least. Raises UsageError otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value!r}: must be a whole number >= {least}.")
    return int(value)


def checked_lr(recipe: Recipe, lr: float | None) -> float:
    """The learning rate given, or the middle of the recipe's. Raises UsageError where it is absent or not positive."""
    if lr is None:
        if not recipe.lrs:
            raise UsageError(f"Recipe {recipe.name!r} has no lrs to take the middle of; pass lr=.")
        return float(sorted(recipe.lrs)[len(recipe.lrs) // 2])
    if not (isinstance(lr, (int, float)) and math.isfinite(lr) and lr > 0):
        raise UsageError(f"lr={lr!r}: must be a positive finite number.")
    return float(lr)
