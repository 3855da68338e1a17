"""Loss over batch x tokens x learning rate at one width of our own recipes: the tables of benchmarks/grids/.

    python scripts/measure_grids.py [--only mlp-adam ...]        # about 20 minutes on one core

The model, the data and every other hyperparameter stay; the betas do not follow the batch. Batch and tokens are in
the recipe's examples. Rates are octaves; a grid is widened by hand where an optimum lies at its edge, never thinned.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from hptransfer import Recipe, load_recipe, run_sweep

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "grids"


@dataclass(frozen=True)
class Grid:
    """recipe; optimizer: "adam" keeps the recipe's, "sgd" has momentum .9; batches, tokens; octaves of the rates."""

    recipe: str
    optimizer: str
    batches: tuple[int, ...]
    tokens: tuple[int, ...]
    octaves: tuple[int, int]
    seeds: int

    def build(self) -> Recipe:
        recipe = load_recipe(str(ROOT / "recipes" / f"{self.recipe}.py"))
        sgd = {"optimizer": torch.optim.SGD, "optimizer_options": {"momentum": 0.9}}
        return recipe.replace(**sgd) if self.optimizer == "sgd" else recipe


GRIDS = {
    "mlp-adam": Grid("mlp", "adam", (8, 32, 128, 512), (3200, 12800, 51200), (-14, -3), 2),
    "gpt-adam": Grid("gpt", "adam", (8, 32, 128), (1600, 6400), (-9, -4), 1),
    "resnet-adam": Grid("resnet", "adam", (16, 64), (12800, 25600), (-9, -3), 1),
    "mlp-sgd": Grid("mlp", "sgd", (8, 32, 128, 512), (3200, 12800), (-10, 0), 1),
}


def measure(name: str, grid: Grid) -> Path:
    """Train the grid and write its table: params, tokens, batch, lr, loss, a row a run."""
    recipe = grid.build()
    params = sum(p.numel() for p in recipe.build(recipe.base).parameters())
    lrs = [2.0**k for k in range(grid.octaves[0], grid.octaves[1] + 1)]
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["params", "tokens", "batch", "lr", "seed", "loss"])
        for batch in grid.batches:
            for tokens in grid.tokens:
                at = recipe.replace(base=recipe.base.with_(batch=batch), steps=max(1, tokens // batch))
                for run in run_sweep(at, scales=[at.base], lrs=lrs, schemes=("mup",), seeds=grid.seeds, workers=1):
                    loss = run.val_loss if run.val_loss is not None else float("nan")
                    rows.writerow([params, tokens, batch, run.lr, run.seed, loss])
                file.flush()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=GRIDS, default=list(GRIDS))
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in parser.parse_args().only:
        print(measure(name, GRIDS[name]), flush=True)


if __name__ == "__main__":
    main()
