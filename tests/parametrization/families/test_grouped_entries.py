"""Fixed key-value heads by brute force: what a step does to values through the initial weight, over the width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hptransfer.core.training.recipe import load_recipe
from scripts.bench_gqa_entries import Rule, entries

WIDTHS = (64, 256)


@pytest.mark.parametrize(("rule", "start", "low", "high"), [("readout", -0.5, -0.8, 0.0), ("fan-in", 0.0, 0.15, 0.8)])
def test_values_move_by_more_and_more_where_they_start_as_large(
    monkeypatch: pytest.MonkeyPatch, rule: Rule, start: float, low: float, high: float
) -> None:
    """docs/gqa.md, (5): W0 dx grows as n^1/2 for entries n^-1/2, and does not for entries n^-1. Own changes stay."""
    monkeypatch.setenv("HPTRANSFER_HEAD_DIM", "8")
    monkeypatch.setenv("HPTRANSFER_KV_HEADS", "1")
    recipe = load_recipe(str(Path(__file__).parents[3] / "recipes" / "gpt.py"))
    runs = [[entries(recipe, width, "AdamW", rule, 1, seed) for seed in (0, 1)] for width in WIDTHS]

    def exponent(key: str) -> float:
        narrow, wide = (np.mean([np.log2(run[key]) for run in own]) for own in runs)
        return float((wide - narrow) / np.log2(WIDTHS[1] / WIDTHS[0]))

    assert abs(exponent("start v") - start) < 0.2
    assert low < exponent("others v, step 1") < high
    assert abs(exponent("own v, step 1")) < 0.2
