"""Pairs of optimizers on the recipes over eight times the width: does the rate transfer?

Results go to benchmarks/optimizers-NAME.json.

    python scripts/bench_optimizers.py mlp muon      # minutes, one core
    python scripts/bench_optimizers.py gpt muonh

muon: torch.optim.Muon on hidden matrices beside AdamW; muonh: Muon on the Frobenius sphere (2606.16899; 2603.28743),
adamh: Adam there, beside AdamW. What is swept is the rate of the hidden matrices; AdamW's stays in one ratio to it.
The settings below were chosen before the first run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from bench_recipes import entry
from torch import Tensor

import hptransfer as hpt

ROOT = Path(__file__).parents[1]


class OnSphere(torch.optim.Optimizer):
    """W <- |W0|_F (W - lr |W0|_F u / |u|_F) / |...|_F: a step of relative size lr on the Frobenius sphere."""

    def __init__(self, params: Any, lr: float = 1e-2, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def update(self, state: dict[str, Any], gradient: Tensor, momentum: float) -> Tensor:
        """The direction of the step."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                radius = state.setdefault("radius", p.norm())
                u = self.update(state, p.grad, group["momentum"])
                p.sub_(u * (radius / u.norm().clamp_min(1e-30)), alpha=group["lr"])
                p.mul_(radius / p.norm())


class MuonH(OnSphere):
    """The update is the orthogonalised momentum."""

    def update(self, state: dict[str, Any], gradient: Tensor, momentum: float) -> Tensor:
        buffer = state.setdefault("buffer", torch.zeros_like(gradient)).lerp_(gradient, 1 - momentum)
        u, _, v = torch.linalg.svd(buffer, full_matrices=False)
        return u @ v


class AdamH(OnSphere):
    """The update is Adam's, with betas (momentum, .95)."""

    def update(self, state: dict[str, Any], gradient: Tensor, momentum: float) -> Tensor:
        state["step"] = t = state.get("step", 0) + 1
        m = state.setdefault("m", torch.zeros_like(gradient)).lerp_(gradient, 1 - momentum)
        v = state.setdefault("v", torch.zeros_like(gradient)).lerp_(gradient.square(), 0.05)
        return (m / (1 - momentum**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-12)


hpt.register_optimizer(MuonH, like="MuonH")
hpt.register_optimizer(AdamH, like="AdamH", averages=())

HIDDEN: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "muon": (torch.optim.Muon, {"lr": 0.02, "weight_decay": 0.0}),
    "muonh": (MuonH, {"lr": 0.02}),
    "adamh": (AdamH, {"lr": 0.02}),
}
REST = {"lr": 0.01, "weight_decay": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": (64, 128, 256, 512), "lrs": tuple(2.0**k for k in range(-9, -1)), "seeds": 3},
    "gpt": {"widths": (16, 32, 64, 128), "lrs": tuple(2.0**k for k in range(-8, -2)), "seeds": 3},
}


def recipe_of(name: str, kind: str) -> hpt.Recipe:
    """A recipe with a pair of optimizers in place of its own."""
    cls, options = HIDDEN[kind]
    return hpt.load_recipe(str(ROOT / "recipes" / f"{name}.py")).replace(
        name=f"{name}-{kind}",
        optimizer={"hidden": cls, "rest": torch.optim.AdamW},
        optimizer_options={"hidden": options, "rest": REST},
        **SETTINGS[name],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", choices=tuple(SETTINGS))
    parser.add_argument("optimizer", choices=tuple(HIDDEN))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "hptransfer-out", help="where the runs are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = recipe_of(args.recipe, args.optimizer)
    begin, out = time.monotonic(), args.out / recipe.name  # goes on from the runs that are there
    result = hpt.transfer_check(recipe, out=out, workers=args.workers, device=args.device)
    print(result.verdict, *result.reasons, sep="\n")
    path = ROOT / "benchmarks" / f"optimizers-{recipe.name}.json"
    row = entry(args.recipe, result, time.monotonic() - begin, {"optimizer": args.optimizer})
    path.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
