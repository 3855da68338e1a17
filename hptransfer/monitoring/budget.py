"""When each measurement is due: as seldom as its cost demands, so that all stay within a share of the training time.

Measurement j with weight w_j (they sum to 1) may have spent w_j x share x n x s seconds by step n, where s is the time
of a step without the monitor. After it was made, at a cost c, with C spent so far, it is next due at the first n with
w_j share n s >= C + c: so its own next run is paid for beforehand, also a first one, whose cost is guessed in steps.
The due steps depend on numbers that all ranks share, so that ranks agree without a word between measurements.
"""

# pyright: strict
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hptransfer.core.errors import UsageError


@dataclass
class Account:
    """One measurement's: its weight, what it has spent (seconds), how often it was made, and when it is next due."""

    weight: float
    spent: float = 0.0
    runs: int = 0
    due: float = math.inf


class Budget:
    """share: of the training time, in (0, 1]. weights: measurement -> its part. guesses: its first cost, in steps.

    every: measurement -> steps between two of it, whatever it costs. Raises UsageError for a share or a spacing that
    is out of range, or a name that is no measurement.
    """

    def __init__(
        self, share: float, weights: Mapping[str, float], guesses: Mapping[str, float], every: Mapping[str, int]
    ) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"budget={share!r}: must be a share of the training time, in (0, 1].")
        if unknown := sorted(set(every) - set(weights)):
            raise UsageError(f"every names {unknown}, which are not measured here. Measured: {', '.join(weights)}.")
        if wrong := {name: n for name, n in every.items() if int(n) != n or n < 1}:
            raise UsageError(f"every={wrong}: a spacing is a whole number of steps from 1.")
        self.share, self.every = share, dict(every)
        total = sum(weights.values())
        self.accounts = {name: Account(weight / total) for name, weight in weights.items()}
        for name, account in self.accounts.items():
            account.due = self.every.get(name, max(1, math.ceil(guesses[name] / (share * account.weight))))

    def due(self, step: int) -> list[str]:
        """The measurements that are due at this step, those made least often first."""
        names = [name for name, account in self.accounts.items() if step >= account.due]
        return sorted(names, key=lambda name: self.accounts[name].runs)

    def paid(self, name: str, step: int, *, seconds: float, step_seconds: float, overhead: float = 0.0) -> None:
        """Enter a measurement made at `step` and set when it is next due.

        seconds: its cost; step_seconds: of a training step without the monitor; overhead: what every step costs beside
        the measurements, seconds, which comes off the share first.
        """
        account = self.accounts[name]
        account.spent += seconds
        account.runs += 1
        if name in self.every:
            account.due = step + self.every[name]
            return
        left = account.weight * max(0.0, self.share * step_seconds - overhead)
        account.due = max(step + 1, math.ceil((account.spent + seconds) / left)) if left > 0 else math.inf

    def drop(self, name: str) -> None:
        """Take a measurement out for good; the others share what it had."""
        del self.accounts[name]
        total = sum(account.weight for account in self.accounts.values())
        for account in self.accounts.values():
            account.weight /= total
