"""Learning rates predicted before any run at the target, against the target's own sweep, beside naive rules.

    python scripts/bench_predictions.py [--cases mlp-adamw-100,...] [--out benchmarks/predictions.json]

Every case: (recipe, optimizer, steps, target width). The prediction sees the base width only. The target is then swept
under the plan and under SP (one global rate), and trained at the advised rate and at each naive rule's (a naive rule
gives a global rate, so it trains SP). Regret: mean loss over the same seeds less the lowest that either sweep found
(best point or fitted minimum), relative. Costs are in multiply-adds of training (non-embedding parameters x examples)
and in seconds. Nothing is tuned on these cases: WIDTH_ERROR was fixed before the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hptransfer import Recipe, Scale, UsageError, load_recipe
from hptransfer.prediction.forecast.measured import stability_limit
from hptransfer.prediction.laws.lr_laws import LR_LAWS
from hptransfer.prediction.quadratic.stability import limit, rule_for
from hptransfer.validation.against import score_curve
from hptransfer.validation.predict import predict
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.verdict.optimum import Fit, curve_of, optima

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Case:
    """recipe, optimizer, steps, target width, and the octaves of the grid at base and target."""

    recipe: str
    optimizer: str
    steps: int
    width: int
    first: int
    last: int
    proxy_seeds: int = 2

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.optimizer}-{self.steps}"

    def build(self) -> Recipe:
        recipe = load_recipe(str(RECIPES / f"{self.recipe}.py"))
        if self.optimizer == "sgd":
            recipe = recipe.replace(optimizer=torch.optim.SGD, optimizer_options={"momentum": 0.9})
        lrs = tuple(2.0**k for k in range(self.first, self.last + 1))
        return recipe.replace(steps=self.steps, lrs=lrs)


CASES = (
    Case("mlp", "adamw", 50, 512, -11, -3),
    Case("mlp", "adamw", 100, 512, -12, -3),
    Case("mlp", "adamw", 200, 512, -13, -4),
    Case("mlp", "sgd", 100, 512, -8, -1),
    Case("mlp", "sgd", 50, 512, -7, 0),
    Case("gpt", "adamw", 100, 64, -9, -3, 1),
    Case("gpt", "adamw", 200, 64, -9, -3, 1),
    Case("gpt", "sgd", 100, 64, -6, 0, 1),
    Case("resnet", "adamw", 100, 64, -9, -2, 1),
    Case("resnet", "sgd", 100, 64, -6, 1, 1),
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
    """Predict, then sweep, then score."""
    recipe = case.build()
    started = time.perf_counter()
    made = predict(recipe, target=Scale(width=case.width), seeds=case.proxy_seeds, workers=1)
    predicted_s = time.perf_counter() - started
    rules = naive(recipe, case.width)
    started = time.perf_counter()
    runs = run_sweep(recipe, widths=[case.width], schemes=("mup", "sp"), seeds=2, workers=1)
    swept_s = (time.perf_counter() - started) / 2
    curves = {s: curve_of(runs, scheme=s, width=case.width, seeds=[0, 1]) for s in ("mup", "sp")}
    best = min(min(optima([Fit.of(c)])[0].loss, float(c.means.min())) for c in curves.values())
    score = score_curve(made, curves["mup"])
    proxy = case.proxy_seeds * len(recipe.lrs) * size(recipe, recipe.base.width or 1)
    return {
        "case": case.name,
        "width": [recipe.base.width, case.width],
        "score": asdict(score),
        "forecast": made.to_json(),
        "best_loss": best,
        "regret": relative(recipe, "mup", case.width, made.advised_lr, best),
        "naive": {n: {"lr": lr, "regret": relative(recipe, "sp", case.width, lr, best)} for n, lr in rules.items()},
        "sp_optimum": asdict(optima([Fit.of(curves["sp"])])[0]),
        "curves": {s: {"log2_lrs": c.log2_lrs.tolist(), "losses": c.losses.tolist()} for s, c in curves.items()},
        "cost_fraction_flops": proxy / (2 * len(recipe.lrs) * size(recipe, case.width)),
        "cost_fraction_seconds": predicted_s / swept_s,
    }


def relative(recipe: Recipe, scheme: str, width: int, lr: float, best: float) -> float:
    """Mean loss over the sweep's seeds of runs at exactly this rate, less the best, as a fraction of it."""
    runs = run_sweep(recipe, widths=[width], lrs=[lr], schemes=(scheme,), seeds=2, workers=1)
    return (statistics.fmean(run.val_loss for run in runs) - best) / abs(best)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, worst cases and means over the cases."""
    octaves = [abs(r["score"]["octaves"]) for r in results]
    rules = sorted({name for r in results for name in r["naive"]})
    return {
        "median_abs_octaves": statistics.median(octaves),
        "worst_abs_octaves": max(octaves),
        "mean_regret": statistics.fmean(r["regret"] for r in results),
        "median_regret": statistics.median(r["regret"] for r in results),
        "naive_mean_regret": {
            name: statistics.fmean(r["naive"][name]["regret"] for r in results if name in r["naive"]) for name in rules
        },
        "median_cost_fraction_flops": statistics.median(r["cost_fraction_flops"] for r in results),
        "intervals": f"{sum(bool(r['score']['hit']) for r in results)} of {len(results)} held the optimum",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", help="comma list of names; default: all")
    parser.add_argument("--out", default="benchmarks/predictions.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [case for case in CASES if not args.cases or case.name in args.cases.split(",")]
    results = []
    for case in chosen:
        results.append(run_case(case))
        score = results[-1]["score"]
        print(
            f"{case.name:18} off {score['octaves']:+.2f} oct, hit {score['hit']}, regret {results[-1]['regret']:.2%}, "
            f"cost {results[-1]['cost_fraction_flops']:.1%}; naive "
            + ", ".join(f"{k} {v['regret']:.1%}" for k, v in results[-1]["naive"].items()),
            flush=True,
        )
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
        body = {"command": " ".join(sys.argv), **machine, "summary": summary(results), "cases": results}
        Path(args.out).write_text(json.dumps(body, indent=1, default=float) + "\n")
    print(json.dumps(summary(results), indent=1))


if __name__ == "__main__":
    main()
