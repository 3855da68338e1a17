"""The coordinate check as a figure and a table: does each module's output, and its change, keep its size over width?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from hptransfer.checks.coord.report import CoordReport
from hptransfer.checks.coord.rows import NOT_FINITE, Quantity, Row
from hptransfer.reporting import svg

STATES = {True: "ok", False: "fails", None: "undecided"}
_COLOURS = {"fails": svg.BAD, "undecided": svg.CONTROL, "ok": svg.SCHEME, "not judged": svg.MUTED}
"""State -> colour, the most urgent state first."""


class Line(NamedTuple):
    """One module: (width, geometric mean over seeds relative to that at the smallest width), and how it was judged.

    state: the worst over all steps, as the table shows it. broken: widths at which a seed's value was zero or not
    finite, so that the line has no point there. row: of this step.
    """

    module: str
    points: tuple[tuple[int, float], ...]
    state: str
    row: Row | None
    broken: tuple[int, ...] = ()


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
    values: dict[str, dict[int, list[float]]] = {}
    for record in report.records:
        value = record.value(quantity)
        if record.t == t and value is not None:
            values.setdefault(record.module, {}).setdefault(record.width, []).append(value)
    rows = {row.module: row for row in report.rows if (row.quantity, row.t) == (quantity, t)}
    states = {row.module: row.state for row in coord_rows(report) if row.quantity == quantity}
    for module, by_width in values.items():
        broken = tuple(sorted(w for w, seen in by_width.items() if not all(0 < v < math.inf for v in seen)))
        means = [(w, sum(map(math.log, seen)) / len(seen)) for w, seen in sorted(by_width.items()) if w not in broken]
        points = tuple((width, math.exp(mean - means[0][1])) for width, mean in means)
        state = states.get(module, "not judged")
        if points or state == "fails":
            yield Line(module, points, state, rows.get(module), broken)


def state_of(row: Row | None) -> str:
    """How a row was judged, in a word: values that are not finite fail the check, though they have no exponent."""
    if row is None or not row.judged:
        return "not judged"
    return "fails" if row.reason.startswith(NOT_FINITE) else STATES[row.ok]


def coord_rows(report: CoordReport) -> tuple[CoordRow, ...]:
    """Every judged (module, quantity) at the step where it is nearest to its limit or furthest beyond, worst first."""
    worst: dict[tuple[str, str], Row] = {}
    for row in (row for row in report.rows if row.judged):
        found = worst.get((row.module, row.quantity))
        if found is None or _urgency(row) > _urgency(found):
            worst[row.module, row.quantity] = row
    return tuple(_shown(row) for row in sorted(worst.values(), key=_urgency, reverse=True))


def _urgency(row: Row) -> tuple[int, float]:
    return -list(_COLOURS).index(state_of(row)), row.excess if math.isfinite(row.excess) else math.inf


def _shown(row: Row) -> CoordRow:
    if math.isnan(row.slope):
        return CoordRow(row.module, row.quantity, row.t, "none", "", "", state_of(row), row.reason)
    low = "any" if row.allowed_low is None else f"{row.allowed_low:+.2f}"
    high = "any" if row.allowed_high is None else f"{row.allowed_high:+.2f}"
    interval = f"{row.low:+.2f} to {row.high:+.2f}"
    numbers = (f"{row.slope:+.2f}", interval, f"{low} to {high}")
    return CoordRow(row.module, row.quantity, row.t, *numbers, state_of(row), row.reason)


def coordinate_figure(panel: CoordPanel, *, name: str) -> str:
    """One panel as an SVG element: relative size against width on log axes, a line per module."""
    with svg.drawing(5.0, 3.7) as (figure, (ax,)):
        draw_panel(ax, panel)
        worst = [f"{line.module}: {line.state}" for line in panel.lines if line.state in STRONG]
        said = "; ".join(worst[:5]) or "every judged module keeps within its limits"
        told = f"{_title(panel)} against width, {len(panel.lines)} modules. {said}"
        hover = {f"line-{i}": [line_text(line)] for i, line in enumerate(_drawn(panel))}
        return svg.inline(figure, name, told, hover=hover)


STRONG = ("fails", "undecided")
"""Lines that are drawn strong and named first."""

NAMES_SHOWN = 8
"""How many lines carry their module's name; the others tell it to a pointer."""


def _drawn(panel: CoordPanel) -> list[Line]:
    """The lines that have points, the worst first."""
    return sorted((line for line in panel.lines if line.points), key=lambda line: list(_COLOURS).index(line.state))


def line_text(line: Line) -> str:
    """What a pointer over a line is told: the module, its exponent with interval and limits, and how it was judged."""
    if line.row is None or math.isnan(line.row.slope):
        return f"{line.module}: {line.state}"
    shown = _shown(line.row)
    return f"{line.module}: {line.state}; exponent {shown.exponent} ({shown.interval}), allowed {shown.allowed}"


def _title(panel: CoordPanel) -> str:
    if panel.quantity == "rms":
        return "Size of activations at the start"
    return f"Their change after {panel.t} step{'s' if panel.t != 1 else ''}"


def draw_panel(ax: Axes, panel: CoordPanel) -> None:
    """Draw one panel onto `ax`; dotted guides show width^(1/2) and width^(-1/2)."""
    widths = sorted({width for line in panel.lines for width in (*(w for w, _ in line.points), *line.broken)})
    drawn = _drawn(panel)
    ax.set_title(_title(panel))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_ylim(*_limits(panel))
    for index, line in reversed(list(enumerate(drawn))):
        x, y = zip(*line.points, strict=True)
        strong = line.state in STRONG
        style = {"lw": 2.2 if strong else 1.3, "alpha": 1.0 if strong else 0.75, "marker": "o", "ms": 2.5}
        ax.plot(x, y, color=_COLOURS[line.state], zorder=3, gid=f"line-{index}", **style)
    _mark_broken(ax, panel)
    _name_lines(ax, drawn[:NAMES_SHOWN], widths)
    for state in (s for s in _COLOURS if any(line.state == s for line in panel.lines)):
        count = sum(line.state == state for line in panel.lines)
        ax.plot([], [], color=_COLOURS[state], lw=2.2, label=f"{state} ({count})")
    if len(widths) > 1:
        for power in (0.5, -0.5):
            guide = [(w / widths[0]) ** power for w in widths]
            ax.plot(widths, guide, color=svg.MUTED, lw=1, ls=(0, (1, 2.5)), zorder=1)
            place = {"textcoords": "offset points", "ha": "right", "va": "bottom", "color": svg.MUTED, "fontsize": 9}
            ax.annotate("w⁺½" if power > 0 else "w⁻½", (widths[-1], guide[-1]), (-4, 3), **place)
    ax.set_ylabel("relative to the smallest width")
    ax.set_xlabel("width")
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="upper left", fontsize=9)


def _limits(panel: CoordPanel) -> tuple[float, float]:
    """Of the axis: all points, and room for the guides."""
    values = [y for line in panel.lines for _, y in line.points]
    return min([0.2, *(y / 1.2 for y in values)]), max([5.0, *(y * 1.2 for y in values)])


def _mark_broken(ax: Axes, panel: CoordPanel) -> None:
    """A cross at the top for every width at which a failed module's output was zero or not finite."""
    where = sorted({width for line in panel.lines if line.state == "fails" for width in line.broken})
    if where:
        ax.scatter(where, [1.0] * len(where), marker="x", color=svg.BAD, transform=ax.get_xaxis_transform(), zorder=6)
        names = [line.module for line in panel.lines if line.state == "fails" and line.broken]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        ax.plot([], [], color=svg.BAD, lw=0, marker="x", label=f"zero or not finite: {', '.join(names[:3])}{more}")


def _name_lines(ax: Axes, lines: Sequence[Line], widths: Sequence[int]) -> None:
    """Modules' names right of the last width, near their lines' ends and apart from one another."""
    low, high = (math.log(limit) for limit in ax.get_ylim())
    gap = (high - low) / 16
    ends = sorted(lines, key=lambda line: line.points[-1][1])
    heights = _apart([math.log(line.points[-1][1]) for line in ends], gap, low, high)
    for line, height in zip(ends, heights, strict=True):
        name = line.module if len(line.module) <= 22 else "…" + line.module[-21:]
        ax.annotate(
            name,
            (widths[-1], math.exp(height)),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_COLOURS[line.state] if line.state in STRONG else svg.MUTED,
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as least squares allows, at least `gap` apart, within (low, high).

    Less i x gap they must not descend: isotonic regression, by pooling neighbours that do.
    """
    pools: list[tuple[float, int]] = []  # mean of a pool, and its size
    for i, height in enumerate(heights):
        mean, size = height - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    level = [mean for mean, size in pools for _ in range(size)]
    top = high - (len(level) - 1) * gap
    return [min(max(mean, low), max(top, low)) + i * gap for i, mean in enumerate(level)]
