"""Logarithmic axes whose ticks are plain text: figures parse no mathematics, since names of modules may hold a $."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hptransfer.reporting.numerals import short_positive

FEW_DECADES = 2.2
"""Up to this many decades, 2 and 5 times a power of ten have a tick too."""


class _Ticks(LogLocator):
    """1, 2 and 5 times powers of ten, the powers alone on a long axis, and even steps within less than one."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        long = vmin > 0 and math.log10(vmax / vmin) > FEW_DECADES
        self.set_params(subs=(1.0,) if long else (1.0, 2.0, 5.0))
        return super().tick_values(vmin, vmax)


def log_scale(ax: Axes, which: Literal["x", "y"]) -> None:
    """Draw the x or y axis of `ax` on a log scale to base 10, its ticks in plain text."""
    ax.set_xscale("log") if which == "x" else ax.set_yscale("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(_Ticks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_positive(value)))
    axis.set_minor_formatter(NullFormatter())
