"""Tuned settings as a table for people."""

# pyright: strict
from __future__ import annotations

import math

from hptransfer.core.files import columns
from hptransfer.reporting.words import interval, signed
from hptransfer.validation.settings.setting import Setting, setting_named
from hptransfer.validation.settings.tuned import Searched, TunedSettings

HEADER = ("setting", "value", "best", "90% interval", "loss there", "moving gains", "runs")


def tuned_table(tuned: TunedSettings) -> str:
    """A line per search, the vector, and what it gains beside the rate alone."""
    lines = columns([HEADER, *(_line(search) for search in tuned.searched)])
    named = {"lr": tuned.lr, **tuned.factors}
    vector = ", ".join(f"{name} {_valued(setting_named(name), value)}" for name, value in named.items())
    return "\n".join([*lines, "", f"Tuned: {vector}", *_gain(tuned), *(f"Note: {note}" for note in tuned.notes)])


def _valued(setting: Setting, value: float) -> str:
    return f"{setting.shown(value)} (2^{math.log2(value):.2f})" if setting.is_rate else setting.shown(value)


def _line(search: Searched) -> tuple[str, ...]:
    setting = setting_named(search.setting)
    between = f"{setting.of_base}2^{search.low:.2f} to 2^{search.high:.2f}" if math.isfinite(search.low) else "unknown"
    kept = "" if search.moved else ", stays"
    again = f", round {search.round}" if search.round > 1 else ""
    edge = ", at the edge" if search.at_edge else ""
    return (
        f"{setting}{again}",
        f"{setting.shown(search.value)}{kept}",
        f"{setting.of_base}2^{search.log2:.2f}{edge}",
        between,
        f"{search.loss:.4g}",
        _cost(search),
        str(search.runs),
    )


def _cost(search: Searched) -> str:
    if search.cost is None or search.cost_low is None or search.cost_high is None:
        return ""
    known = math.isfinite(search.cost_low) and math.isfinite(search.cost_high)
    return f"{search.cost:.2g}{f' ({search.cost_low:.2g} to {search.cost_high:.2g})' if known else ''}"


def _gain(tuned: TunedSettings) -> list[str]:
    if tuned.gain is None:
        return [] if not tuned.factors else ["No setting was surely better elsewhere: the rate alone is as good."]
    gain = tuned.gain
    known = interval(gain.low, gain.high, "+.3g")
    return [
        f"On {len(gain.seeds)} fresh seeds its loss is {gain.loss:.4g}, {signed(gain.difference)} beside the learning "
        f"rate {gain.lr:.4g} alone{f' ({known})' if known else ''}."
    ]
