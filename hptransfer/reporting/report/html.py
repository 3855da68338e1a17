"""report.html: one self-contained page made from a TransferResult. Needs no network and no training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.checks.coord.report import CoordReport
from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.files import write_whole
from hptransfer.reporting import words
from hptransfer.reporting.page import number, rate, render_page
from hptransfer.reporting.report import figures
from hptransfer.reporting.report.advice import advice
from hptransfer.reporting.report.coordinates import coord_info, coord_rows, coordinate_figure
from hptransfer.reporting.report.downloads import downloads
from hptransfer.reporting.report.info import curves_info, gap_info, loss_axis, optima_info, schemes_of
from hptransfer.reporting.report.measures import measure_rows
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.settings.vector import value_of


def render_report(result: TransferResult) -> str:
    """The page as text."""
    coord, coord_note = read_coord(result)
    return render_page(
        "report.html",
        series=len(result.sizes),
        result=result,
        headline=words.headline(result),
        advice=advice(result),
        downloads=downloads(result),
        facts=words.facts(result),
        measures=measure_rows(result),
        figures=draw(result) | ({"coord": draw_coord(coord)} if coord else {}),
        schemes=schemes_of(result),
        plan=plan_lines(result.plan),
        coord=coord,
        coord_note=coord_note,
        coord_rows=coord_rows(coord) if coord else (),
        larger=larger_summary(result),
        run_counts=run_counts(result),
        run_lines=run_lines(result),
    )


def write_report(result: TransferResult, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path` and return it. Raises UsageError where it cannot be written."""
    return write_whole(path, render_report(result))


def write_figure(result: TransferResult, path: str | os.PathLike[str]) -> Path:
    """Write the loss curves as an SVG file and return its path. Raises UsageError where it cannot be written."""
    return write_whole(path, figures.overview(result))


def draw(result: TransferResult) -> dict[str, Any]:
    """Name -> SVG element(s) of every figure that the result has data for."""
    panels = [curves_info(result, scheme) for scheme in schemes_of(result)]
    measured = any(point.losses for panel in panels for curve in panel.curves for point in curve.points)
    panels = [panel for panel in panels if panel.curves and measured]
    axis = loss_axis(panels)
    drawn: dict[str, Any] = {"curves": [figures.loss_curves(p, axis, name=f"curves-{p.scheme}") for p in panels]}
    optima, gaps = optima_info(result), gap_info(result)
    if optima:
        about = {"scheme": result.scheme, "tolerance": result.tolerance, "axis": result.axis}
        drawn["optimum"] = figures.optimum_by_size(optima, **about, setting=result.swept, name="optimum")
    if gaps.gaps:
        drawn["gap"] = figures.loss_gap(gaps, scheme=result.scheme, axis=result.axis, name="gap")
    return drawn


def read_coord(result: TransferResult) -> tuple[CoordReport | None, str]:
    """The result's coordinate check, or None and, where another version wrote it, a sentence that says so."""
    if not result.coord:
        return None, ""
    try:
        return CoordReport.from_json(result.coord), ""
    except UsageError as error:
        return None, f"The coordinate check in these files is left out, for this version cannot read it. {error}"


def draw_coord(report: CoordReport) -> list[str]:
    """The panels of the coordinate check as SVG elements."""
    return [coordinate_figure(panel, name=f"coord-{panel.quantity}") for panel in coord_info(report)]


def plan_lines(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plan's rows as the table shows them; rows that differ only in a block's index share a line."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in plan.get("rows", ()):
        name = ".".join("*" if part.isdigit() else part for part in row["name"].split("."))
        numbers = tuple(f"{row[key]:.4g}" for key in ("init_mult", "lr_mult", "wd_mult", "eps_mult", "fwd_mult"))
        shape = "×".join(map(str, row["shape"])) or "scalar"
        line = {"shape": shape, "role": row["role"], "numbers": numbers, "why": "; ".join(row["why"])}
        found = lines.setdefault((name, *line.values()), {**line, "name": row["name"], "pattern": name, "count": 0})
        found["count"] += 1
    return list(lines.values())


def larger_summary(result: TransferResult) -> list[dict[str, Any]]:
    """Per scheme: at how many (learning rate, pair of sizes) the larger model was no worse, and where it was worse."""
    rows: list[dict[str, Any]] = []
    for scheme in schemes_of(result):
        pairs = [p for p in result.larger_is_better if p.scheme == scheme]
        worse = [f"{p.small} → {p.large} at {rate(p.lr)} ({words.signed(p.difference)})" for p in pairs if not p.ok]
        if pairs:
            rows.append({"scheme": scheme, "ok": len(pairs) - len(worse), "all": len(pairs), "worse": worse})
    return rows


def run_counts(result: TransferResult) -> list[tuple[str, int]]:
    """(state, number of runs), most frequent first, without states that did not occur."""
    states: Sequence[str] = [run.state for run in result.runs]
    return sorted(((s, states.count(s)) for s in set(states)), key=lambda pair: (-pair[1], pair[0]))


def run_lines(result: TransferResult) -> list[dict[str, Any]]:
    """Every run as the table shows it; numbers: (text, value to sort by) of size, rate or factor, seed and losses."""
    lines: list[dict[str, Any]] = []
    for run in result.runs:
        size, value = getattr(run, result.axis), value_of(run, result.swept)
        shown = [(f"{size:g}", size), (f"{value:.4g}", value), (str(run.seed), run.seed)]
        shown += [
            (number(loss), loss) if math.isfinite(loss) else ("–", math.inf) for loss in (run.val_loss, run.train_loss)
        ]
        rest = {"state": run.state, "seconds": run.seconds, "error": bounded(run.error or "")}
        lines.append({"scheme": words.short_name(run.scheme), "numbers": shown, **rest})
    return lines
