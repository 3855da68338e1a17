"""How many runs ended how: complete, diverged, pruned and failed are four states and stay apart."""

# pyright: strict
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hptransfer.core.errors import bounded
from hptransfer.validation.records.runs import Run


@dataclass(frozen=True)
class Tally:
    """Numbers of runs by state. first_error: what the first failed one raised, and which it was; "" where none did."""

    complete: int = 0
    diverged: int = 0
    pruned: int = 0
    failed: int = 0
    first_error: str = ""

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Tally:
        """The tally of some runs, in their order."""
        listed = list(runs)
        count = Counter(run.state for run in listed)
        first = next((f"{run.job}: {run.error}" for run in listed if run.state == "failed"), "")
        return cls(count["complete"], count["diverged"], count["pruned"], count["failed"], first)

    @property
    def total(self) -> int:
        """All of them."""
        return self.complete + self.diverged + self.pruned + self.failed

    @property
    def failures(self) -> str:
        """The failed ones in words, with the first error; "" where there is none."""
        return (
            f"{self.failed} of {self.total} runs failed, first error: {bounded(self.first_error)}"
            if self.failed
            else ""
        )

    def __str__(self) -> str:
        rest = {"diverged": self.diverged, "were pruned": self.pruned}
        ended = [f"{count} of {self.total} runs {how}" for how, count in rest.items() if count]
        return "; ".join([*ended, *([self.failures] if self.failed else [])])


NO_RUNS = Tally()
