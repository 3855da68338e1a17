"""The one error that means "the input was wrong": the command line prints it on one line and exits with 2."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

from hptransfer.core.secrets import masked

RECIPE_ERRORS = (Exception, SystemExit)
"""What the user's own code may raise as its own failure; an interrupt is the user's wish and goes through."""
MAX_TEXT = 500
"""Characters of an error's text that a record or a message keeps."""
LIKE = 0.6
"""How alike (difflib's ratio) a word must be to be offered for an unknown one."""


class UsageError(ValueError):
    """Bad input. The message says what was wrong, with the value, what is allowed, and what to do."""


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """Text on one line of at most `limit` characters, cut in the middle: an error's end often says most."""
    line = " ".join((text if len(text) <= 100 * limit else text[: 50 * limit] + text[-50 * limit :]).split())
    return line if len(line) <= limit else f"{line[: limit // 2]} ... {line[len(line) - limit // 2 + 5 :]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like this one; None where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=LIKE)), None)


def near(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: "; did you mean 'check'?" where a known one is like it, else "."."""
    return meant(nearest(word, known))


def meant(likely: str | None) -> str:
    """ "; did you mean 'check'?", or "." where nothing is likely: the end of a sentence on an unknown word."""
    return "." if likely is None else f"; did you mean {likely!r}?"


def described(error: BaseException) -> str:
    """An exception on one line: type, text without secrets, and the last line of the user's code it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_foreign(f.filename)]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = bounded(masked(_text(error)))
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "an error whose text cannot be had"


def _is_foreign(filename: str) -> bool:
    ours = Path(__file__).parents[1]
    return ours not in Path(filename).parents and "site-packages" not in filename and not filename.startswith("<")


class HalfApplied(UserWarning):
    """One half of a plan is in use without the other: its rates on unscaled weights, or scaled weights without them."""
