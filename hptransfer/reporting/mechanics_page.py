"""mechanics.html: every strand's question, its numbers, and a picture of theory against simulation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hptransfer.core.files import write_whole
from hptransfer.mechanics.programme.check import Curve, Strand
from hptransfer.reporting import svg
from hptransfer.reporting.page import render_page
from hptransfer.reporting.ticks import log_scale


def curve_figure(curve: Curve, name: str) -> str:
    """Theory as a line, simulation as points."""
    with svg.drawing(5.4, 3.4) as (figure, (ax,)):
        ax.plot(curve.x, curve.predicted, color=svg.SCHEME, lw=1.8, label="theory")
        ax.plot(curve.x, curve.measured, color=svg.CONTROL, lw=0, marker="o", ms=4, label="simulation")
        if curve.log:
            log_scale(ax, "x")
            log_scale(ax, "y")
        ax.set_xlabel(curve.xlabel)
        ax.set_ylabel(curve.ylabel)
        ax.legend(loc="best", fontsize=9)
        return svg.inline(figure, name, f"{curve.ylabel} over {curve.xlabel}, theory and simulation.")


def write_mechanics_page(strands: Sequence[Strand], path: str | os.PathLike[str]) -> Path:
    """Write the page and return its path. Raises UsageError where it cannot be written."""
    checks = [check for strand in strands for check in strand.checks]
    values = {
        "strands": strands,
        "figures": [curve_figure(strand.curve, strand.name) for strand in strands],
        "passed": sum(check.ok for check in checks),
        "total": len(checks),
    }
    return write_whole(path, render_page("mechanics.html", **values))
