"""Time per training step of a parametrized model against plain torch, side by side, step by step in turn.

    python scripts/bench_overhead.py [--out benchmarks/overhead.json] [--device cpu]      # two minutes on one core

The same transformer at 4x its base's width: plain (one parameter group) and with the plan's initial scale and groups.
Steps alternate, in an order that alternates too, so that drifts of the machine hit both. A second plain model is timed
the same way: its ratio shows what the method cannot resolve.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt

VOCAB, LENGTH, HEADS = 256, 64, 4


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(self.norm_1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def stepper(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> Callable[[], None]:
    """One training step, synchronised at its end."""

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return step


def steppers(width: int, depth: int, batch: int, device: str) -> tuple[dict[str, Callable[[], None]], int]:
    """Name -> step of the two plain models and the parametrized one; and the plan's number of groups."""
    tokens = torch.randint(VOCAB, (batch, LENGTH), device=device)
    found: dict[str, Callable[[], None]] = {}
    for name in ("plain", "plain again"):
        model = GPT(width, depth).to(device)
        found[name] = stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1), tokens)
    model = GPT(width, depth).to(device)
    plan = hpt.make_plan(model, base=GPT(width // 4, depth), example_inputs=(tokens,))
    hpt.parametrize_(model, plan)
    groups = hpt.param_groups(model, plan, lr=1e-4, weight_decay=0.1)
    found["parametrized"] = stepper(model, torch.optim.AdamW(groups), tokens)
    return found, len(groups)


def measure(width: int, depth: int, batch: int, rounds: int, device: str) -> dict[str, Any]:
    """Median seconds per step, and ratios to plain with a bootstrap interval over rounds."""
    steps, groups = steppers(width, depth, batch, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for r in range(rounds + 3):
        for name in list(steps)[:: 1 if r % 2 else -1]:
            start = time.perf_counter()
            steps[name]()
            if r >= 3:  # warm-up
                times[name].append(time.perf_counter() - start)
    ratios = {name: _ratio(times[name], times["plain"]) for name in ("parametrized", "plain again")}
    seconds = {name: statistics.median(own) for name, own in times.items()}
    return {
        "width": width,
        "depth": depth,
        "batch": batch,
        "rounds": rounds,
        "groups": groups,
        "seconds": seconds,
        **ratios,
    }


def _ratio(own: list[float], plain: list[float]) -> dict[str, float]:
    """Ratio of medians with its 95% bootstrap interval; rounds are resampled together."""
    pairs, draw = np.array([own, plain]), np.random.default_rng(0)
    samples = [np.median(pairs[:, draw.integers(len(own), size=len(own))], axis=1) for _ in range(1000)]
    low, high = np.quantile([a / b for a, b in samples], [0.025, 0.975])
    medians = np.median(pairs, axis=1)
    return {"ratio": float(medians[0] / medians[1]), "low": float(low), "high": float(high)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = measure(options.width, options.depth, options.batch, options.rounds, options.device)
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "torch": torch.__version__, "threads": 1}
    report = {"command": " ".join(["scripts/bench_overhead.py", *sys.argv[1:]]), "machine": machine, **result}
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
