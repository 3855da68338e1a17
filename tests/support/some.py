"""Parameter sets of which some run always and the rest with -m slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def the_rest_slow(cases: Iterable[Any], *, always: int) -> list[Any]:
    """The cases in their order, all but the first `always` marked slow."""
    rows: list[tuple[Any, ...]] = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=[pytest.mark.slow] if k >= always else []) for k, row in enumerate(rows)]
