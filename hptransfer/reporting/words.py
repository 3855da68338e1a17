"""The verdict in plain words and its numbers in the form that people read, for the page and the terminal."""

from __future__ import annotations

import math
from typing import NamedTuple

from hptransfer.validation.results import Drift, Optimum, Regret, TransferResult


class Fact(NamedTuple):
    """One headline number: what it is, its value, and what it means."""

    label: str
    value: str
    detail: str


def headline(result: TransferResult) -> str:
    """One sentence: does the learning rate transfer?"""
    span = f"from width {min(result.widths)} to {max(result.widths)}" if result.widths else "over width"
    name = short_name(result.scheme)
    return {
        "PASS": f"The learning rate transfers under {name} {span}.",
        "FAIL": f"The check of {name} {span} failed.",
        "INCONCLUSIVE": f"This check cannot tell whether the learning rate transfers under {name} {span}.",
    }[result.verdict]


def short_name(scheme: str) -> str:
    """A scheme's name for running text."""
    return {"sp": "SP", "mup": "muP"}.get(scheme, scheme)


def facts(result: TransferResult) -> tuple[Fact, ...]:
    """Drift and regret of every scheme, the checked one first, and its loss gap to tuned SP at the largest width."""
    order = [s for s in (result.scheme, result.against) if s]
    drifts = sorted((d for d in result.drifts if d.scheme in order), key=lambda d: order.index(d.scheme))
    regrets = sorted((r for r in result.regrets if r.scheme in order), key=lambda r: order.index(r.scheme))
    found = [*map(_drift, drifts), *(_regret(r, result) for r in regrets)]
    widest = max(result.loss_gaps, key=lambda g: g.width, default=None)
    if widest is not None:
        detail = f"at width {widest.width}, both tuned there; {interval(widest.low, widest.high)}"
        found.append(
            Fact(
                f"{short_name(result.scheme)} less SP",
                signed(widest.mup_minus_sp),
                f"{detail}; noise allows {number(widest.tolerance)}",
            )
        )
    return tuple(found)


def _drift(drift: Drift) -> Fact:
    label = f"{short_name(drift.scheme)}: the optimum moved"
    return Fact(
        label, f"{drift.octaves:+.2f} octaves", f"smallest to largest width; {interval(drift.low, drift.high, '+.2f')}"
    )


def _regret(regret: Regret, result: TransferResult) -> Fact:
    label = f"{short_name(regret.scheme)}: transferring costs"
    if not math.isfinite(regret.loss):
        return Fact(
            label, "divergence", f"width {max(result.widths)} diverges at width {min(result.widths)}'s best rate"
        )
    where = f"loss at width {max(result.widths)} with width {min(result.widths)}'s best rate"
    return Fact(label, signed(regret.loss), f"{where}; {interval(regret.low, regret.high, '+.3g')}")


def interval(low: float, high: float, form: str = ".3g") -> str:
    """A 90% interval."""
    return f"90% interval {low:{form}} to {high:{form}}"


def number(value: float) -> str:
    """A number to three significant digits."""
    return f"{value:.3g}"


def signed(value: float) -> str:
    """A difference of losses: its sign and three significant digits."""
    return f"{value:+.3g}"


def optimum_text(optimum: Optimum) -> str:
    """The optimal learning rate: the power of two, its interval, and whether the grid ended there."""
    if not math.isfinite(optimum.log2_lr):
        return "none (every run diverged)"
    edge = ", at the edge of the grid" if optimum.at_edge else ""
    return f"2^{optimum.log2_lr:.2f} ({optimum.low:.2f} to {optimum.high:.2f}){edge}"


def table(result: TransferResult) -> str:
    """The verdict for a terminal: one line per width, then the drift and regret, the gaps, and the reasons."""
    schemes = [s for s in (result.scheme, result.against) if s]
    rows = [("width", *(f"{short_name(s)} optimum, loss" for s in schemes), "gap" if result.loss_gaps else "")]
    gaps = {g.width: g for g in result.loss_gaps}
    for width in result.widths:
        cells = [_cell(result, scheme, width) for scheme in schemes]
        gap = gaps.get(width)
        rows.append((str(width), *cells, f"{signed(gap.mup_minus_sp)}{'' if gap.ok else ' (worse)'}" if gap else ""))
    columns = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, columns, strict=True)).rstrip() for row in rows]
    lines += ["", *(f"{fact.label} {fact.value} ({fact.detail})" for fact in facts(result))]
    return "\n".join(
        [*lines, "", f"{result.verdict}: {headline(result)}", *(f"  - {reason}" for reason in result.reasons)]
    )


def _cell(result: TransferResult, scheme: str, width: int) -> str:
    try:
        found = result.optimum(scheme, width)
    except KeyError:
        return "-"
    return f"{optimum_text(found)}, {number(found.loss)}"
