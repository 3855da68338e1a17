"""A forecast with known numbers, made without training: base rate 0.01, four times the batch, eight times tokens."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hptransfer.core.training.recipe import Scale
from hptransfer.prediction.forecast.forecast import Forecast, Settings, forecast
from hptransfer.prediction.forecast.lean import lean
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.schedule import linear

START = Prediction(
    "learning rate", 0.01, 0.005, 0.02, "1", "sweep optimum", "here", ("stands for it",), Kind("none", "measured")
)
BASE = Scale(width=64, depth=2, batch=16, tokens=1600)
TARGET = Scale(width=512, depth=8, batch=64, tokens=12800)
CURVE = ((-9.0, 3.0), (-8.0, 2.5), (-7.0, 2.1), (-6.0, 2.0), (-5.0, math.inf))
SETTINGS = Settings("AdamW", 0.1, (0.9, 0.95), linear(100))


def made(**changes: Any) -> Forecast:
    """The forecast; changes: arguments of `forecast` to replace."""
    x, y = zip(*CURVE, strict=True)
    options: dict[str, Any] = {
        "recipe": "regression",
        "start": START,
        "base": BASE,
        "target": TARGET,
        "settings": SETTINGS,
        "target_schedule": linear(200),
        "lean": lean(x, y, optimum=math.log2(0.01), sd=0.6, initial_loss=5.0),
        "base_curve": CURVE,
    }
    return forecast(**(options | changes))


def at_width(width: int, rate: float, advised: float) -> Forecast:
    """A forecast for one width alone, within half an octave."""
    found = made(
        base=Scale(width=8),
        target=Scale(width=width),
        start=START.replace(value=rate, low=rate / 2**0.5, high=rate * 2**0.5),
    )
    return dataclasses.replace(found, advised_lr=advised)
