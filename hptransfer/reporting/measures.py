"""The field's measures of every scheme as a table, for the page and the terminal."""

# pyright: strict
from __future__ import annotations

import math

from hptransfer.reporting.schemes import short_name
from hptransfer.validation.records.results import Measures, TransferResult

UNKNOWN = "unknown"


def measure_rows(result: TransferResult) -> list[tuple[str, ...]]:
    """A heading and a row per scheme, the checked one first; nothing where no measure is known."""
    known = {m.scheme: m for m in result.measures}
    rows = [_row(known[name], str(result.axis)) for name in result.schemes if name in known]
    if not any(cell != UNKNOWN for row in rows for cell in row[1:]):
        return []
    smallest, largest = min(result.sizes), max(result.sizes)
    heading = (
        *("scheme", "best rate goes as", "off by (octaves)", "an octave off costs"),
        *("loss at infinite size", f"lost of what {result.axis} {largest} gains", f"search time saved at {smallest}"),
    )
    return [heading, *rows]


def _row(m: Measures, axis: str) -> tuple[str, ...]:
    times = f"{m.share:.0%}" if m.share < 2 else f"{m.share:.3g} times"
    return (
        short_name(m.scheme),
        _text(m.exponent, f"{axis}^{m.exponent:+.2f}"),
        _text(m.fit_error, f"{m.fit_error:.2f}"),
        _text(m.robustness, f"{axis}^{-m.robustness:+.2f}{_between(-m.robustness_high, -m.robustness_low, '+.2f')}"),
        _text(m.penalty, f"{m.penalty:+.1%}{_between(m.penalty_low, m.penalty_high, '+.1%')}"),
        _text(m.share, f"{times} ({m.speed})"),
        _text(m.saved, f"{m.saved:.0%}"),
    )


def _text(value: float, shown: str) -> str:
    return shown if math.isfinite(value) else UNKNOWN


def _between(low: float, high: float, form: str) -> str:
    return f" ({low:{form}} to {high:{form}})" if math.isfinite(low) and math.isfinite(high) else ""
