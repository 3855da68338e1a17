"""Brute-force twins of the laws, written straight from the formulas with no thought for speed, and the data folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def data(name: str) -> Path:
    """The path of a public data file; skips the calling test where the data folder does not hold it."""
    folder = Path(os.environ.get("HPTRANSFER_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / name).exists():
        pytest.skip(f"{name} is not in the data folder {folder} (set HPTRANSFER_DATA)")
    return folder / name


def anchors(name: str) -> dict:
    return json.loads(data("analytic_anchors.json").read_text())[name]


def convex_bound_terms(factors: np.ndarray, distance: float = 1.0, gradient: np.ndarray | float = 1.0):
    """t1, t2, t3 of arXiv:2501.18965 Thm 1 by its double sum, O(T^2)."""
    f, g = np.asarray(factors), np.broadcast_to(gradient, len(factors))
    total = sum(f)
    t3 = 0.0
    for k in range(len(f) - 1):
        after = sum(f[t] for t in range(k + 1, len(f)))
        here = sum(f[t] for t in range(k, len(f)))
        t3 += f[k] / after * sum(f[t] ** 2 * g[t] ** 2 for t in range(k, len(f))) / here
    return distance**2 / (2 * total), sum((f * g) ** 2) / (2 * total), 0.5 * t3


def multi_power_loss(p, lrs: np.ndarray, t: int) -> float:
    """arXiv:2503.12811 eqs. 1-3 at one step, by its double sum."""
    L0, A, alpha, B, C, beta, gamma = p
    loss = L0 + A * sum(lrs[: t + 1]) ** -alpha
    for k in range(1, t + 1):
        x = lrs[k] ** -gamma * sum(lrs[k : t + 1])
        loss -= B * (lrs[k - 1] - lrs[k]) * (1 - (1 + C * x) ** -beta)
    return loss


CURVES_25M = (
    "cosine_24000",
    "constant_24000",
    "wsdcon_9",
    "cosine_72000",
    "constant_72000",
    "wsd_20000_24000",
    "wsdld_20000_24000",
    "wsdcon_3",
    "wsdcon_18",
)
"""The public 25M curves of arXiv:2503.12811; the first three are the ones its authors fitted."""


def rates_25m(name: str) -> np.ndarray:
    """The schedule that a curve's name stands for: peak 3e-4, warm-up 2160 steps, decays to 3e-5."""
    kind, *numbers = name.split("_")
    steps = 14208 if kind == "wsdcon" else int(numbers[-1])
    peak, warmup, t = 3e-4, 2160, np.arange(steps + 1)
    lrs = np.where(t < warmup, peak * (t + 1) / warmup, peak)
    if kind == "cosine":
        decay = (1 + np.cos(np.pi * (t - warmup) / (steps - warmup))) / 2
        lrs = np.where(t < warmup, lrs, 0.1 * peak + 0.9 * peak * decay)
    elif kind == "wsdcon":
        lrs = np.where(t < 8000, lrs, int(numbers[0]) * 1e-5)
    elif kind in ("wsd", "wsdld"):
        u = np.clip((t - int(numbers[0])) / (steps - int(numbers[0])), 0, 1)
        lrs = lrs * (0.1**u if kind == "wsd" else 1 - 0.9 * u)
    return lrs
