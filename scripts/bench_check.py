"""A whole transfer check against what a user of mup 1.0.0 and Optuna does for the same answer, side by side.

    python scripts/bench_check.py --quick                                     # two minutes on two cores, to try it
    python scripts/bench_check.py --out benchmarks/check.json                 # twelve minutes on two idle cores

Theirs: the recipe's model rewritten for mup (MuReadout, attention over d), the same data, seeds, steps and schedule in
a plain loop; for each scheme and width an Optuna study with a grid sampler, one trial at a time in one process, first
on the octaves of the recipe's rates, then on the half octaves between them too. Ours: `hptransfer check`, from the
start of its process to its report. Both sets of runs go through the same judge, so that the half-widths of the drift's
interval compare. Theirs is also judged and timed on a part of its runs: the octaves, and half octaves beside the best
one only, as by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe

BEGAN = time.perf_counter()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CASES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "gpt": {"widths": (16, 32, 64), "seeds": 3, "lrs": tuple(2.0**k for k in range(-9, -3))},
}
"""Recipes, and in which fields they are smaller here than by default."""
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"widths": (64, 128), "steps": 30},
    "gpt": {"widths": (16, 32), "seeds": 3, "steps": 30, "lrs": tuple(2.0**k for k in range(-8, -3))},
}
SLACK = 1.05
"""Times our half-width: what counts as the same precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipes", default="mlp,gpt")
    parser.add_argument("--quick", action="store_true", help="fewer widths, shorter runs")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=("mup",), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(with_mup(args.recipes, quick=args.quick)))
        return
    rows = [compared(name, quick=args.quick) for name in args.recipes.split(",")]
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps({"quick": args.quick, "slack": SLACK, "recipes": rows}, indent=1) + "\n")


def compared(name: str, *, quick: bool) -> dict[str, Any]:
    """Both sides on one recipe, one after the other; ratios at the same precision."""
    ours = with_check(name, quick=quick)
    command = [sys.executable, __file__, "--side", "mup", "--recipes", name, *(["--quick"] if quick else [])]
    theirs, seconds, cpu = timed(command, {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"})
    stages = json.loads(theirs)
    grids = [stage for stage in stages if stage["stage"].endswith("grid")]
    enough = [stage for stage in grids if stage["half_width"] <= SLACK * ours["half_width"]]
    best = min(enough or grids[-1:], key=lambda stage: stage["seconds"])
    return {
        **{"recipe": name, "machine": machine(), "ours": ours, "mup": stages},
        **{"mup_process": {"seconds": seconds, "cpu": cpu}, "same_precision": bool(enough), "against": best["stage"]},
        "times_faster": round(best["seconds"] / ours["seconds"], 2),
    }


def recipe_at(name: str, *, quick: bool) -> Recipe:
    """The recipe as it is compared; its lrs are the octaves."""
    from hptransfer.core.training.recipe import load_recipe

    recipe = load_recipe(str(ROOT / "recipes" / f"{name}.py"))
    return recipe.replace(**(QUICK if quick else CASES)[name])


# Ours


def with_check(name: str, *, quick: bool) -> dict[str, Any]:
    """`hptransfer check` in a process of its own."""
    from hptransfer.validation.records.results import TransferResult

    recipe = recipe_at(name, quick=quick)
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "hptransfer.cli", "check", str(ROOT / "recipes" / f"{name}.py"), "--out", out]
        command += ["--widths", ",".join(map(str, recipe.widths)), "--seeds", str(recipe.seeds)]
        command += ["--steps", str(recipe.steps), "--lrs", ",".join(map(repr, recipe.lrs))]
        _, seconds, cpu = timed(command, dict(os.environ), allowed=(0, 1, 3))
        result = TransferResult.load(out)
    drift = result.drifts[0]
    return {
        **{"runs": len(result.runs), "seconds": seconds, "cpu": cpu, "verdict": result.verdict},
        **{"drift": drift.octaves, "half_width": (drift.high - drift.low) / 2},
        "training": sum(run.seconds for run in result.runs),
    }


def timed(
    command: Sequence[str], environment: dict[str, str], *, allowed: Iterable[int] = (0,)
) -> tuple[str, float, float]:
    """(what it printed, seconds, seconds of CPU) of a command."""
    environment["PYTHONPATH"] = str(ROOT)
    before, began = _children(), time.perf_counter()
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode not in allowed:
        sys.exit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return ended.stdout, round(time.perf_counter() - began, 2), round(_children() - before, 2)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Theirs


def with_mup(name: str, *, quick: bool) -> list[dict[str, Any]]:
    """The stages of a user's work with mup and Optuna; seconds from the start of the process to the end of each."""
    recipe = recipe_at(name, quick=quick)
    began = time.perf_counter()
    set_threads(recipe, name)
    tried = time.perf_counter() - began  # which number of threads is faster they need not find out
    octaves = list(recipe.lrs)
    between = [math.sqrt(low * high) for low, high in itertools.pairwise(octaves)]
    runs = searched(recipe, name, octaves)
    stages = [judged_stage("octave grid", recipe, runs, time.perf_counter() - BEGAN - tried)]
    runs += searched(recipe, name, between)
    seconds = time.perf_counter() - BEGAN - tried
    kept = [run for run in runs if run["lr"] in octaves or run["lr"] in beside_best(runs, run, octaves)]
    saved = sum(run["seconds"] for run in runs) - sum(run["seconds"] for run in kept)
    stages.append(judged_stage("octaves, halves by hand", recipe, kept, seconds - saved))
    stages.append(judged_stage("half-octave grid", recipe, runs, seconds))
    return stages


def set_threads(recipe: Recipe, name: str) -> None:
    """All cores for one run at a time, or one, whichever trains the largest width faster."""
    import torch

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        train = trainer(recipe.replace(steps=min(recipe.steps, 20)), name, "mup", max(recipe.widths))
        train(recipe.lrs[0], 0)
        began = time.perf_counter()
        train(recipe.lrs[0], 0)
        return time.perf_counter() - began

    torch.set_num_threads(min((torch.get_num_threads(), 1), key=seconds))


def searched(recipe: Recipe, name: str, lrs: Sequence[float]) -> list[dict[str, Any]]:
    """A study per scheme and width: every rate with every seed, one trial after the other."""
    runs: list[dict[str, Any]] = []
    for scheme in ("mup", "sp"):
        for width in recipe.widths:
            train = trainer(recipe, name, scheme, width)
            runs += [{"scheme": scheme, "width": width, **run} for run in studied(train, lrs, range(recipe.seeds))]
    return runs


def studied(train: Callable[[float, int], float], lrs: Sequence[float], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One Optuna study over a grid of rates and seeds."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        lr, seed = trial.suggest_categorical("lr", lrs), trial.suggest_categorical("seed", seeds)
        began = time.perf_counter()
        loss = train(lr, seed)
        runs.append({"lr": lr, "seed": seed, "loss": loss, "seconds": time.perf_counter() - began})
        return loss if math.isfinite(loss) else 1e9

    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"lr": list(lrs), "seed": list(seeds)}, seed=0))
    study.optimize(objective, n_trials=len(lrs) * len(seeds))
    return runs


def trainer(recipe: Recipe, name: str, scheme: str, width: int) -> Callable[[float, int], float]:
    """(rate, seed) -> validation loss, in a plain loop."""
    import mup
    import torch

    scale, base = recipe.base.with_(width=width), recipe.base.width or 1
    shapes = mup.make_base_shapes(rewritten(recipe, name, base), rewritten(recipe, name, 2 * base))
    plain: Any = recipe.one_optimizer
    adam: Any = mup.MuAdamW if plain is torch.optim.AdamW else mup.MuAdam

    def train(lr: float, seed: int) -> float:
        torch.manual_seed(seed)
        if scheme == "mup":
            model = mup.set_base_shapes(rewritten(recipe, name, width), shapes)
            optimizer = adam(model.parameters(), lr=lr, **recipe.optimizer_options)
        else:
            model = recipe.build(scale)
            optimizer = plain(model.parameters(), lr=lr, **recipe.optimizer_options)
        rates = [group["lr"] for group in optimizer.param_groups]
        data = recipe.batches(scale, seed)
        for step in range(recipe.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * recipe.schedule((step + 0.5) / recipe.steps)
            loss = recipe.loss(model, next(data))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            losses = [recipe.loss(model, batch).item() for batch in recipe.validation()]
        return math.fsum(losses) / len(losses)

    return train


def rewritten(recipe: Recipe, name: str, width: int) -> Any:
    """The recipe's model as mup wants it: MuReadout, and attention over d with the base's own sqrt(d) at the base."""
    import mup
    from torch import nn

    model: Any = recipe.build(recipe.base.with_(width=width))
    old: nn.Linear = model[-1] if name == "mlp" else model.head
    readout = mup.MuReadout(old.in_features, old.out_features, bias=old.bias is not None)
    readout.weight.data.copy_(old.weight.data)
    if name == "mlp":
        model[-1] = readout
        return model
    model.head = readout
    for block in model.blocks:
        block.forward = attending(block, (recipe.base.width or 1) / block.heads)
    return model


def attending(block: Any, base_head: float) -> Callable[[Any], Any]:
    """The forward of recipes/gpt.py's Block with logits over d."""
    from torch.nn import functional as F

    def forward(x: Any) -> Any:
        h = block.norm1(x)
        q, k, v = (f(h).unflatten(-1, (block.heads, -1)).transpose(1, 2) for f in (block.q, block.k, block.v))
        scale = base_head**0.5 / q.shape[-1]
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        x = x + block.proj(read.transpose(1, 2).flatten(2))
        return x + block.down(F.gelu(block.up(block.norm2(x))))

    return forward


# The same judge for both


def judged_stage(stage: str, recipe: Recipe, rows: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What the judge of `hptransfer check` says of these runs."""
    from hptransfer.validation.verdict.judged import judged
    from hptransfer.validation.verdict.optimum import Fit, curve_of

    runs = [record(row, recipe.steps) for row in rows]
    seeds = tuple(range(recipe.seeds))
    fits = {
        scheme: [Fit.of(curve_of(runs, scheme=scheme, size=width, seeds=seeds)) for width in recipe.widths]
        for scheme in ("mup", "sp")
    }
    said = judged(fits, scheme="mup", control="sp", tolerance=0.5, base=recipe.base.width)
    drift = said.drifts[0]
    return {
        **{"stage": stage, "runs": len(rows), "seconds": round(seconds, 2), "verdict": said.verdict},
        **{"drift": drift.octaves, "half_width": (drift.high - drift.low) / 2},
        "training": sum(row["seconds"] for row in rows),
    }


def record(row: dict[str, Any], steps: int) -> Any:
    """A run as our judge reads it."""
    from hptransfer.validation.records.runs import Run

    loss, gone = row["loss"], not math.isfinite(row["loss"])
    return Run(
        **{"scheme": row["scheme"], "width": row["width"], "depth": None, "lr": row["lr"], "seed": row["seed"]},
        **{"steps": steps, "val_loss": math.inf if gone else loss, "train_loss": loss, "curve": (), "diverged": gone},
        **{"seconds": row["seconds"], "state": "diverged" if gone else "complete"},
    )


def beside_best(runs: Sequence[dict[str, Any]], run: dict[str, Any], octaves: Sequence[float]) -> list[float]:
    """The half octaves next to the best octave of a run's scheme and width."""
    here = [r for r in runs if (r["scheme"], r["width"]) == (run["scheme"], run["width"]) and r["lr"] in octaves]
    mean = {
        lr: math.fsum(r["loss"] if math.isfinite(r["loss"]) else 1e9 for r in here if r["lr"] == lr) for lr in octaves
    }
    best = min(octaves, key=lambda lr: mean[lr])
    return [run["lr"]] if abs(abs(math.log2(run["lr"] / best)) - 0.5) < 1e-6 else []


def machine() -> str:
    """Cores, processor and torch."""
    from hptransfer.validation.environment import environment

    here = environment("cpu")
    return f"{here['cores']} cores, {here['processor']}, torch {here['torch']}, load {os.getloadavg()[0]:.1f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown for the README."""
    lines = [
        "| recipe | who | runs | seconds | CPU seconds | drift, octaves | half-width | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["ours"]
        lines.append(line(row["recipe"], "`hptransfer check`", ours, f"{ours['cpu']:.0f}", "1"))
        for stage in row["mup"]:
            cpu = f"{row['mup_process']['cpu']:.0f}" if stage is row["mup"][-1] else ""
            ratio = f"{stage['seconds'] / ours['seconds']:.2f} times as long"
            lines.append(line("", f"mup + Optuna, {stage['stage']}", stage, cpu, ratio))
    notes = [
        f"{row['recipe']}: {row['times_faster']} times faster than mup + Optuna on its {row['against']}"
        + ("." if row["same_precision"] else ", which is less precise.")
        for row in rows
    ]
    return "\n".join([*lines, "", *notes, rows[0]["machine"]])


def line(recipe: str, who: str, row: dict[str, Any], cpu: str, ratio: str) -> str:
    figures = f"{row['runs']} | {row['seconds']:.1f} | {cpu} | {row['drift']:+.2f} | {row['half_width']:.2f}"
    return f"| {recipe} | {who} | {figures} | {ratio} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
