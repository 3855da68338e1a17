"""The verdict in plain words and its numbers in the form that people read, for the page and the terminal."""

from __future__ import annotations

import math
from typing import NamedTuple

from hptransfer.core.files import columns
from hptransfer.reporting.report.measures import measure_rows
from hptransfer.reporting.schemes import short_name, spelled
from hptransfer.validation.records.results import Drift, Optimum, Regret, TransferResult
from hptransfer.validation.settings.setting import setting_named

LARGER = {
    **{"width": "wider", "depth": "deeper", "batch": "a larger batch", "tokens": "longer"},
    **{"experts": "more experts", "active": "more active experts", "expert_width": "wider experts"},
}
"""What a model, or its training, is at a larger size."""


class Fact(NamedTuple):
    """One headline number: what it is, its value, its interval, and under what conditions it holds."""

    label: str
    value: str
    interval: str
    context: str


def headline(result: TransferResult) -> str:
    """One sentence: does the learning rate, or the setting that was swept, transfer?"""
    span = _span(result) or f"over {result.axis}"
    name, what = short_name(result.scheme), result.swept.words
    return {
        "PASS": f"The {what} transfers under {name} {span}.",
        "FAIL": f"The check of {name} {span} failed.",
        "INCONCLUSIVE": f"This check cannot tell whether the {what} transfers under {name} {span}.",
    }[result.verdict]


def _span(result: TransferResult) -> str:
    return f"from {result.axis} {min(result.sizes)} to {max(result.sizes)}" if result.sizes else ""


def facts(result: TransferResult) -> tuple[Fact, ...]:
    """Drift and regret of every scheme, the checked one first, and its loss gap to tuned SP at the largest size."""
    order = result.schemes
    drifts = sorted((d for d in result.drifts if d.scheme in order), key=lambda d: order.index(d.scheme))
    regrets = sorted((r for r in result.regrets if r.scheme in order), key=lambda r: order.index(r.scheme))
    found = [*(_drift(d, result) for d in drifts), *(_regret(r, result) for r in regrets)]
    largest = max(result.loss_gaps, key=lambda g: g.size, default=None)
    if largest is not None:
        label = f"{short_name(result.scheme)} less SP"
        context = f"at {result.axis} {largest.size}, both tuned there"
        if math.isfinite(largest.tolerance):
            context += f"; seed noise allows {number(largest.tolerance)}"
        found.append(Fact(label, signed(largest.mup_minus_sp), interval(largest.low, largest.high, "+.3g"), context))
    return (*found, *_vector(result), *_band(result))


def _vector(result: TransferResult) -> list[Fact]:
    """What the tuned vector costs at the largest size, beside that with the swept setting searched anew."""
    if result.vector is None:
        return []
    fact = _regret(result.vector, result)
    label = f"{short_name(result.scheme)}: the tuned settings ({vector_text(result)}) cost"
    return [fact._replace(label=label, context=f"{fact.context}, beside the best {result.swept.words} there")]


def vector_text(result: TransferResult) -> str:
    """The tuned settings in words: "learning rate 0.01, weight decay x 4"."""
    named = [(setting_named(name), value) for name, value in result.tuned.items()]
    return ", ".join(f"{setting.words} {setting.shown(value)}" for setting, value in named)


def _band(result: TransferResult) -> list[Fact]:
    """The rates that are as good as the best at the largest size, where they span an octave or more."""
    largest = [o for o in result.optima if o.scheme == result.scheme and o.size == max(result.sizes, default=0)]
    low, high = (largest[0].band if largest else None) or (math.nan, math.nan)
    if not high - low >= 1:
        return []
    label = f"{short_name(result.scheme)}: within 1% of the best loss lie"
    return [Fact(label, f"2^{low:.1f} to 2^{high:.1f}", "", f"at {result.axis} {largest[0].size}")]


def _drift(drift: Drift, result: TransferResult) -> Fact:
    label = f"{short_name(drift.scheme)}: the best {result.swept.words} moved"
    if not math.isfinite(drift.octaves):
        return Fact(label, "an unknown way", "", _span(result))
    return Fact(label, f"{drift.octaves:+.2f} octaves", interval(drift.low, drift.high, "+.2f"), _span(result))


def _regret(regret: Regret, result: TransferResult) -> Fact:
    label = f"{short_name(regret.scheme)}: carrying it over costs"
    context = f"in loss at {result.axis} {max(result.sizes)}" if result.sizes else "in loss"
    if not math.isfinite(regret.loss):
        return Fact(label, "divergence" if regret.loss == math.inf else "an unknown amount", "", context)
    return Fact(label, signed(regret.loss), interval(regret.low, regret.high, "+.3g"), context)


def interval(low: float, high: float, form: str = ".3g") -> str:
    """A 90% interval; "" where it is not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"90% interval {low:{form}} to {high:{form}}"


def number(value: float) -> str:
    """A number to three significant digits, or "unknown"."""
    return "unknown" if math.isnan(value) else f"{value:.3g}"


def signed(value: float) -> str:
    """A difference of losses: its sign and three significant digits, or "unknown"."""
    return "unknown" if math.isnan(value) else f"{value:+.3g}"


MISSING = {"diverged": "every run diverged", "pruned": "every run was pruned", "not run": "not run"}


def missing_text(optimum: Optimum) -> str:
    """Why a size has no optimum."""
    if optimum.missing == "failed":
        return f"{optimum.tally.failed} of {optimum.tally.total} runs failed"
    return MISSING.get(optimum.missing, "every run diverged")


def optimum_text(optimum: Optimum) -> str:
    """The optimal learning rate: the power of two, its interval, and whether the grid ended there."""
    if not math.isfinite(optimum.log2_lr):
        return f"none ({missing_text(optimum)})"
    edge = ", at the edge of the grid" if optimum.at_edge else ", beside failed runs" if optimum.blocked else ""
    known = math.isfinite(optimum.low) and math.isfinite(optimum.high)
    return f"2^{optimum.log2_lr:.2f}{f' ({optimum.low:.2f} to {optimum.high:.2f})' if known else ''}{edge}"


def table(result: TransferResult) -> str:
    """The result for a terminal: a line per size, the headline numbers, then the verdict and why it is not a PASS."""
    lines = [*columns(cells(result)), *beside(result)]
    return "\n".join(lines)


def cells(result: TransferResult) -> list[tuple[str, ...]]:
    """Header and lines of the table: for every size the best rate and loss of each scheme, and their difference."""
    schemes = result.schemes
    best = "best rate" if result.swept.is_rate else f"best {result.swept.words}"
    rows = [(str(result.axis), *(p for s in schemes for p in (f"{short_name(s)}: {best}", "loss")), "difference")]
    gaps = {g.size: g for g in result.loss_gaps}
    for size in result.sizes:
        cells = [cell for scheme in schemes for cell in _cells(result, scheme, size)]
        gap = gaps.get(size)
        rows.append((str(size), *cells, f"{signed(gap.mup_minus_sp)}{' (worse)' if gap.worse else ''}" if gap else ""))
    return rows


def beside(result: TransferResult) -> list[str]:
    """The lines below the table: the headline numbers, failures and notes, then the verdict and why it is no PASS."""
    lines = ["", *(_line(fact) for fact in facts(result)), ""]
    lines += [*columns(measured), ""] if (measured := measure_rows(result)) else []
    lines += [f"{text}." for text in (str(result.tally), coordinates_text(result)) if text]
    lines += [f"Note: {note}" for note in result.notes]
    reasons = () if result.verdict == "PASS" else result.reasons
    return [*lines, f"{result.verdict}: {headline(result)}", *(f"  - {spelled(reason)}" for reason in reasons)]


def coordinates_text(result: TransferResult) -> str:
    """A coordinate check that did not pass, with its reasons; "" where it passed or was not made."""
    coord = result.coord or {}
    if coord.get("verdict", "PASS") == "PASS":
        return ""
    reasons = [str(reason).rstrip(".") for reason in coord.get("reasons", ())]
    shown = [*reasons[:3], *([f"and {len(reasons) - 3} more"] if len(reasons) > 3 else [])]
    return f"Coordinate check: {coord['verdict']}: {'; '.join(shown)}"


def _line(fact: Fact) -> str:
    more = ", ".join(part for part in (fact.context, fact.interval) if part)
    return f"{fact.label} {fact.value}" + (f" ({more})" if more else "")


def _cells(result: TransferResult, scheme: str, size: int) -> tuple[str, str]:
    try:
        found = result.optimum(scheme, size)
    except KeyError:
        return "-", "-"
    return result.swept.of_base + optimum_text(found), number(found.loss) if math.isfinite(found.loss) else "-"
