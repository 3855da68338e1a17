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
