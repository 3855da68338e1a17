"""The coordinate check as a figure and a table: does each module's output, and its change, keep its size over width?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from hptransfer.checks.coord.report import CoordReport
from hptransfer.checks.coord.rows import Quantity, Row
from hptransfer.reporting import svg

STATES = {True: "ok", False: "fails", None: "undecided"}
_COLOURS = {"ok": svg.SCHEME, "fails": svg.BAD, "undecided": svg.CONTROL, "not judged": svg.MUTED}


class Line(NamedTuple):
    """One module: (width, geometric mean over seeds relative to that at the smallest width), and how it was judged."""

    module: str
    points: tuple[tuple[int, float], ...]
    state: str
    row: Row | None


class CoordPanel(NamedTuple):
    """One quantity at one step over all modules."""

    quantity: str
    t: int
    lines: tuple[Line, ...]


class CoordRow(NamedTuple):
    """One module and quantity at its worst step, as the table shows it."""

    module: str
    quantity: str
    t: int
    exponent: str
    interval: str
    allowed: str
    state: str
    reason: str


def coord_info(report: CoordReport) -> tuple[CoordPanel, ...]:
    """The size of activations at the start, and their change after the last step."""
    last = max((record.t for record in report.records), default=0)
    wanted: list[tuple[Quantity, int]] = [("rms", 0), *([("change", last)] if last else [])]
    return tuple(CoordPanel(quantity, t, tuple(_lines(report, quantity, t))) for quantity, t in wanted)


def _lines(report: CoordReport, quantity: Quantity, t: int) -> Iterable[Line]:
    found: dict[str, dict[int, list[float]]] = {}
    for record in report.records:
        value = record.value(quantity)
        if record.t == t and value is not None and 0 < value < math.inf:
            found.setdefault(record.module, {}).setdefault(record.width, []).append(math.log(value))
    rows = {row.module: row for row in report.rows if (row.quantity, row.t) == (quantity, t)}
    for module, by_width in found.items():
        means = [(width, sum(logs) / len(logs)) for width, logs in sorted(by_width.items())]
        row = rows.get(module)
        points = tuple((width, math.exp(mean - means[0][1])) for width, mean in means)
        yield Line(module, points, state_of(row), row)


def state_of(row: Row | None) -> str:
    """How a row was judged, in a word."""
    return STATES[row.ok] if row is not None and row.judged else "not judged"


def coord_rows(report: CoordReport) -> tuple[CoordRow, ...]:
    """Every judged (module, quantity) at the step where it is nearest to its limit or furthest beyond, worst first."""
    worst: dict[tuple[str, str], Row] = {}
    for row in (row for row in report.rows if row.judged):
        found = worst.get((row.module, row.quantity))
        if found is None or _urgency(row) > _urgency(found):
            worst[row.module, row.quantity] = row
    return tuple(_shown(row) for row in sorted(worst.values(), key=_urgency, reverse=True))


def _urgency(row: Row) -> tuple[int, float]:
    return {False: 2, None: 1, True: 0}[row.ok], row.excess if math.isfinite(row.excess) else math.inf


def _shown(row: Row) -> CoordRow:
    if math.isnan(row.slope):
        return CoordRow(row.module, row.quantity, row.t, "none", "", "", state_of(row), row.reason)
    low = "any" if row.allowed_low is None else f"{row.allowed_low:+.2f}"
    high = "any" if row.allowed_high is None else f"{row.allowed_high:+.2f}"
    interval = f"{row.low:+.2f} to {row.high:+.2f}"
    return CoordRow(
        row.module, row.quantity, row.t, f"{row.slope:+.2f}", interval, f"{low} to {high}", state_of(row), row.reason
    )


def coordinate_figure(panel: CoordPanel, *, name: str) -> str:
    """One panel as an SVG element: relative size against width on log axes, a line per module."""
    with svg.drawing(5.0, 3.7) as (figure, (ax,)):
        draw_panel(ax, panel)
        worst = [f"{line.module}: {line.state}" for line in panel.lines if line.state in ("fails", "undecided")]
        said = "; ".join(worst[:5]) or "every judged module keeps within its limits"
        return svg.inline(figure, name, f"{_title(panel)} against width, {len(panel.lines)} modules. {said}")


def _title(panel: CoordPanel) -> str:
    if panel.quantity == "rms":
        return "Size of activations at the start"
    return f"Their change after {panel.t} step{'s' if panel.t != 1 else ''}"


def draw_panel(ax: Axes, panel: CoordPanel) -> None:
    """Draw one panel onto `ax`; dotted guides show width^(1/2) and width^(-1/2)."""
    widths = sorted({width for line in panel.lines for width, _ in line.points})
    for line in sorted(panel.lines, key=lambda found: list(_COLOURS).index(found.state), reverse=True):
        x, y = zip(*line.points, strict=True)
        strong = line.state in ("fails", "undecided")
        ax.plot(x, y, color=_COLOURS[line.state], lw=2.2 if strong else 1.3, alpha=1.0 if strong else 0.55, zorder=3)
    for state in (s for s in _COLOURS if any(line.state == s for line in panel.lines)):
        count = sum(line.state == state for line in panel.lines)
        ax.plot([], [], color=_COLOURS[state], lw=2.2, label=f"{state} ({count})")
    if len(widths) > 1:
        for power in (0.5, -0.5):
            guide = [(w / widths[0]) ** power for w in widths]
            ax.plot(widths, guide, color=svg.MUTED, lw=1, ls=(0, (1, 2.5)), zorder=1)
            place = {"textcoords": "offset points", "ha": "left", "va": "center", "color": svg.MUTED, "fontsize": 9}
            ax.annotate("w⁺½" if power > 0 else "w⁻½", (widths[-1], guide[-1]), (9, 0), **place, annotation_clip=False)
    ax.set_title(_title(panel))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_ylabel("relative to the smallest width")
    ax.set_xlabel("width")
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.2), max(high, 5.0))
    ax.legend(loc="upper left", fontsize=9)
