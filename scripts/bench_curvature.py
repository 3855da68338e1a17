"""What curvature costs and how exact it is, on the recipes: products against training steps, Lanczos against tight
Lanczos.

    python scripts/bench_curvature.py [--recipes mlp,resnet,gpt] [--out benchmarks/curvature.json]

Per recipe at its base scale, on the CPU: milliseconds of one training gradient, one Hessian product and one
Gauss-Newton product on the same batch; products that lambda_max(P^-1 H) takes at residual 10% and 1%; how far either
lies from the value at residual 1e-5 (float64), relative.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hptransfer.core.training.recipe import load_recipe
from hptransfer.prediction.curvature.curvature import sharpness
from hptransfer.prediction.curvature.operators import ggn_operator, gradients, hessian_operator
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init

RECIPES = Path(__file__).parent.parent / "recipes"


def median_ms(action: Callable[[], object], repeats: int = 7) -> float:
    """The median wall time of a call, in milliseconds, after one call to warm up."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[repeats // 2]


def measure(name: str) -> dict[str, float]:
    """One recipe's row."""
    recipe = load_recipe(str(RECIPES / f"{name}.py"))
    torch.manual_seed(0)
    model = recipe.build(recipe.base)
    batches = list(itertools.islice(recipe.batches(recipe.base, 0), 4))
    space = ParameterSpace.of(model)
    hessian, ggn = (make(model, recipe.loss, batches[:1]) for make in (hessian_operator, ggn_operator))
    v = hessian.random_vector(0)
    row: dict[str, float] = {"parameters": space.size}
    row["gradient_ms"] = median_ms(lambda: gradients(model, recipe.loss, batches[:1]))
    row["hessian_product_ms"], row["ggn_product_ms"] = median_ms(lambda: hessian(v)), median_ms(lambda: ggn(v))
    p = preconditioner_at_init(
        recipe.optimizer, recipe.optimizer_options, space, gradients(model, recipe.loss, batches)
    )
    found = {
        tolerance: sharpness(model, recipe.loss, batches, preconditioner=p, tolerance=tolerance, max_products=500)
        for tolerance in (0.1, 0.01, 1e-5)
    }
    exact = found[1e-5]
    row |= {"lambda_max": exact.value, "batch_error": exact.batch_error, "batch_bias": exact.batch_bias}
    for tolerance in (0.1, 0.01):
        row[f"products_at_{tolerance:g}"] = found[tolerance].products
        row[f"error_at_{tolerance:g}"] = abs(found[tolerance].value / exact.value - 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="mlp,resnet,gpt")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rows = {name: measure(name) for name in chosen.recipes.split(",")}
    for name, row in rows.items():
        print(name, " ".join(f"{key}={value:.4g}" for key, value in row.items()))
    if chosen.out:
        machine = {"platform": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        chosen.out.write_text(
            json.dumps({"command": " ".join(sys.argv), "machine": machine, "rows": rows}, indent=1) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
