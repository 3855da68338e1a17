"""The named choices that checks, studies and forecasts take: what the command line lists before it imports them."""

# pyright: strict
from __future__ import annotations

from typing import Literal

SamplerName = Literal["zoom", "grid", "tpe", "gp"]
"""How a check chooses its rates."""
Pruning = Literal["diverged", "median"]
"""What a study stops early."""
StartName = Literal["auto", "quarter", "sweep", "given"]
"""Where a forecast's rate at the base comes from."""
DEFAULT_STORAGE = "sqlite:///hptransfer.db"
"""Where studies are kept unless told otherwise."""
