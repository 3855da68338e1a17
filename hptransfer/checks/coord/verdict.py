"""From judged rows to one verdict, with what decided it in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from hptransfer.checks.coord.rows import QUORUM, Row

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


def verdict_of(rows: Sequence[Row], wild: Sequence[str] = ()) -> tuple[Verdict, tuple[str, ...]]:
    """FAIL, PASS or INCONCLUSIVE, and what decided it. wild: what was not finite, in words."""
    judged = [row for row in rows if row.judged]
    failed, undecided = [r for r in judged if r.ok is False], [r for r in judged if r.ok is None]
    if wild or failed:
        more = [f"and {len(failed) - 5} more of {len(judged)} judged rows"] if len(failed) > 5 else []
        return "FAIL", (*wild, *_worst(failed, _direction), *more)
    passed = len(judged) - len(undecided)
    counted = f"{passed} of {len(judged)} judged rows lie within their tolerance, none outside"
    if judged and passed >= QUORUM * len(judged) and not _always_undecided(judged):
        open_rows = [f"undecided: {words}" for words in _worst(undecided, _undecided)]
        return "PASS", (counted, *open_rows)
    needed = f"{QUORUM:.0%} are needed, and for every module and quantity at least one t"
    advice = f"{counted}; {needed}: give more seeds or a wider range of widths"
    return "INCONCLUSIVE", (advice, *_worst(_always_undecided(judged) or undecided, _undecided))


def _always_undecided(judged: Sequence[Row]) -> list[Row]:
    """Rows of the modules and quantities that no t decides."""
    decided = {(row.module, row.quantity) for row in judged if row.ok is not None}
    return [row for row in judged if (row.module, row.quantity) not in decided]


def _worst(rows: Sequence[Row], words: Callable[[Row], str]) -> list[str]:
    ranked = sorted(rows, key=lambda r: math.inf if math.isnan(r.excess) else -r.excess)
    return [f"{row.module}: {row.quantity} at t={row.t} {words(row)}" for row in ranked[:5]]


def _direction(row: Row) -> str:
    grows = row.allowed_high is not None and row.slope > row.allowed_high
    verb = "grows with width" if grows else "fades with width"
    return f"{verb}: exponent {row.slope:+.2f} [{row.low:+.2f}, {row.high:+.2f}], expected {row.expected:+.2g}"


def _undecided(row: Row) -> str:
    if math.isnan(row.slope):
        return f"cannot be fitted: {row.reason}"
    return f"has exponent {row.slope:+.2f} [{row.low:+.2f}, {row.high:+.2f}], expected {row.expected:+.2g}"
