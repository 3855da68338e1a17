"""What one's own quarter starts say of the shift, kept beside the forecasts: shifts.jsonl, a pair a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, write_whole
from hptransfer.validation.forecasts.quarter import QuarterStart, learned_shift

SHIFTS_FILE = "shifts.jsonl"


@dataclass(frozen=True)
class Pair(Document):
    """One quarter start of a recipe: guess, log2 of the quarter's best rate; optimum, log2 of the end's best."""

    TITLE = "a quarter start's pair"
    REMEDY = "Remove that line."

    recipe: str
    steps: int
    guess: float
    optimum: float

    @property
    def shift(self) -> float:
        """Octaves from the quarter's best rate to the end's."""
        return self.optimum - self.guess


def read_pairs(directory: str | Path, recipe: str) -> list[Pair]:
    """The pairs of a recipe that a directory holds. Raises UsageError where a line is not one."""
    return [pair for pair in _all(Path(directory) / SHIFTS_FILE) if pair.recipe == recipe]


def keep_pair(directory: str | Path, recipe: str, steps: int, started: QuarterStart) -> Pair:
    """Add a start's pair; the very same one, from a repeated command, is kept once. Raises UsageError where it cannot
    be written."""
    path = Path(directory) / SHIFTS_FILE
    pair, before = Pair(recipe, steps, started.guess, started.optimum), _all(path)
    if pair not in before:
        write_whole(path, "".join(each.to_line() + "\n" for each in [*before, pair]))
    return pair


def shift_from(pairs: list[Pair]) -> tuple[float, str]:
    """The shift that these pairs teach, octaves, and a line that says from what."""
    shift = learned_shift([pair.shift for pair in pairs])
    source = f"learned from {len(pairs)} earlier starts of this recipe" if pairs else "no earlier start of this recipe"
    return shift, f"The quarter's best rate is moved by {shift:+.2f} octaves ({source})."


def _all(path: Path) -> list[Pair]:
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}") from error
    return [Pair.from_line(line) for line in lines if line.strip()]
