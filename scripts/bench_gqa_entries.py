"""Fixed key-value heads, entry by entry: what keys and values are, and how a step changes them, over the width.

    python scripts/bench_gqa_entries.py [--only Muon,SGD] [--steps 1]   # recipes/gpt.py, widths 64 to 512, a minute

One key-value head of 8, r = 8 to 64 query heads. Of the second block's keys and values, root mean squares: `start`, the
entries; `gradient`, of the weight at the first step; `own`, what the weight's own change did to them, (W - W0) x;
`others`, what the change of x did through the initial weight, W0 (x - x0); `change`, the sum. Exponents in the width
are printed and written, with the values, to benchmarks/gqa_entries.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.training.recipe import Recipe, Scale, load_recipe
from hptransfer.parametrization.apply.optimizers import build_optimizers

ROOT = Path(__file__).parents[1]
WIDTHS, BATCH, SEEDS = (64, 128, 256, 512), 8, (0, 1)
Rule = Literal["readout", "fan-in"]
OPTIMIZERS: Mapping[str, tuple[Any, Mapping[Any, Mapping[str, Any]]]] = {
    "AdamW": (torch.optim.AdamW, {torch.optim.AdamW: {"lr": 2.0**-8, "weight_decay": 0.0}}),
    "SGD": (torch.optim.SGD, {torch.optim.SGD: {"lr": 0.25}}),
    "Muon": (
        {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW},
        {torch.optim.Muon: {"lr": 0.02, "weight_decay": 0.0}, torch.optim.AdamW: {"lr": 2.0**-8, "weight_decay": 0.0}},
    ),
}
"""Optimizer -> what make_plan is told, and the base's settings."""


def entries(recipe: Recipe, width: int, optimizer: str, rule: Rule, steps: int, seed: int) -> dict[str, float]:
    """The root mean squares of one run, see the top; after one step and after all."""
    told, settings = OPTIMIZERS[optimizer]
    base, model = (_model(recipe, size, 100 * k + seed) for k, size in enumerate((WIDTHS[0], width)))
    options = hpt.Options(grouped_heads=rule)
    plan = hpt.make_plan(model, base=base, example_inputs=recipe.example_inputs(), optimizer=told, options=options)
    hpt.parametrize_(model, plan)
    trained, scale = build_optimizers(model, plan, settings), Scale(width, batch=BATCH)
    batches, probe = recipe.batches(scale, seed), next(iter(recipe.batches(scale, 999)))
    block: Any = model.get_submodule("blocks.1")
    weights = {part: getattr(block, part).weight for part in "kv"}
    first, x0 = {part: weight.detach().clone() for part, weight in weights.items()}, _read(model, block, probe)
    found = {f"start {part}": _rms(x0 @ weight.T) for part, weight in first.items()}
    for step in range(steps):
        trained.zero_grad()
        recipe.loss(model, next(batches)).backward()
        if step == 0:
            found |= {f"gradient {part}": _rms(weight.grad) for part, weight in weights.items()}
        trained.step()
        if step in {0, steps - 1}:
            x = _read(model, block, probe)
            for part, weight in weights.items():
                own, others = x @ (weight.detach() - first[part]).T, (x - x0) @ first[part].T
                named = {"own": own, "others": others, "change": own + others}
                found |= {f"{name} {part}, step {step + 1}": _rms(value) for name, value in named.items()}
    with torch.no_grad():
        return {**found, f"loss, step {steps}": float(recipe.loss(model, probe))}


def _model(recipe: Recipe, width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return recipe.build(Scale(width, 2))


def _read(model: nn.Module, block: Any, probe: Tensor) -> Tensor:
    """What the block's keys and values are made of, on the probe."""
    seen: list[Tensor] = []
    handle = block.norm1.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    with torch.no_grad():
        model(probe[:, :-1])
    handle.remove()
    return seen[0]


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def slopes(recipe: Recipe, optimizer: str, rule: Rule, steps: int) -> dict[str, dict[str, Any]]:
    """Quantity -> its geometric mean over seeds at every width, and the exponent through them."""
    runs = [[entries(recipe, width, optimizer, rule, steps, seed) for seed in SEEDS] for width in WIDTHS]
    found: dict[str, dict[str, Any]] = {}
    for key in runs[0][0]:
        logs = np.array([[np.log2(run[key]) for run in own] for own in runs]).mean(axis=1)
        exponent = float(np.polyfit(np.log2(WIDTHS), logs, 1)[0])
        found[key] = {"exponent": round(exponent, 2), "values": [float(f"{2**value:.4g}") for value in logs]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--only", default=",".join(OPTIMIZERS), help="optimizers, separated by commas")
    args = parser.parse_args()
    os.environ |= {"HPTRANSFER_HEAD_DIM": "8", "HPTRANSFER_KV_HEADS": "1"}
    torch.set_num_threads(1)
    recipe = load_recipe(str(ROOT / "recipes" / "gpt.py"))
    settings = {"command": "scripts/bench_gqa_entries.py", "widths": WIDTHS, "seeds": SEEDS, "steps": args.steps}
    out = ROOT / "benchmarks" / "gqa_entries.json"
    rules: tuple[Rule, ...] = ("readout", "fan-in")
    for optimizer, rule in itertools.product(args.only.split(","), rules):
        found = slopes(recipe, optimizer, rule, args.steps)
        shown = [f"  {key:18} {row['exponent']:+.2f}" for key, row in found.items()]
        print(f"{optimizer}, {rule}", *shown, sep="\n", flush=True)
        known = json.loads(out.read_text()) if out.exists() else {}
        kept = known if known.get("steps") == args.steps else {}
        out.write_text(json.dumps({**kept, **settings, f"{optimizer}, {rule}": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
