"""Numbers in the sentences of a verdict: what is not known is said in words, never as nan."""

# pyright: strict
from __future__ import annotations

import math


def bracket(low: float, high: float, form: str = "+.2f") -> str:
    """ " [low, high]", or nothing where an end is not known."""
    return f" [{low:{form}}, {high:{form}}]" if math.isfinite(low) and math.isfinite(high) else ""


def amount(value: float, form: str) -> str:
    """A number, or "unknown"."""
    return "unknown" if math.isnan(value) else f"{value:{form}}"
