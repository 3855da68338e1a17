"""Progress on stderr: a bar on a terminal, and elsewhere, as in a batch job's log, a line every half minute."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal; what is done sooner prints none."""


class Lines(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """tqdm's count, rate and remaining time on lines of their own."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the bar's text as a line of its own."""
        print(str(self).strip() if msg is None else msg, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End without a last line, which results follow: as a bar that was never shown does."""
        self.last_print_t = float("-inf")
        super().close()


def progress(*, label: str, total: int | None, unit: str = "it") -> tqdm[Any]:
    """A bar, or lines, to `update()`; a context manager. total: how many updates there will be, where it is known."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=label, unit=unit, file=sys.stderr, leave=False)
    return Lines(
        total=total,
        desc=label,
        unit=unit,
        file=sys.stderr,
        leave=False,
        ncols=0,
        mininterval=EVERY,
        maxinterval=EVERY,
        delay=EVERY,
    )
