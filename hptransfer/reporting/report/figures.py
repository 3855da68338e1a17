"""The report's figures: each draws one info tuple and returns an SVG element. Nothing here trains or reads files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from hptransfer.core.training.recipe import Axis
from hptransfer.reporting import svg
from hptransfer.reporting.report.info import (
    CurvesInfo,
    GapInfo,
    LossAxis,
    OptimaInfo,
    Point,
    curves_info,
    loss_axis,
    superscript,
)
from hptransfer.reporting.words import short_name
from hptransfer.validation.records.results import LossGap, Optimum, TransferResult
from hptransfer.validation.settings.setting import RATE, Setting


def scheme_name(scheme: str) -> str:
    """How a scheme is called in the report."""
    return "SP (one global learning rate)" if scheme == "sp" else short_name(scheme)


def loss_curves(info: CurvesInfo, axis: LossAxis, *, name: str) -> str:
    """Loss against learning rate, one line per size: mean over seeds, seeds as dots, optimum with its interval."""
    with svg.drawing(5.0, 3.9) as (figure, (ax,)):
        draw_curves(ax, info, axis)
        ax.set_ylabel("validation loss")
        return svg.inline(figure, name, describe_curves(info), hover=_add_hover(ax, info, axis))


def axis_words(setting: Setting) -> str:
    """What an axis of its values is called."""
    return f"{setting.words} (of the base)" if setting.is_rate else f"{setting.words} (times the base's)"


def _add_hover(ax: Axes, info: CurvesInfo, axis: LossAxis) -> dict[str, list[str]]:
    """Invisible discs over the means and optima that tell their values; gid -> texts, as svg.inline takes them."""
    hover: dict[str, list[str]] = {}
    for curve in info.curves:
        told = [(p.log2_lr, p.mean, _point_text(info, curve.size, p)) for p in curve.points if p.losses]
        if curve.optimum:
            told.append((curve.optimum.log2_lr, curve.optimum.loss, _optimum_text(info, curve.optimum)))
        shown = [(x, y, text) for x, y, text in told if axis.low <= y <= axis.high]
        if shown:
            x, y, texts = zip(*shown, strict=True)
            gid = f"hover-{curve.place}"
            ax.scatter(x, y, s=140, color=svg.series(curve.place), alpha=0.0, lw=0, zorder=9, gid=gid)
            hover[gid] = list(texts)
    return hover


def _point_text(info: CurvesInfo, size: int, point: Point) -> str:
    losses = ", ".join(f"{loss:.4g}" for loss in point.losses)
    lost = [f"{n} {state}" for state in MARKS if (n := getattr(point, state))]
    seeds = f"{losses}{'; ' if lost else ''}{', '.join(lost)}"
    at = f"{info.setting.words} {info.setting.shown(2**point.log2_lr)}"
    return f"{info.axis} {size}, {at}: mean loss {point.mean:.4g} ({seeds})"


def _optimum_text(info: CurvesInfo, best: Optimum) -> str:
    at = f"{info.setting.words} {info.setting.shown(2**best.log2_lr)}"
    where = f"{info.axis} {best.size}, optimum at {at} (2^{best.log2_lr:.2f}"
    return f"{where}, 90% interval 2^{best.low:.2f} to 2^{best.high:.2f}): loss {best.loss:.4g}"


def describe_curves(info: CurvesInfo) -> str:
    """The figure in words: the optimum of every size."""
    best = [f"{info.axis} {c.size}: best at 2^{c.optimum.log2_lr:.2f}" for c in info.curves if c.optimum]
    return f"Validation loss against {info.setting.words} for {scheme_name(info.scheme)}. " + "; ".join(best)


def draw_curves(ax: Axes, info: CurvesInfo, axis: LossAxis) -> None:
    """Draw one panel onto `ax`."""
    for curve in info.curves:
        colour = svg.series(curve.place)
        known = [p for p in curve.points if p.losses]
        ax.plot([p.log2_lr for p in known], [p.mean for p in known], color=colour, lw=1.8, zorder=3)
        dots = [(p.log2_lr, loss) for p in curve.points for loss in p.losses]
        ax.scatter(*zip(*dots, strict=True), color=colour, s=9, alpha=0.35, lw=0, zorder=2) if dots else None
        for state, marker in MARKS.items():
            _mark(ax, curve.place, [p.log2_lr for p in curve.points if getattr(p, state)], marker, colour)
        if curve.optimum:
            best = curve.optimum
            span = [[max(0.0, best.log2_lr - best.low)], [max(0.0, best.high - best.log2_lr)]]
            ax.errorbar([best.log2_lr], [best.loss], xerr=span, color=colour, lw=2.4, capsize=3.5, zorder=4)
            ax.scatter([best.log2_lr], [best.loss], s=46, color=svg.PAPER, edgecolor=colour, lw=2, zorder=5)
    ax.set_title(scheme_name(info.scheme))
    ax.set_xlabel(axis_words(info.setting))
    _lr_ticks(ax, [p.log2_lr for c in info.curves for p in c.points])
    _loss_scale(ax, axis)


MARKS = {"diverged": "x", "pruned": "_", "failed": "s"}
"""How a run that gave no loss is marked."""


def _mark(ax: Axes, index: int, where: Sequence[float], marker: str, colour: str) -> None:
    """Marks above the axis at learning rates where a seed ended without a loss, a row per size."""
    heights = [1.0 - 0.028 * index] * len(where)
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": colour} if marker == "s" else {"color": colour}
    if where:
        ax.scatter(where, heights, marker=marker, s=24, lw=1.6, transform=ax.get_xaxis_transform(), zorder=6, **style)


def _lr_ticks(ax: Axes, log2_lrs: Sequence[float]) -> None:
    if not log2_lrs:
        return
    low, high = math.floor(min(log2_lrs)), math.ceil(max(log2_lrs))
    step = max(1, math.ceil((high - low) / 9))
    ax.xaxis.set_major_locator(FixedLocator(list(range(low, high + 1, step))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: superscript(x)))
    ax.set_xlim(min(log2_lrs) - 0.4, max(log2_lrs) + 0.4)


def _loss_scale(ax: Axes, axis: LossAxis) -> None:
    if axis.log:
        ax.set_yscale("log")
        first = math.floor(math.log10(axis.low))
        ticks = [m * 10.0**e for e in range(first, first + 8) for m in (1, 2, 5)]
        ax.yaxis.set_major_locator(FixedLocator([t for t in ticks if axis.low <= t <= axis.high]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: svg.minus(f"{y:g}")))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.set_ylim(axis.low, axis.high)


def optimum_by_size(
    infos: Sequence[OptimaInfo],
    *,
    scheme: str,
    tolerance: float,
    axis: Axis = "width",
    setting: Setting = RATE,
    name: str,
) -> str:
    """The optimum against width or depth with its interval; the band is what the tolerance allows."""
    with svg.drawing(5.0, 3.6) as (figure, (ax,)):
        draw_optima(ax, infos, scheme=scheme, tolerance=tolerance, axis=axis, setting=setting)
        words = [f"{scheme_name(i.scheme)} at {axis} {o.size}: 2^{o.log2_lr:.2f}" for i in infos for o in i.optima]
        hover = {f"hover-{i}": [_optimum_of(x.scheme, axis, o) for o in x.optima] for i, x in enumerate(infos)}
        return svg.inline(figure, name, f"Optimal {setting.words} against {axis}. " + "; ".join(words), hover=hover)


def _optimum_of(scheme: str, axis: Axis, best: Optimum) -> str:
    interval = f"90% interval 2^{best.low:.2f} to 2^{best.high:.2f}"
    return f"{scheme_name(scheme)}, {axis} {best.size}: {2**best.log2_lr:.4g} (2^{best.log2_lr:.2f}, {interval})"


def draw_optima(
    ax: Axes,
    infos: Sequence[OptimaInfo],
    *,
    scheme: str,
    tolerance: float,
    axis: Axis = "width",
    setting: Setting = RATE,
) -> None:
    """Draw the optimum against width or depth onto `ax`."""
    sizes = sorted({o.size for info in infos for o in info.optima})
    for index, info in enumerate(infos):
        checked = info.scheme == scheme
        colour = svg.SCHEME if checked else svg.CONTROL
        x = [math.log2(o.size) + (0.03 if checked else -0.03) for o in info.optima]
        y = [o.log2_lr for o in info.optima]
        span = [[max(0.0, o.log2_lr - o.low) for o in info.optima], [max(0.0, o.high - o.log2_lr) for o in info.optima]]
        if checked:
            ax.axhspan(y[0] - tolerance, y[0] + tolerance, color=colour, alpha=0.12, lw=0, zorder=1)
        ax.errorbar(
            *(x, y),
            yerr=span,
            color=colour,
            lw=2,
            ls="-" if checked else (0, (4, 2.5)),
            marker="o" if checked else "s",
            ms=6.5,
            mfc=svg.PAPER,
            mew=2,
            capsize=3.5,
            zorder=3,
            label=scheme_name(info.scheme),
        )
        ax.scatter(x, y, s=140, color=colour, alpha=0.0, lw=0, zorder=9, gid=f"hover-{index}")
    ax.set_title(f"Optimal {setting.words}")
    _size_ticks(ax, sizes, axis)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: superscript(y)))
    ax.set_ylabel(axis_words(setting))
    ax.legend(loc="best")


def _size_ticks(ax: Axes, sizes: Sequence[int], axis: Axis) -> None:
    ax.xaxis.set_major_locator(FixedLocator([math.log2(s) for s in sizes]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: str(round(2.0**x))))
    ax.set_xlabel(axis)


def loss_gap(info: GapInfo, *, scheme: str, axis: Axis = "width", name: str) -> str:
    """Tuned loss of the scheme less tuned SP's, per size; the shaded part is what seed noise allows."""
    with svg.drawing(5.0, 3.6) as (figure, (ax,)):
        x = [math.log2(g.size) for g in info.gaps]
        limits = [g.tolerance for g in info.gaps]
        ax.fill_between(x, [0.0] * len(x), limits, color=svg.GOOD, alpha=0.14, lw=0, label="within seed noise")
        ax.axhline(0.0, color=svg.CONTROL, lw=1.6, ls=(0, (4, 2.5)), label="tuned SP")
        label = f"tuned {scheme_name(scheme)}"
        _gap_points(ax, [g for g in info.gaps if not g.worse], svg.SCHEME, "o", label)
        _gap_points(ax, [g for g in info.gaps if g.worse], svg.BAD, "D", f"{label}, worse than noise allows")
        ax.set_title(f"Tuned loss, {scheme_name(scheme)} less SP")
        ax.set_ylabel("difference in loss")
        _size_ticks(ax, [g.size for g in info.gaps], axis)
        ax.margins(x=0.12, y=0.15)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.4 * (high - low))
        ax.legend(loc="upper left")
        words = [f"{axis} {g.size}: {g.mup_minus_sp:+.4f}" for g in info.gaps]
        y = [g.mup_minus_sp for g in info.gaps]
        ax.scatter(x, y, s=140, color=svg.SCHEME, alpha=0.0, lw=0, zorder=9, gid="hover")
        told = [
            f"{axis} {g.size}: {g.mup_minus_sp:+.4g} (90% interval {g.low:+.4g} to {g.high:+.4g})" for g in info.gaps
        ]
        return svg.inline(figure, name, "Difference of tuned losses. " + "; ".join(words), hover={"hover": told})


def _gap_points(ax: Axes, gaps: Sequence[LossGap], colour: str, marker: str, label: str) -> None:
    """Differences with their intervals; none where the noise is not known."""
    if not gaps:
        return
    x, y = [math.log2(g.size) for g in gaps], [g.mup_minus_sp for g in gaps]
    below = [max(0.0, g.mup_minus_sp - g.low) for g in gaps]
    above = [max(0.0, g.high - g.mup_minus_sp) for g in gaps]
    style = {"fmt": marker, "color": colour, "mfc": svg.PAPER, "ms": 6.5, "mew": 2, "lw": 2, "capsize": 3.5}
    ax.errorbar(x, y, yerr=[below, above], label=label, **style)


def overview(result: TransferResult) -> str:
    """The loss curves of all schemes side by side as an SVG file of its own, for a README or a slide."""
    panels = [curves_info(result, scheme) for scheme in dict.fromkeys((result.against, result.scheme)) if scheme]
    axis = loss_axis(panels)
    with svg.drawing(9.6, 3.9, len(panels), share_y=True) as (figure, axes):
        for ax, panel in zip(axes, panels, strict=True):
            draw_curves(ax, panel, axis)
        axes[0].set_ylabel("validation loss")
        for curve in panels[-1].curves:
            axes[-1].plot([], [], color=svg.series(curve.place), lw=2.4, label=str(curve.size))
        axes[-1].legend(title=result.axis, loc="upper right", bbox_to_anchor=(1.2, 1.0))
        drawn = svg.inline(figure, "overview", " ".join(describe_curves(panel) for panel in panels))
    return svg.standalone(drawn, len(result.sizes))
