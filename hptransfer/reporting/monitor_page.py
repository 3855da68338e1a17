"""monitor.html: a monitored run as one self-contained page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hptransfer.core.files import write_whole
from hptransfer.monitoring.collapse import curve_of
from hptransfer.monitoring.readings import Monitored, Spectrum
from hptransfer.monitoring.summary import Rows, Summary
from hptransfer.reporting import svg
from hptransfer.reporting.page import render_page
from hptransfer.reporting.ticks import log_scale

SHOWN = 8
"""Lines that one figure holds."""
MANY = 30
"""Losses that span more than this factor are drawn on a log scale."""
_NUMBER = re.compile(r"-|nan|[-+]?\d[\d.,]*(e[-+]?\d+)?")


def write_monitor_page(summary: Summary, path: str | os.PathLike[str], *, reference: Monitored | None = None) -> Path:
    """Write the page and return its path. Raises UsageError where it cannot be written."""
    values = {
        "title": summary.run.header.run or "Monitored run",
        "alarmed": summary.alarmed,
        "told": summary.parts,
        "columns": columns_of,
        "figures": drawn(summary, reference),
    }
    return write_whole(path, render_page("monitor.html", series=SHOWN, **values))


def columns_of(rows: Rows) -> list[tuple[str, str]]:
    """(heading, "n" where a column after the first holds numbers alone) of every column."""
    numeric = [i > 0 and all(_NUMBER.fullmatch(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    return [(heading, "n" if right else "") for heading, right in zip(rows[0], numeric, strict=True)]


def drawn(summary: Summary, reference: Monitored | None) -> list[tuple[str, str, str]]:
    """(title, note, SVG) of every figure that the run has readings for."""
    run = summary.run
    steps, noise = run.number("noise scale")
    edges = {edge.name: (edge.steps, edge.ratios) for edge in summary.edges if edge.ratios}
    made = [
        (
            "Loss",
            "Over the fraction of the run; the reference as it is, and fitted by a + b L.",
            _loss(summary, reference),
        )
    ]
    if edges:
        note = "Sharpness times lr over the value at which the frozen quadratic stops converging: 1 is the edge."
        made.append(("Edge of stability", note, _lines(edges, "edge", "ratio to the edge", level=1.0)))
    if noise:
        note = "Examples at which a batch's noise equals its signal."
        made.append(("Gradient noise scale", note, _lines({"": (steps, noise)}, "noise", "examples", log=True)))
    for attribute, title, note in (
        ("outputs", "Outputs", "Root mean square of every module's output."),
        ("alignment", "Alignment of weights and inputs", "1/2: random; 1: lined up."),
        ("update_alignment", "Alignment of updates and inputs", "1/2: random; 1: lined up, as muP's rates assume."),
    ):
        lines = _by_module(run, attribute)
        if lines:
            made.append((title, note, _lines(lines, attribute, title.lower(), log=attribute == "outputs")))
    for spectra, title in (
        (summary.weights, "Spectra of the weights"),
        (summary.updates, "Spectra of the last updates"),
    ):
        if any(spectrum.values for spectrum in spectra.values()):
            made.append((title, "Singular values, largest first.", _spectra(spectra, title)))
    return made


def _loss(summary: Summary, reference: Monitored | None) -> str:
    curve = curve_of(summary.run)
    with svg.drawing(5.4, 3.4) as (figure, (ax,)):
        ax.plot(curve.progress, curve.losses, color=svg.SCHEME, lw=1.6, label="this run")
        if reference is not None:
            small = curve_of(reference)
            ax.plot(small.progress, small.losses, color=svg.CONTROL, lw=1.2, label="reference")
            if summary.looks:
                last = summary.looks[-1]
                fitted = [last.offset + last.slope * loss for loss in small.losses]
                ax.plot(small.progress, fitted, color=svg.GOOD, lw=1.2, ls="--", label="reference, fitted")
        if 0 < min(curve.losses, default=0.0) * MANY < max(curve.losses, default=0.0):
            log_scale(ax, "y")
        ax.set_xlabel("fraction of the run")
        ax.set_ylabel("training loss")
        ax.legend(loc="best", fontsize=9)
        return svg.inline(figure, "loss", "Training loss over the fraction of the run.")


def _lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    name: str,
    label: str,
    *,
    level: float | None = None,
    log: bool = False,
) -> str:
    with svg.drawing(5.4, 3.4) as (figure, (ax,)):
        for place, (key, (x, y)) in enumerate(lines.items()):
            ax.plot(x, y, color=_colour(place, len(lines)), lw=1.6, marker="o", ms=3, label=key)
        if level is not None:
            ax.axhline(level, color=svg.BAD, lw=1.2, ls="--")
        if log and all(value > 0 for _, values in lines.values() for value in values):
            log_scale(ax, "y")
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        if any(lines):
            ax.legend(loc="best", fontsize=8)
        return svg.inline(figure, name, f"{label} over steps.")


def _by_module(run: Monitored, attribute: str) -> dict[str, tuple[list[float], list[float]]]:
    """Module -> (steps, values), at most SHOWN modules, evenly spaced."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for reading in run.readings:
        for module, value in getattr(reading, attribute).items():
            at, values = lines.setdefault(module, ([], []))
            at.append(reading.step)
            values.append(value)
    return {name: lines[name] for name in _shown(list(lines))}


def _spectra(spectra: Mapping[str, Spectrum], title: str) -> str:
    whole = [name for name, spectrum in spectra.items() if spectrum.values]
    with svg.drawing(5.4, 3.4) as (figure, (ax,)):
        for place, name in enumerate(shown := _shown(whole)):
            values = spectra[name].values
            at = [k / max(1, len(values) - 1) for k in range(len(values))]
            ax.plot(at, [max(v, 1e-12) for v in values], color=_colour(place, len(shown)), lw=1.6, label=name)
        log_scale(ax, "y")
        ax.set_xlabel("fraction of the singular values")
        ax.set_ylabel("singular value")
        ax.legend(loc="best", fontsize=8)
        return svg.inline(figure, title.lower().replace(" ", "-"), f"{title}.")


def _colour(place: int, count: int) -> str:
    """Colours of a figure's lines, as far apart as the palette of SHOWN allows."""
    return svg.series(round(place * (SHOWN - 1) / max(1, count - 1)))


def _shown(names: Sequence[str]) -> list[str]:
    if len(names) <= SHOWN:
        return list(names)
    return [names[round(k * (len(names) - 1) / (SHOWN - 1))] for k in range(SHOWN)]
