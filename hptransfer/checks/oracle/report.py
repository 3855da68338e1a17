"""What the role oracle found: the plan's exponents beside the measured ones, per parameter, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hptransfer.core.files import Document, columns

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Quantity = Literal["fan_in", "init", "lr", "gradient", "loss", "size", "change"]
QUANTITIES: tuple[Quantity, ...] = ("fan_in", "init", "lr", "gradient", "loss")
BESIDE: tuple[Quantity, ...] = ("size", "change")

SEES = (
    "Every number is an exponent b of width^b, fitted in log-log over widths, seeds and layers (95% t-interval). "
    "fan_in: growth of the number of features summed, from the response to a random +-1 perturbation. "
    "init: the initial std at which the module's output keeps its size (a readout's: 1/fan_in). "
    "lr: the learning rate at which one step of this parameter alone moves its module's output as much at every width. "
    "gradient: RMS of the gradient's entries; the plan's is what eps follows. "
    "loss: what that step changes the objective by, to first order. "
    "At a random init a gradient that meets an activation in a product (queries and keys, routers, gates of a scan) is "
    "not yet aligned with it, so gradient and loss may lie lower together, by 1/2 or, where they cancel, more; "
    "training aligns them. At least half the rows must be aligned. "
    "A row fails where an interval lies outside the tolerance. "
    "outputs (of the report): what two real steps change every module's output by, and what a step that has lined up "
    "changes attention logits by; deeper: the same over depth, where the scheme has a depth rule. "
    "Not seen: batch and duration rules, weight decay, and parameters that get no gradient from these inputs."
)
"""What the columns mean, and what cannot be seen."""


@dataclass(frozen=True)
class Check:
    """One exponent: the plan's, the measured one with its interval, and whether they agree (None: not settled)."""

    quantity: Quantity
    plan: float
    measured: float
    low: float
    high: float
    ok: bool | None
    unaligned: bool = False

    def __str__(self) -> str:
        mark = "" if self.ok else " !" if self.ok is False else " ?"
        return f"{self.plan:+.2f} / {self.measured:+.2f}{'*' if self.unaligned else ''}{mark}"


@dataclass(frozen=True)
class OracleRow:
    """All parameters of one name (layer indices taken out) that the plan treats alike.

    names: the parameters; role: the plan's; checks: those that could be measured; why: what disagrees, in words.
    """

    name: str
    names: tuple[str, ...]
    role: str
    checks: tuple[Check, ...]
    why: str = ""

    @property
    def ok(self) -> bool | None:
        """False where a check disagrees, None where one is not settled or none could be made."""
        if any(check.ok is False for check in self.checks):
            return False
        return None if not self.checks or any(check.ok is None for check in self.checks) else True

    def check(self, quantity: str) -> Check | None:
        """The check of one quantity, None where it could not be made."""
        return next((c for c in self.checks if c.quantity == quantity), None)


@dataclass(frozen=True)
class OracleReport(Document):
    """The oracle's verdict on a plan.

    verdict: FAIL where a parameter's exponents disagree, INCONCLUSIVE where noise leaves one open, else PASS.
    reasons: what decided it. rows: by parameter name with layer indices taken out. unseen: parameters that could not
    be measured. outputs: what real steps and attention show over the width, by module; deeper: rows over depths.
    """

    TITLE = "an oracle report"
    REMEDY = "Make it again with verify_plan."

    verdict: Verdict
    reasons: tuple[str, ...]
    rows: tuple[OracleRow, ...]
    unseen: tuple[str, ...]
    subject: str
    scheme: str
    widths: tuple[int, ...]
    base: int
    seeds: int
    tolerance: float
    seconds: float
    depths: tuple[int, ...] = ()
    outputs: tuple[OracleRow, ...] = ()
    deeper: tuple[OracleRow, ...] = ()

    @property
    def ok(self) -> bool:
        """True for PASS."""
        return self.verdict == "PASS"

    def __getitem__(self, name: str) -> OracleRow:
        """The row that holds a parameter. Raises KeyError where none does."""
        for row in self.rows:
            if name in row.names:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        title = (
            f"oracle: {self.verdict} for {self.subject}, scheme {self.scheme}, widths "
            f"{', '.join(map(str, self.widths))} against {self.base}, {self.seeds} seeds, "
            f"tolerance {self.tolerance:g}, {self.seconds:.1f} s"
        )
        outputs = _table("output of, after real steps", self.outputs, BESIDE)
        deeper = _table(f"over depths {', '.join(map(str, self.depths))}", self.deeper, (*QUANTITIES, *BESIDE))
        notes = ["* not aligned at init", "! disagrees", "? not settled"]
        unseen = [f"not measurable: {', '.join(self.unseen)}"] if self.unseen else []
        tables = [*_table("parameter", self.rows, QUANTITIES), *outputs, *deeper]
        return "\n".join([title, *self.reasons, *tables, ", ".join(notes), *unseen])


def _table(first: str, rows: Sequence[OracleRow], quantities: Sequence[Quantity]) -> list[str]:
    """The rows in columns, those quantities left out that no row has; nothing without rows."""
    shown = [q for q in quantities if any(row.check(q) for row in rows)]
    header = (first, "role", *(f"{q} plan / measured" for q in shown), "")
    return columns([header, *(_line(row, shown) for row in rows)]) if rows else []


def _line(row: OracleRow, quantities: Sequence[Quantity]) -> tuple[str, ...]:
    name = row.name if len(row.names) == 1 else f"{row.name} (x{len(row.names)})"
    shown = [str(check) if (check := row.check(q)) is not None else "-" for q in quantities]
    return name, row.role, *shown, {True: "ok", False: "DISAGREES", None: "open"}[row.ok]
