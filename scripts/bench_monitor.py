"""What hptransfer.Monitor costs at its defaults, and how often its collapse alarm is right.

    python scripts/bench_monitor.py [--out benchmarks/monitor.json] [--only overhead|collapse] [--device cuda]

Overhead: one small GPT with AdamW, trained plain, plain again and monitored, step by step in turn, so that drifts of
the machine hit all three; the ratio of the whole times with a bootstrap over blocks of steps. Collapse: reference runs
at the base's width, then runs at twice and four times that width on other seeds, scaled by a plan (healthy), and with
a rate or a decay that is wrong; how many of each give an alarm, and when. Seeds and thresholds were fixed before.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_overhead import GPT, LENGTH, VOCAB
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.monitoring.collapse import LossCurve, alarm, collapse
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.records.runs import Job

BLOCK = 100
"""Steps that the bootstrap moves together."""
INPUTS = 64


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def overhead(steps: int, device: str, *, width: int, depth: int, batch: int, compiled: bool) -> dict[str, Any]:
    """Ratios of whole times to the plain run's, in wall and in CPU time."""
    tokens = torch.randint(VOCAB, (batch, LENGTH), device=device)
    runs: dict[str, tuple[Callable[[], None], list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        monitors = []
        for name in ("plain", "plain again", "monitored"):
            torch.manual_seed(0)
            model = GPT(width, depth).to(device)
            trained: Any = torch.compile(model) if compiled else model
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            monitor = None
            if name == "monitored":
                out = Path(folder) / "run.jsonl"
                monitor = hpt.Monitor(trained, optimizer, out=out, loss_fn=next_token_loss, steps=steps)
                monitors.append(monitor)
            runs[name] = (_step(trained, optimizer, tokens, monitor), [], [])
        for r in range(steps + 5):
            for name in list(runs)[:: 1 if r % 2 else -1]:
                step, wall, cpu = runs[name]
                began, busy = time.perf_counter(), time.process_time()
                step()
                if r >= 5:
                    wall.append(time.perf_counter() - began)
                    cpu.append(time.process_time() - busy)
        monitor = monitors[0]
        monitor.close()
        made = {name: account.runs for name, account in monitor._budget.accounts.items()}
        clock = {"share by its own clock": monitor.share, "bookkeeping per step": monitor._clock.overhead}
        dropped = monitor.dropped
    plain = runs["plain"]
    return {
        "steps": steps,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "width": width,
        "depth": depth,
        "batch": batch,
        "compiled": compiled,
        "seconds per step": float(np.mean(plain[1])),
        "measurements": made,
        "dropped": dropped,
        **clock,
        "wall": {name: _ratio(run[1], plain[1]) for name, run in runs.items() if name != "plain"},
        "cpu": {name: _ratio(run[2], plain[2]) for name, run in runs.items() if name != "plain"},
    }


def _step(model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor, monitor: Any) -> Callable[[], None]:
    def step() -> None:
        if monitor is not None:
            monitor.skip()  # the other two runs' steps are not this one's time
        optimizer.zero_grad()
        loss = next_token_loss(model, tokens)
        loss.backward()
        if monitor is not None:
            monitor.observe(loss, tokens)
        optimizer.step()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return step


def _ratio(mine: list[float], plain: list[float]) -> dict[str, float]:
    """Ratio of the whole times, with a 95% interval from blocks of steps drawn together."""
    count = len(mine) // BLOCK
    blocks = np.array([[sum(t[k * BLOCK : (k + 1) * BLOCK]) for k in range(count)] for t in (mine, plain)])
    draw = np.random.default_rng(0)
    samples = [np.divide(*blocks[:, draw.integers(count, size=count)].sum(axis=1)) for _ in range(2000)]
    low, high = np.quantile(samples, [0.025, 0.975])
    return {"ratio": sum(mine) / sum(plain), "low": float(low), "high": float(high)}


@cache
def _teacher() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    weights = torch.randn(INPUTS, 200, generator=draw), torch.randn(200, generator=draw) / 200**0.5
    return torch.arange(1, INPUTS + 1) ** -0.5, *weights


def _examples(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    size, first, last = _teacher()
    x = torch.randn(count, INPUTS, generator=draw) * size
    return x, torch.relu(x @ first) @ last + 0.3 * torch.randn(count, generator=draw)


def _stream(scale: Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield _examples(64, draw)


def _regressor(scale: Scale) -> nn.Module:
    width = scale.width or 32
    return nn.Sequential(
        nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1), nn.Flatten(0)
    )


def online() -> Recipe:
    """Online regression on a fixed random network of inputs with a power-law spectrum, with noise: a slow fall."""
    return Recipe(
        name="online",
        build=_regressor,
        batches=_stream,
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        validation=lambda: [_examples(512, torch.Generator().manual_seed(10**6))],
        example_inputs=lambda: (torch.zeros(2, INPUTS),),
        base=Scale(width=32),
        optimizer=torch.optim.AdamW,
        steps=400,
    )


KINDS: dict[str, tuple[int, float, float]] = {
    "healthy x2": (2, 1, 1),
    "healthy x4": (4, 1, 1),
    "rate x16": (2, 16, 1),
    "rate / 8": (2, 1 / 8, 1),
    "decay x32": (2, 1, 32),
}
"""Kind -> factors on width, rate and weight decay."""
TASKS = {"online": (2.0**-5, 400, 20), "mlp": (2.0**-6, 400, 12), "gpt": (2.0**-7, 300, 2)}
"""Recipe -> its rate, steps, and how many reference runs."""
FIRST_SEED = 5000


def alarms(task: str) -> dict[str, Any]:
    """Kind -> runs, alarms, and the median fraction of the run at which they came."""
    rate, steps, seeds = TASKS[task]
    recipe = online() if task == "online" else hpt.load_recipe(f"recipes/{task}.py")
    recipe = recipe.replace(optimizer=torch.optim.AdamW, steps=steps)
    trainers = {
        d: Trainer(recipe.replace(optimizer_options={"weight_decay": 0.1 * d})) for d in {k[2] for k in KINDS.values()}
    }
    base = recipe.base.width or 1
    raised: dict[str, list[float | None]] = {kind: [] for kind in KINDS}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        reference = _curve(trainers[1], base, rate, seed)
        for kind, (width, factor, decay) in KINDS.items():
            told = alarm(collapse(_curve(trainers[decay], width * base, rate * factor, 10**5 + seed), reference))
            raised[kind].append(None if told is None else told[0])
        print(task, seed, {kind: at[-1] for kind, at in raised.items()}, file=sys.stderr, flush=True)
    return {kind: _told(at) for kind, at in raised.items()}


def _told(at: list[float | None]) -> dict[str, Any]:
    times = [progress for progress in at if progress is not None]
    return {"runs": len(at), "alarms": len(times), "median progress": float(np.median(times)) if times else None}


def _curve(trainer: Trainer, width: int, rate: float, seed: int) -> LossCurve:
    recipe = trainer.recipe
    model, groups = trainer.ready(Job("mup", width, recipe.base.depth, rate, seed, recipe.steps, None, None))
    losses: list[float] = []
    train(
        recipe,
        model,
        trainer.optimizer(groups),
        scale=recipe.base.with_(width=width),
        seed=seed,
        on_step=lambda t, loss: losses.append(loss),
    )
    return LossCurve.of_steps(losses, steps=recipe.steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["overhead", "collapse"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": " ".join(["scripts/bench_monitor.py", *sys.argv[1:]]),
        "machine": {"platform": platform.platform(), "torch": torch.__version__, "threads": 1},
    }
    if options.only != "collapse":
        size = {"width": options.width, "depth": options.depth, "batch": options.batch}
        report["overhead"] = overhead(options.steps, options.device, compiled=options.compile, **size)
    if options.only != "overhead":
        report["collapse"] = {task: alarms(task) for task in TASKS}
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
