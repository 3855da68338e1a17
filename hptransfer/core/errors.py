"""The one error that means "the input was wrong": the command line prints it on one line and exits with 2."""

from __future__ import annotations

import traceback
from pathlib import Path


class UsageError(ValueError):
    """Bad input. The message says what was wrong, with the value, what is allowed, and what to do."""


def described(error: BaseException) -> str:
    """An exception on one line: its type, its text, and the last line of the user's own code that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_foreign(f.filename)]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _is_foreign(filename: str) -> bool:
    ours = Path(__file__).parents[1]
    return ours not in Path(filename).parents and "site-packages" not in filename and not filename.startswith("<")


class HalfApplied(UserWarning):
    """One half of a plan is in use without the other: its rates on unscaled weights, or scaled weights without them."""
