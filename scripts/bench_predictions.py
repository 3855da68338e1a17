"""Learning rates predicted before any run at the target, against the target's own sweep, beside naive rules.

    python scripts/bench_predictions.py [--cases mlp-adam-200,...] [--out benchmarks/predictions.json]

Every case: (recipe, optimizer, steps, batch, base and target width). Two starts see the base width only: "quarter" (all
rates for a quarter of the schedule, the best few to the end, one seed) and "sweep" (all rates to the end, two seeds).
The target is swept under the plan (octaves, two seeds). Error: octaves between the predicted rate and the vertex of
the target's mean losses; regret: loss at the advised rate, interpolated there, less the best, in nats. Naive rules give
a global rate, so they train SP at it. `frozen` cases were fixed before any of them was run, and chose
nothing; the others are recipes on which the quarter's shift of .7 octaves had been measured. Costs: training steps
times parameters, as shares of the target's own sweep.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hptransfer import Recipe, Scale, UsageError, load_recipe
from hptransfer.prediction.forecast.measured import stability_limit
from hptransfer.prediction.laws.cell import Cell
from hptransfer.prediction.laws.lr_laws import LR_LAWS
from hptransfer.prediction.quadratic.stability import limit, rule_for
from hptransfer.validation.forecasts.predict import predict
from hptransfer.validation.sweep import run_sweep

RECIPES = Path(__file__).parent.parent / "recipes"
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


@dataclass(frozen=True)
class Case:
    """recipe, optimizer, steps, widths of base and target, octaves of the grid, batch; frozen: it chose nothing."""

    recipe: str
    optimizer: str
    steps: int
    base: int
    width: int
    first: int
    last: int
    batch: int | None = None
    frozen: bool = False

    @property
    def name(self) -> str:
        batch = f"-b{self.batch}" if self.batch else ""
        return f"{self.recipe}-{self.optimizer}-{self.steps}{batch}-w{self.base}to{self.width}"

    def build(self) -> Recipe:
        recipe = load_recipe(str(RECIPES / f"{self.recipe}.py"))
        optimizer, options = OPTIMIZERS[self.optimizer]
        lrs = tuple(2.0**k for k in range(self.first, self.last + 1))
        base = recipe.base.with_(width=self.base, batch=self.batch)
        return recipe.replace(optimizer=optimizer, optimizer_options=options, steps=self.steps, lrs=lrs, base=base)


CASES = (
    Case("mlp", "adam", 200, 64, 256, -12, -4),
    Case("mlp", "adam", 400, 64, 256, -13, -5),
    Case("mlp", "sgd", 200, 64, 256, -9, -1),
    Case("mlp", "sgd", 400, 64, 256, -9, -1),
    Case("gpt", "adamw", 200, 32, 64, -9, -3),
    Case("resnet", "adam", 200, 16, 32, -9, -3),
    Case("mlp", "adamw", 240, 32, 256, -12, -4, frozen=True),
    Case("mlp", "adam", 300, 64, 256, -12, -4, batch=16, frozen=True),
    Case("mlp", "adam", 200, 64, 256, -12, -4, batch=256, frozen=True),
    Case("mlp", "sgd", 300, 32, 128, -9, -1, batch=16, frozen=True),
    Case("mlp", "adamw", 800, 128, 512, -13, -5, frozen=True),
    Case("gpt", "adam", 240, 16, 64, -9, -3, frozen=True),
    Case("gpt", "sgd", 200, 32, 64, -6, 0, frozen=True),
)


def size(recipe: Recipe, width: int) -> int:
    """Parameters of the recipe at a width, embeddings left out."""
    model = recipe.build(recipe.base.with_(width=width))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def naive(recipe: Recipe, width: int) -> dict[str, float]:
    """Rules of thumb for a global rate at the target: constants, 2/lambda_max, and Step Law."""
    scale = recipe.base.with_(width=width)
    found = {"3e-4": 3e-4, "1e-3": 1e-3}
    try:
        at = stability_limit(recipe, scale).value
        found["2/lambda_max"] = 2 * at / limit(rule_for(recipe.optimizer, recipe.optimizer_options))
    except UsageError as error:
        print(f"2/lambda_max: {error}", file=sys.stderr)
    batch = next(recipe.batches(scale, 0))
    tokens = batch.numel() if isinstance(batch, torch.Tensor) else len(batch[0])
    found["step-law"] = LR_LAWS["step-law"].value(params=size(recipe, width), tokens=tokens * recipe.steps)
    return found


def run_case(case: Case) -> dict[str, Any]:
    """Predict by both starts, then sweep the target, then score."""
    recipe = case.build()
    target = Scale(width=case.width)
    started = time.perf_counter()
    forecasts: dict[str, Any] = {}
    for start in ("quarter", "sweep"):
        options = {"start": start, "diagnostics": False} | ({"seeds": 2, "workers": 1} if start == "sweep" else {})
        try:
            forecasts[start] = predict(recipe, target=target, **options)
        except UsageError as error:
            forecasts[start] = str(error)
    rules = naive(recipe, case.width)
    predicted_s = time.perf_counter() - started
    runs = run_sweep(recipe, widths=[case.width], schemes=("mup",), seeds=2, workers=1)
    lrs = sorted({run.lr for run in runs})
    losses = [statistics.fmean(run.val_loss for run in runs if run.lr == lr) for lr in lrs]
    cell = Cell(math.nan, math.nan, math.nan, tuple(lrs), tuple(losses))
    best = cell.best_loss
    return {
        "case": case.name,
        "frozen": case.frozen,
        "curve": list(zip(lrs, losses, strict=True)),
        "edge": cell.at_edge,
        "starts": {name: scored(case, recipe, made, cell) for name, made in forecasts.items()},
        "naive": {name: {"lr": lr, "regret": trained(recipe, case.width, lr) - best} for name, lr in rules.items()},
        "seconds": [predicted_s, time.perf_counter() - started - predicted_s],
    }


def scored(case: Case, recipe: Recipe, made: Any, cell: Cell) -> dict[str, Any]:
    """Error, hit, regret and cost of one forecast; the reason where there is none."""
    if isinstance(made, str):
        return {"refused": made}
    rate, tried = made.learning_rate, len(cell.lrs)
    source = made.steps[0].prediction.source
    runs = float(source.split(": ")[-1].split(" ")[0]) if "runs' cost" in source else 2 * tried
    return {
        "octaves": math.log2(rate.value / cell.best_lr),
        "hit": bool(rate.contains(cell.best_lr)),
        "advised": made.advised_lr,
        "regret": cell.regret(made.advised_lr),
        "width": math.log2(rate.high / rate.low),
        "cost": runs * size(recipe, case.base) / (2 * tried * size(recipe, case.width)),
    }


def trained(recipe: Recipe, width: int, lr: float) -> float:
    """Validation loss under SP at one global rate, one seed."""
    (run,) = run_sweep(recipe, widths=[width], lrs=[lr], schemes=("sp",), seeds=1, workers=1)
    return run.val_loss


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and worst cases over all and over the frozen cases; refusals counted."""
    found: dict[str, Any] = {}
    for label, rows in (("all", results), ("frozen", [r for r in results if r["frozen"]])):
        for start in ("quarter", "sweep"):
            scores = [r["starts"][start] for r in rows if "octaves" in r["starts"][start] and not r["edge"]]
            if scores:
                found[f"{label}, {start}"] = {
                    "cases": len(scores),
                    "refused": [r["case"] for r in rows if "refused" in r["starts"][start]],
                    "median_abs_octaves": statistics.median(abs(s["octaves"]) for s in scores),
                    "worst_abs_octaves": max(abs(s["octaves"]) for s in scores),
                    "coverage": f"{sum(s['hit'] for s in scores)} of {len(scores)}",
                    "median_regret_nats": statistics.median(s["regret"] for s in scores),
                    "mean_regret_nats": statistics.fmean(s["regret"] for s in scores),
                    "median_cost": statistics.median(s["cost"] for s in scores),
                    "sd_octaves": math.sqrt(statistics.fmean(s["octaves"] ** 2 for s in scores)),
                }
    rules = sorted({name for r in results for name in r["naive"]})
    found["naive, median regret in nats"] = {
        name: statistics.median(r["naive"][name]["regret"] for r in results if name in r["naive"]) for name in rules
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", help="comma list of names; default: all")
    parser.add_argument("--out", default="benchmarks/predictions.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for case in (case for case in CASES if not args.cases or case.name in args.cases.split(",")):
        results.append(run_case(case))
        for start, row in results[-1]["starts"].items():
            told = {name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}
            print(case.name, "frozen" if case.frozen else "", start, told, flush=True)
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
        body = {"command": " ".join(sys.argv), **machine, "summary": summary(results), "cases": results}
        Path(args.out).write_text(json.dumps(body, indent=1, default=float) + "\n")
    print(json.dumps(summary(results), indent=1))


if __name__ == "__main__":
    main()
