"""What a numeric check at small sizes said of a plan: one line, and plain data to keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hptransfer.core.errors import UsageError

State = Literal["verified", "failed", "not verified"]
NO_BUILDER = (
    "no builder; pass make_plan a function that builds the model at any width, make_plan(build, base=64, target=512, "
    "...), and a check at small sizes runs with it"
)


@dataclass(frozen=True)
class Verification:
    """The outcome of a check of the same builder's plans at small widths and depths.

    state: "not verified" where nothing could be said. why: what failed and by how much, or why it is not verified.
    widths, depths: what was built; no depths where the scheme has no depth rule. seconds: what it cost.
    Raises UsageError where the state is unknown.
    """

    state: State = "not verified"
    why: str = NO_BUILDER
    widths: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise UsageError(f"Verification({self.state!r}): use one of {', '.join(get_args(State))}.")
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "depths", tuple(self.depths))

    def __str__(self) -> str:
        cost = f"{self.seconds:.1f} s"
        if self.state == "verified":
            sizes = [_range("width", self.widths), *([_range("depth", self.depths)] if self.depths else [])]
            return f"verified ({', '.join(sizes)}; {cost})"
        told = "FAILED" if self.state == "failed" else "not verified"
        return f"{told}: {self.why}" + (f" ({cost})" if self.seconds else "")


def _range(axis: str, sizes: Sequence[int]) -> str:
    return f"{axis} {min(sizes)}..{max(sizes)}"
