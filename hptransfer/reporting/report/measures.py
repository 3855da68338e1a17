"""The field's measures of every scheme as a table, for the page and the terminal."""

# pyright: strict
from __future__ import annotations

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
    best = "best rate" if result.swept.is_rate else "best factor"
    heading = (
        *("scheme", f"{best} goes as", "off by (octaves)", "an octave off costs"),
        *("loss at infinite size", f"share lost of {result.axis} {largest}'s gain", f"search time saved at {smallest}"),
    )
    return [heading, *rows]


def _row(m: Measures, axis: str) -> tuple[str, ...]:
    share = None if m.share is None else f"{m.share:.0%}" if m.share < 2 else f"{m.share:.3g} times"
    return (
        short_name(m.scheme),
        _text(m.exponent, f"{axis}^", "+.2f"),
        _text(m.fit_error, "", ".2f"),
        _text(_minus(m.robustness), f"{axis}^", "+.2f", _minus(m.robustness_high), _minus(m.robustness_low)),
        _text(m.penalty, "", "+.1%", m.penalty_low, m.penalty_high),
        UNKNOWN if share is None else f"{share} ({m.speed})",
        _text(m.saved, "", ".0%"),
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _text(value: float | None, before: str, form: str, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return UNKNOWN
    between = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{before}{value:{form}}{between}"
