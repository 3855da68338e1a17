"""Draw docs/figures/depth.svg from benchmarks/depth.json: loss against learning rate, SP beside CompleteP."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib import colormaps

ROOT = Path(__file__).parent.parent


def main() -> None:
    data = json.loads((ROOT / "benchmarks" / "depth.json").read_text())
    rates = range(-10, -2)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, (scheme, title) in zip(axes, (("sp", "SP"), ("completep", "CompleteP")), strict=True):
        found = [f for f in data["optima"] if f["scheme"] == scheme]
        for k, f in enumerate(found):
            colour = colormaps["viridis"](0.9 * k / max(1, len(found) - 1))
            axis.plot(rates, f["curve"], color=colour, marker=".", label=f"depth {f['depth']}")
            axis.plot([f["log2_lr"]], [f["loss"]], "v", color=colour)
        axis.set(title=title, xlabel="log2 learning rate", ylim=(2.55, 3.6))
    axes[0].set_ylabel("validation loss, nats per byte")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    (ROOT / "docs" / "figures").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "figures" / "depth.svg")


if __name__ == "__main__":
    main()
