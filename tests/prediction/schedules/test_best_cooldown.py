"""The cooldown search against brute force: the best of all cooldowns of whole steps, to one step."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.prediction.schedules.convex_bound import best_cooldown, convex_bound
from hptransfer.prediction.schedules.schedule import Shape, wsd


@pytest.mark.parametrize(
    ("steps", "shape", "final", "warmup"),
    [(400, "cosine", 0.0, 0), (400, "cosine", 0.0, 40), (250, "1-sqrt", 0.0, 0), (300, "linear", 0.2, 30)],
)
def test_no_cooldown_of_whole_steps_is_better(steps: int, shape: Shape, final: float, warmup: int) -> None:
    bounds = [
        convex_bound(wsd(steps, cooldown=k / steps, shape=shape, final=final, warmup=warmup)).best_value
        for k in range(steps - warmup + 1)
    ]
    found = best_cooldown(steps, shape=shape, final=final, warmup=warmup)
    best = int(np.argmin(bounds))
    assert found.fraction * steps == pytest.approx(best, abs=1)
    assert found.bound <= bounds[max(best - 1, 0)] and found.bound <= bounds[min(best + 1, len(bounds) - 1)]
