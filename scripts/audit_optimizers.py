"""Every optimizer: does a real step move every weight with the exponent that its plan implies? -> a table in markdown.

    python scripts/audit_optimizers.py [NAME ...]      # some minutes, one core

Per optimizer hptransfer.audit_step at widths 32, 64 and 128 against a base of 32, the second step of four seeds; the
exponent of |dW| over the base rate in the width, and what the plan's rate and the update's known size imply. The last
column is the largest difference over all parameters (for a pair, over its hidden matrices).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo
from tests.parametrization.apply import test_more_optimizers as more  # pyright: ignore[reportMissingImports]
from tests.parametrization.apply import test_optimizers as known  # pyright: ignore[reportMissingImports]

WIDTHS, SEEDS = (32, 64, 128), 4
optim = torch.optim


def audits(case: str, width: int, seed: int) -> dict[str, tuple[float, float]]:
    """Parameter -> (moved, implied) of the second step, each over the base rate."""
    cls, options = CASES[case]
    pair = issubclass(cls, (more.Written, optim.Muon))
    builder, x, y = (more.Net, more.X, more.Y) if pair else (known.Net, known.X, known.Y)
    torch.manual_seed(seed)
    base, model = builder(32), builder(width)
    rules = {k: v for k, v in options.items() if k not in {"lr", "weight_decay"}}
    chosen: dict[str, Any] = {"optimizer": cls, "optimizer_options": rules}
    settings: dict[Any, Any] = {cls: options}
    if pair:
        chosen = {"optimizer": {"hidden": cls, "rest": optim.AdamW}, "optimizer_options": {"hidden": rules, "rest": {}}}
        settings[optim.AdamW] = {"lr": 1e-3}
    plan = hpt.make_plan(model, base=base, example_inputs=(x,), **chosen)
    hpt.parametrize_(model, plan)
    optimizer = hpt.build_optimizers(model, plan, settings)
    for _ in range(2):
        optimizer.zero_grad()
        _loss(model, x, y).backward()
        audit = hpt.audit_step(model, plan, optimizer)
    rows = [row for row in audit.rows if row.optimizer == cls.__name__]
    assert audit.ok, audit
    return {row.name: (row.moved / audit.base[cls.__name__], row.implied / audit.base[cls.__name__]) for row in rows}


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x) - y).square().mean()


def worst(case: str) -> tuple[float, float]:
    """(exponent of the hidden matrices' |dW|, largest difference of any parameter's from the implied one)."""
    found = [[audits(case, width, seed) for seed in range(SEEDS)] for width in WIDTHS]
    slopes = {
        name: [_slope([np.mean([run[name][i] for run in runs]) for runs in found]) for i in (0, 1)]
        for name in found[0][0]
    }
    hidden = [moved for name, (moved, _) in slopes.items() if name in {"hidden.weight", "square.weight"}]
    return hidden[0], max(abs(moved - implied) for moved, implied in slopes.values())


def _slope(values: list[Any]) -> float:
    return float(np.polyfit(np.log2(WIDTHS), np.log2(values), 1)[0])


MUON = {
    "Muon": (optim.Muon, {"lr": 0.02}),
    "Muon, match_rms_adamw": (optim.Muon, {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"}),
}
WRITTEN = {
    cls.__name__: (cls, {"lr": 0.02})
    for cls in (more.Scion, more.Dion, more.NorMuon, more.MuonH, more.AdamH, more.AdamWScheduleFree)
}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {**known.CASES, **MUON, **WRITTEN}


def main() -> None:
    torch.set_num_threads(1)
    chosen = set(sys.argv[1:]) or set(CASES)
    print("| optimizer | geometry | decay | shape factor | exponent of hidden dW | largest difference |")
    print("|---|---|---|---|---|---|")
    for case, (cls, options) in CASES.items():
        if case not in chosen:
            continue
        info = OptimizerInfo.of(cls, {k: v for k, v in options.items() if k not in {"lr", "weight_decay"}})
        exponent, difference = worst(case)
        shape = info.shape_factor or "-"
        print(f"| {case} | {info.geometry} | {info.decay} | {shape} | {exponent:+.2f} | {difference:.2f} |", flush=True)


if __name__ == "__main__":
    main()
