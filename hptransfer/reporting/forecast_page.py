"""prediction.html: a forecast as one self-contained page, the advised rate first. Needs no network and no training."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.ticker import FuncFormatter, MaxNLocator

from hptransfer.core.files import write_whole
from hptransfer.prediction.forecast.forecast import Forecast
from hptransfer.prediction.provenance import Prediction
from hptransfer.reporting import svg
from hptransfer.reporting.page import render_page
from hptransfer.reporting.report.info import superscript
from hptransfer.validation.forecasts.against import Score

PAGE_FILE = "prediction.html"


class StepRow(NamedTuple):
    """A line of the derivation, as text; cells are empty where the step has no number."""

    number: int
    title: str
    value: str
    interval: str
    law: str
    source: str
    assumptions: str
    basis: str


class RateInfo(NamedTuple):
    """The base's curve (log2 lr, mean loss; finite ones), where runs diverged, and log2 of the rates drawn onto it."""

    curve: tuple[tuple[float, float], ...]
    diverged: tuple[float, ...]
    optimum: float
    low: float | None
    high: float | None
    advised: float
    cliff: tuple[float, float] | None


def step_rows(made: Forecast) -> tuple[StepRow, ...]:
    """The numbered derivation."""
    return tuple(_row(i, s.title, s.prediction, s.text) for i, s in enumerate(made.steps, start=1))


def _row(number: int, title: str, p: Prediction | None, text: str) -> StepRow:
    if p is None:
        return StepRow(number, title, "", "", text, "", "", "")
    value = f"{p.value:.4g}" + ("" if p.unit == "1" else f" {p.unit}")
    return StepRow(number, title, value, limits(p), p.law, p.source, "; ".join(p.assumptions), str(p.kind))


def limits(p: Prediction) -> str:
    """The interval in words; empty where there is none, open ends named."""
    if p.low is None and p.high is None:
        return ""
    ends = ("-" if end is None else f"{end:.3g}" for end in (p.low, p.high))
    return " to ".join(ends)


def rate_info(made: Forecast) -> RateInfo | None:
    """What the figure of the base shows; None where no sweep was made. The advised rate is the target's."""
    start = made.steps[0].prediction
    if not made.base_curve or start is None:
        return None
    low, high = (None if end is None else math.log2(end) for end in (start.low, start.high))
    curve = tuple((x, y) for x, y in made.base_curve if math.isfinite(y))
    diverged = tuple(x for x, y in made.base_curve if not math.isfinite(y))
    return RateInfo(curve, diverged, math.log2(start.value), low, high, math.log2(made.advised_lr), made.cliff)


def rate_figure(info: RateInfo) -> str:
    """Loss against learning rate at the base, with the optimum's interval, the advised rate and the cliff."""
    with svg.drawing(5.4, 4.2) as (figure, (ax,)):
        ax.plot(*zip(*info.curve, strict=True), color=svg.SCHEME, lw=1.8, marker="o", ms=4, label="loss at the base")
        ax.axvline(info.optimum, color=svg.SCHEME, lw=1.4, label="optimum at the base")
        if info.low is not None and info.high is not None:
            ax.axvspan(info.low, info.high, color=svg.SCHEME, alpha=0.13, lw=0, label="its 90% interval")
        ax.axvline(info.advised, color=svg.GOOD, lw=2, ls=(0, (4, 2.5)), label="advised for the target")
        if info.cliff:
            ax.axvspan(*info.cliff, color=svg.BAD, alpha=0.16, lw=0, label="divergence starts here")
        top = [1.0] * len(info.diverged)
        ax.scatter(info.diverged, top, marker="x", color=svg.BAD, transform=ax.get_xaxis_transform(), clip_on=False)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: superscript(x)))
        ax.set_xlabel("learning rate")
        ax.set_ylabel("validation loss")
        ax.set_title("Learning rate at the base")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        told = f"Loss at the base: optimum 2^{info.optimum:.2f}, advised for the target 2^{info.advised:.2f}."
        return svg.inline(figure, "rate", told)


def schedule_figure(made: Forecast) -> str:
    """The target's learning rate over its run."""
    with svg.drawing(5.4, 3.8) as (figure, (ax,)):
        progress = [100 * x for x, _ in made.schedule_factors]
        ax.plot(progress, [made.advised_lr * y for _, y in made.schedule_factors], color=svg.GOOD, lw=2)
        ax.set_xlabel("progress of the run, %")
        ax.set_ylabel("learning rate")
        ax.set_ylim(bottom=0)
        ax.set_title("Schedule of the target")
        return svg.inline(figure, "schedule", f"The learning rate over the run, at most {made.advised_lr:.4g}.")


def render_forecast(made: Forecast, score: Score | None = None) -> str:
    """The page as text; score: what was measured afterwards."""
    info = rate_info(made)
    values: dict[str, Any] = {
        "made": made,
        "score": score,
        "rows": step_rows(made),
        "limits": limits,
        "diverged": bool(info and info.diverged),
        "rate": rate_figure(info) if info and info.curve else None,
        "schedule": schedule_figure(made) if made.schedule_factors else None,
    }
    return render_page("forecast.html", **values)


def write_forecast_page(made: Forecast, path: str | os.PathLike[str], score: Score | None = None) -> Path:
    """Write the page to `path` and return it. Raises UsageError where it cannot be written."""
    return write_whole(path, render_forecast(made, score))
