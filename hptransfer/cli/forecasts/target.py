"""What `--target width=8192,batch=4Mtokens` means, in the recipe's own unit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hptransfer.core.errors import UsageError
from hptransfer.core.training.scale import Scale
from hptransfer.core.training.units import UNITS, converted

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe

_UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
Target = dict[str, tuple[float, str | None]]
"""Axis -> its number and the unit written behind it, if any."""
_ENDS = set("0123456789.kKMBGT")
"""What a number ends in, before its unit."""


def target(text: str) -> Target:
    """ "width=8192,batch=4Mtokens" -> its numbers, with the units that were written."""
    found: Target = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in {"width", "depth", "batch", "tokens"}:
            raise argparse.ArgumentTypeError(f"{part!r}: write width=, depth=, batch= or tokens= and a number")
        found[axis] = _number_and_unit(number, units=axis in {"batch", "tokens"})
        if axis in {"width", "depth"} and not found[axis][0].is_integer():
            raise argparse.ArgumentTypeError(f"{part!r}: {axis} must be a whole number")
    _scale({axis: value for axis, (value, _) in found.items()})
    return found


def _number_and_unit(text: str, *, units: bool) -> tuple[float, str | None]:
    for unit, words in UNITS.items() if units else ():
        for word in words:
            if text.lower().endswith(word) and text[: -len(word)].strip()[-1:] in _ENDS:
                return _number(text[: -len(word)].strip()), unit
    return _number(text), None


def scale_in(asked: Target, recipe: Recipe) -> Scale:
    """The target in the recipe's unit. Raises UsageError where it cannot be converted."""
    found = {
        axis: converted(number, unit or recipe.unit, recipe.unit, recipe.tokens_per_example)
        for axis, (number, unit) in asked.items()
    }
    return _scale(found)


def scale(text: str) -> Scale:
    """ "width=8192,tokens=15T" -> Scale, units left aside."""
    return _scale({axis: number for axis, (number, _) in target(text).items()})


def _scale(found: dict[str, float]) -> Scale:
    whole = {axis: int(value) for axis, value in found.items() if axis in {"width", "depth"}}
    try:
        return Scale(**(found | whole))  # pyright: ignore[reportArgumentType]
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(text: str) -> float:
    factor = _UNITS.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in _UNITS else text) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 4096, 4M or 15T") from None
