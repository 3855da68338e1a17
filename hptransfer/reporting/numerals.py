"""Numbers as they are printed: raised exponents."""

# pyright: strict
from __future__ import annotations

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def raised(exponent: int) -> str:
    """A whole number as an exponent: "⁻⁷"."""
    return str(exponent).translate(_RAISED)


def short_positive(value: float) -> str:
    """A positive number in few characters, to three digits: "0.02", "300", "10⁻⁵", "2×10⁻⁵"."""
    if 1e-3 <= value < 1e4:
        return f"{value:.3g}" if value < 1000 else f"{value:g}"
    digits, exponent = f"{value:.2e}".split("e")
    times = "" if float(digits) == 1 else f"{float(digits):g}×"
    return f"{times}10{raised(int(exponent))}"
