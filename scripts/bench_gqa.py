"""Fixed key-value heads, query heads growing with the width: which rule for their weights keeps the learning rate?

    python scripts/bench_gqa.py [--runs hptransfer-out/gqa] [--name gqa]      # recipes/gpt.py, five minutes of one core

Heads of 8, one key-value head: r = 2, 4 and 8 query heads read it at widths 16, 32 and 64, where the base is 16. The
candidates are the same at the base width, but for one whose heads start at half the size there. Runs are kept in the
directory and not made twice; the figures go to benchmarks/NAME.json. The settings were fixed before any candidate but
the control was trained; the halved candidate was added once the others had been seen, and nothing was chosen by it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import hptransfer as hpt
from hptransfer.core.files import encode
from hptransfer.core.roles import Kind, Role
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Recipe, Scale, load_recipe
from hptransfer.parametrization.apply.groups import param_groups
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.validation.engines.trainer import run_of
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.verdict.comparisons import drift_between, loss_gaps
from hptransfer.validation.verdict.optimum import Fit, curve_of, optima

ROOT = Path(__file__).parents[1]
HEAD_DIM, KV_HEADS, WIDTHS, STEPS, BATCH = 8, 1, (16, 32, 64), 100, 8
LRS, SEEDS = tuple(2.0**k for k in range(-8, -3)), (100, 101, 102)
CONTROL = "readout"


@dataclass(frozen=True)
class Candidate:
    """A rule for the weights of fixed heads: the role that sets their init, and a factor on their learning rate.

    raised: the learning rate also follows (1 + r^1/2) / 2, as in the code released with 2605.15290. init: a factor on
    the initial std at every width, the base's included.
    """

    key: Kind
    value: Kind
    raised: bool = False
    init: float = 1.0


CANDIDATES: Mapping[str, Candidate] = {
    "readout": Candidate("readout", "readout"),
    "fan-in": Candidate("bottleneck", "bottleneck"),
    "fan-in keys": Candidate("bottleneck", "readout"),
    "2605.15290": Candidate("bottleneck", "bottleneck", raised=True),
    "fan-in, half": Candidate("bottleneck", "bottleneck", init=0.5),
}
"""init n^-1; n^-1/2; n^-1 for values and n^-1/2 for keys; n^-1/2 with a learning rate raised; n^-1/2 from half."""


def repetition(width: int) -> float:
    """Query heads per key-value head."""
    return width / HEAD_DIM / KV_HEADS


def plan_of(recipe: Recipe, candidate: Candidate, width: int) -> hpt.Plan:
    """A candidate's plan of one width against the base's."""
    base = recipe.base.width or 0
    made = HEAD_DIM * KV_HEADS
    kinds: dict[str, Kind] = {"k": candidate.key, "v": candidate.value}
    roles = {f"blocks.*.{part}.weight": Role(kind, width, made, base, made) for part, kind in kinds.items()}
    factor = (1 + repetition(width) ** 0.5) / (1 + repetition(base) ** 0.5) if candidate.raised else 1.0
    return hpt.make_plan(
        model_of(recipe, width, seed=1),
        base=model_of(recipe, base, seed=0),
        example_inputs=recipe.example_inputs(),
        optimizer=recipe.optimizer,
        optimizer_options=recipe.optimizer_options,
        roles=roles if width != base else None,
        tuned={name: hpt.Tuned(lr=factor, init=candidate.init) for name in roles},
    )


def model_of(recipe: Recipe, width: int, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return recipe.build(recipe.base.with_(width=width))


def trained(recipe: Recipe, plan: hpt.Plan, job: Job) -> Run:
    """One run of a plan; the seed draws weights and data."""
    scale = Scale(width=job.width, depth=job.depth, batch=job.batch)
    model = model_of(recipe, job.width or 0, seed=job.seed)
    parametrize_(model, plan)
    groups = param_groups(model, plan, lr=job.lr, weight_decay=recipe.optimizer_options["weight_decay"])
    optimizer = recipe.optimizer(groups, **recipe.optimizer_options)
    return run_of(job, train(recipe.replace(steps=job.steps), model, optimizer, scale=scale, seed=job.seed))


def jobs(recipe: Recipe) -> Iterator[Job]:
    """Every run to be made; the base's once for all candidates that are the same there."""
    for width in WIDTHS:
        for name in CANDIDATES:
            if width == recipe.base.width and name in same_at_base():
                continue
            for seed in SEEDS:
                for lr in LRS:
                    yield Job(name, width, recipe.base.depth, lr, seed, STEPS, BATCH)


def same_at_base() -> list[str]:
    """The candidates that are the control at the base's width."""
    return [name for name, candidate in CANDIDATES.items() if name != CONTROL and candidate.init == 1]


def measured(recipe: Recipe, log: RunLog) -> list[Run]:
    """All runs, the base's standing under every candidate's name."""
    known = {key: run for key, run in log.known.items() if run.finished}
    plans: dict[tuple[str, int], hpt.Plan] = {}
    todo = list(jobs(recipe))
    for job in tqdm(todo, disable=None):
        if job.key in known:
            continue
        key = job.scheme, job.width or 0
        if key not in plans:
            plans[key] = plan_of(recipe, CANDIDATES[job.scheme], key[1])
        known[job.key] = trained(recipe, plans[key], job)
        log.append(known[job.key])
    runs = [known[job.key] for job in todo]
    at_base = [run for run in runs if run.width == recipe.base.width and run.scheme == CONTROL]
    return runs + [replace(run, scheme=name) for name in same_at_base() for run in at_base]


def figures(recipe: Recipe, runs: Sequence[Run]) -> dict[str, Any]:
    """Best learning rate and loss of every candidate and width, the drift, and the loss against the control's."""
    fits = {
        name: [Fit.of(curve_of(runs, scheme=name, size=width, seeds=SEEDS)) for width in WIDTHS] for name in CANDIDATES
    }
    gaps = {
        name: [
            {"width": gap.size, "nats": gap.mup_minus_sp, "low": gap.low, "high": gap.high}
            for gap in loss_gaps(own, fits[CONTROL], base_size=recipe.base.width)
        ]
        for name, own in fits.items()
        if name != CONTROL
    }
    return {
        "repetitions": {str(width): repetition(width) for width in WIDTHS},
        "optima": [asdict(o) for own in fits.values() for o in optima(own)],
        "drifts": [asdict(drift_between(own[0], own[-1], own)) for own in fits.values()],
        f"loss_less_that_of_{CONTROL}": gaps,
        "curves": [
            {"scheme": f.curve.scheme, "width": f.curve.size, "losses": f.curve.means.tolist()}
            for own in fits.values()
            for f in own
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("hptransfer-out/gqa"))
    parser.add_argument("--name", default="gqa")
    args = parser.parse_args()
    os.environ |= {"HPTRANSFER_HEAD_DIM": str(HEAD_DIM), "HPTRANSFER_KV_HEADS": str(KV_HEADS)}
    torch.set_num_threads(1)
    recipe = load_recipe(str(ROOT / "recipes" / "gpt.py"))
    recipe = recipe.replace(base=recipe.base.with_(width=WIDTHS[0], batch=BATCH))
    with RunLog(args.runs) as log:
        runs = measured(recipe, log)
    settings = {"head_dim": HEAD_DIM, "kv_heads": KV_HEADS, "steps": STEPS, "batch": BATCH, "seeds": SEEDS, "lrs": LRS}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    body = {"command": "scripts/bench_gqa.py", **machine, **settings, **figures(recipe, runs)}
    (ROOT / "benchmarks" / f"{args.name}.json").write_text(json.dumps(encode(body), indent=1) + "\n")
    for drift in body["drifts"]:
        print(f"{drift['scheme']:12} {drift['octaves']:+.2f} [{drift['low']:+.2f}, {drift['high']:+.2f}] octaves")


if __name__ == "__main__":
    main()
