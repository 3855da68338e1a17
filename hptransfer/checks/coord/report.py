"""What a coordinate check found: plain data with a verdict, as JSON and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hptransfer.checks.coord.rows import Record, Row
from hptransfer.checks.coord.update_size import Moved
from hptransfer.checks.coord.verdict import Verdict as Verdict
from hptransfer.core.files import Document, columns


@dataclass(frozen=True)
class Health:
    """How one run stood after t steps: the loss on the probe batch and the largest attention logit.

    logits: attention product or softmax, in order of execution -> its largest logit. Reported, not judged: an attention
    logit that grows with width ends in NaN at a size that no small check sees.
    """

    width: int
    seed: int
    t: int
    loss: float
    logits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CoordReport(Document):
    """A coordinate check's verdict, the rule it used and everything it measured.

    verdict, rule, reasons: the judgement, the rule in words, and what decided it. tolerance: on the exponents.
    rows: exponents per (module, t, quantity), judged; updates: exponents of the parameters' update sizes, reported
    only. records, moved, health: the measurements. settings: recipe, scheme, widths, base width, seeds, steps, lr...
    """

    TITLE = "a coordinate check"
    REMEDY = "Make it again with coord_check."

    verdict: Verdict
    tolerance: float
    rule: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    updates: tuple[Row, ...] = field(repr=False)
    records: tuple[Record, ...] = field(repr=False)
    moved: tuple[Moved, ...] = field(repr=False)
    health: tuple[Health, ...] = field(repr=False)
    settings: Mapping[str, Any]

    @property
    def offenders(self) -> list[Row]:
        """Judged rows that do not pass: failures first, the farthest outside first."""
        return sorted((r for r in self.rows if r.judged and r.ok is not True), key=_urgency)

    def row(self, module: str, t: int, quantity: str) -> Row:
        """The row of one module, step and quantity. Raises KeyError where it was not measured."""
        for row in self.rows:
            if (row.module, row.t, row.quantity) == (module, t, quantity):
                return row
        raise KeyError((module, t, quantity))

    def __str__(self) -> str:
        return _text(self)


def _urgency(row: Row) -> tuple[int, float]:
    rank = 0 if row.ok is False else 1 if row.ok is None and row.judged else 2 if row.judged else 3
    return rank, -row.excess if rank < 3 and row.excess == row.excess else 0.0


def _text(report: CoordReport) -> str:
    s = report.settings
    head = [
        f"coordinate check of {s['recipe']}: {report.verdict}",
        f"scheme {s['scheme']}, widths {', '.join(map(str, s['widths']))} (base {s['base_width']}), "
        f"{s['seeds']} seeds, {s['steps']} steps, {s['optimizer']} at lr {s['lr']:.4g}",
        *(f"- {reason}" for reason in report.reasons),
    ]
    worst: dict[tuple[str, str], Row] = {}
    for row in report.rows:
        key = (row.module, row.quantity)
        if key not in worst or _urgency(row) < _urgency(worst[key]):
            worst[key] = row
    table = columns([_HEADER, *(_cells(row) for row in sorted(worst.values(), key=_urgency))])
    note = "each module and quantity at its worst t; allowed and expected exponents of the width"
    return "\n".join([*head, "", note, *table, "", *_by_width(report), "", report.rule])


_HEADER = ("module", "quantity", "t", "exponent", "95% interval", "allowed", "")


def _cells(row: Row) -> tuple[str, ...]:
    status = {True: "ok", False: "FAIL"}.get(row.ok, "?") if row.judged else "-"  # type: ignore[arg-type]
    if row.slope != row.slope:
        return row.module, row.quantity, str(row.t), "", "", "", f"{status} {row.reason}"
    low = "-inf" if row.allowed_low is None else f"{row.allowed_low:+.2f}"
    high = "inf" if row.allowed_high is None else f"{row.allowed_high:+.2f}"
    interval = f"{row.low:+.3f} .. {row.high:+.3f}"
    return row.module, row.quantity, str(row.t), f"{row.slope:+.3f}", interval, f"{low} .. {high}", status


def _by_width(report: CoordReport) -> list[str]:
    """What could still go wrong at a larger width: loss, attention logits and relative updates after the last step."""
    last = max((h.t for h in report.health), default=0)
    lines: list[tuple[str, ...]] = [
        ("width", "probe loss", "largest attention logit", "median |dW|/|W| of the matrices")
    ]
    for width in report.settings["widths"]:
        runs = [h for h in report.health if h.width == width and h.t == last]
        if not runs:
            lines.append((str(width), "-", "-", "-"))
            continue
        logits = [v for h in runs for v in h.logits.values()]
        matrix = [m.ratio for m in report.moved if m.width == width and m.t == last and m.weight_rms]
        lines.append(
            (
                str(width),
                f"{statistics.fmean(h.loss for h in runs):.4g}",
                f"{max(logits):.3g}" if logits else "-",
                f"{statistics.median(matrix):.3g}" if matrix else "-",
            )
        )
    return columns(lines)
