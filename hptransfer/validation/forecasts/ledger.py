"""The ledger: every forecast with date and interval before its outcome, the outcome after, and who keeps missing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, write_whole
from hptransfer.prediction.forecast.forecast import Forecast
from hptransfer.validation.forecasts.against import PREDICTIONS_FILE, Score

LEDGER_FILE = "ledger.jsonl"
LEVEL = 0.9
"""The confidence that every forecast's interval states."""
DOUBT = 0.05
"""A law loses its default where so few hits, or fewer, have less than this probability if its intervals were right."""


@dataclass(frozen=True)
class Entry(Document):
    """One forecast of a learning rate. key: names it; date: when it was entered, UTC; laws: of its factors.

    low, high: its interval at LEVEL, None without one. observed, observed_on: the best rate found, and when.
    """

    TITLE = "a ledger's entry"
    REMEDY = "Remove that line."

    key: str
    date: str
    recipe: str
    base: str
    target: str
    laws: tuple[str, ...]
    value: float
    low: float | None
    high: float | None
    observed: float | None = None
    observed_on: str = ""

    @property
    def hit(self) -> bool | None:
        """Whether the interval held the outcome; None before it, or without an interval."""
        if self.observed is None or self.low is None or self.high is None:
            return None
        return self.low <= self.observed <= self.high


@dataclass(frozen=True)
class Standing:
    """How a law has done: forecasts entered, scored, hits; chance: of so few hits or fewer at LEVEL (1: no doubt)."""

    law: str
    entered: int
    scored: int
    hits: int
    chance: float

    @property
    def lost(self) -> bool:
        """Whether it keeps missing, and is no default here any more."""
        return self.chance < DOUBT


def entry_of(made: Forecast, *, number: int = 0, now: datetime | None = None) -> Entry:
    """The forecast as an entry dated now; number: of the entries before it, so that equal forecasts differ in key."""
    laws = [s.prediction.law for s in made.steps if s.prediction is not None and s.title.startswith("Factor for")]
    start = made.steps[0].prediction
    every: list[str] = [*([start.law] if start else []), *laws]
    named = tuple(dict.fromkeys(every))
    rate, date = made.learning_rate, _stamp(now)
    told = f"{number} {date} {made.recipe} {made.base} {made.target} {float(rate.value)!r} {named}"
    key = hashlib.sha256(told.encode()).hexdigest()[:10]
    ends = None if rate.low is None else float(rate.low), None if rate.high is None else float(rate.high)
    return Entry(key, date, made.recipe, str(made.base), str(made.target), named, float(rate.value), *ends)


def read_ledger(directory: str | Path) -> list[Entry]:
    """The entries of a directory's ledger, outcomes that a check left beside it taken in. [] where there is none.

    Raises UsageError where a line is not an entry.
    """
    path, scored = Path(directory) / LEDGER_FILE, Path(directory) / PREDICTIONS_FILE
    entries = [Entry.from_line(line) for line in _lines(path)]
    scores = [Score.from_line(line) for line in _lines(scored)]
    return [_settled(entry, scores) for entry in entries]


def enter(made: Forecast, directory: str | Path) -> Entry:
    """Add a forecast to the directory's ledger. Raises UsageError where it cannot be written."""
    before = read_ledger(directory)
    entry = entry_of(made, number=len(before))
    _write(directory, [*before, entry])
    return entry


def observe(directory: str | Path, key: str, observed: float, *, now: datetime | None = None) -> Entry:
    """Enter an outcome: the best rate found at the target of the entry that `key` (or a start of it) names.

    Raises UsageError where it names none or several, the outcome is no positive number, or there is one already.
    """
    entries = read_ledger(directory)
    named = [entry for entry in entries if entry.key.startswith(key)]
    if len(named) != 1:
        raise UsageError(f"{key!r} names {len(named)} of the {len(entries)} forecasts in {directory}. Give its key.")
    if not (math.isfinite(observed) and observed > 0):
        raise UsageError(f"The observed rate {observed!r} must be a positive number.")
    if named[0].observed is not None:
        raise UsageError(f"Forecast {named[0].key} has its outcome already: {named[0].observed:g}. It is not changed.")
    settled = replace(named[0], observed=observed, observed_on=_stamp(now))
    _write(directory, [settled if entry is named[0] else entry for entry in entries])
    return settled


def standings(entries: Sequence[Entry]) -> tuple[Standing, ...]:
    """Every law's record, those that miss most first."""
    laws = sorted({law for entry in entries for law in entry.laws})
    return tuple(sorted((_standing(law, entries) for law in laws), key=lambda s: (s.chance, s.law)))


def _standing(law: str, entries: Iterable[Entry]) -> Standing:
    from scipy.stats import binom

    held = [entry for entry in entries if law in entry.laws]
    judged = [entry.hit for entry in held if entry.hit is not None]
    chance = float(binom.cdf(sum(judged), len(judged), LEVEL)) if judged else 1.0
    return Standing(law, len(held), len(judged), sum(judged), chance)


def _settled(entry: Entry, scores: Sequence[Score]) -> Entry:
    """The entry with the outcome of a check that scored this very forecast."""
    if entry.observed is not None:
        return entry
    for score in scores:
        if score.recipe == entry.recipe and math.isclose(score.predicted, entry.value, rel_tol=1e-12):
            return replace(entry, observed=score.observed, observed_on="by a check")
    return entry


def _stamp(now: datetime | None) -> str:
    return (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()] if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}") from error


def _write(directory: str | Path, entries: Iterable[Entry]) -> None:
    Path(directory).mkdir(parents=True, exist_ok=True)
    write_whole(Path(directory) / LEDGER_FILE, "".join(entry.to_line() + "\n" for entry in entries))
