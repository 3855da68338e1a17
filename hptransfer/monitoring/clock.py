"""Where a monitored run's time goes: training, bookkeeping at every step, and measurements."""

# pyright: strict
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch


class Clock:
    """Where the time goes: training, bookkeeping at every step, and measurements."""

    def __init__(self) -> None:
        self.begun = self._last = time.perf_counter()
        self._kept, self._booked, self._measured, self._steps = 0.0, 0.0, 0.0, 0
        self._mine, self._skipped = 0.0, 0.0
        self._recent: deque[float] = deque(maxlen=64)
        self._taken: dict[str, float] = {}

    def bookkeeping(self) -> Span:
        """A span that counts as bookkeeping."""
        return Span(self._book, None)

    def measuring(self, name: str, device: torch.device) -> Span:
        """A span that counts as part of a measurement; the device's queue is emptied at both ends."""

        def enter(seconds: float) -> None:
            self._mine += seconds
            self._measured += seconds
            self._taken[name] = self._taken.get(name, 0.0) + seconds

        return Span(enter, device)

    def taken(self, name: str) -> float:
        """What the measurement took since the last call, seconds."""
        return self._taken.pop(name, 0.0)

    def stepped(self) -> None:
        """The end of a step."""
        now = time.perf_counter()
        self._recent.append(now - self._last - self._mine)
        self._last, self._mine = now, 0.0
        self._steps += 1

    def skip(self) -> None:
        """Leave out what passed since the last step."""
        now = time.perf_counter()
        self._skipped += now - self._last - self._mine
        self._last, self._mine = now, 0.0

    @property
    def step_seconds(self) -> float:
        """A step of the last ones without the monitor, the slowest tenth left out (they evaluate, save or compile)."""
        ordered = sorted(self._recent)
        kept = ordered[: max(1, len(ordered) * 9 // 10)]
        return sum(kept) / len(kept) if kept else 0.0

    @property
    def overhead(self) -> float:
        """Bookkeeping per step, seconds."""
        return self._booked / max(1, self._steps)

    @property
    def seconds(self) -> float:
        """Since the start, also that of runs before this one was taken up."""
        return self._kept + time.perf_counter() - self.begun

    @property
    def share(self) -> float:
        """Bookkeeping and measurements over the rest."""
        mine = self._booked + self._measured
        rest = self.seconds - mine - self._skipped
        return mine / rest if rest > 0 else 0.0

    def state(self) -> tuple[float, float, float, float, int]:
        """What `load` takes back."""
        return self.seconds, self._booked, self._measured, self._skipped, self._steps

    def load(self, state: Sequence[float]) -> None:
        """Go on from a state."""
        self._kept, self._booked, self._measured, self._skipped = map(float, state[:4])
        self._steps, self.begun = int(state[4]), time.perf_counter()
        self._last = self.begun

    def _book(self, seconds: float) -> None:
        self._mine += seconds
        self._booked += seconds


class Span:
    """Tells how long its body took, on the device too where one is given."""

    def __init__(self, tell: Callable[[float], None], device: torch.device | None) -> None:
        self._tell, self._device = tell, device

    def __enter__(self) -> None:
        self._settle()
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._tell(time.perf_counter() - self._begun)

    def _settle(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
