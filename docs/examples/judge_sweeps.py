"""A verdict on tables of runs: one that stays, one that drifts, one that cannot tell.

Nothing is trained. The invented runs have a known answer, so that the verdicts can be held against it.
"""

import csv
import random
import tempfile
from pathlib import Path

import hptransfer as hpt


def table(path: Path, *, drift: float, noise: float, seeds: int = 3) -> Path:
    """Runs whose best log2 rate is -8.6 at width 128 and moves by `drift` octaves at every doubling."""
    draw = random.Random(1)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["width", "lr", "seed", "val_loss"])
        for i, width in enumerate((128, 256, 512)):
            for half_octave in range(-24, -11):
                for seed in range(seeds):
                    off = half_octave / 2 - (-8.6 + drift * i)
                    loss = 3.0 - 0.1 * i + 0.05 * off**2 + draw.gauss(0, noise)
                    rows.writerow([width, 2.0 ** (half_octave / 2), seed, loss])
    return path


with tempfile.TemporaryDirectory() as folder:
    cases = {
        "stays": table(Path(folder, "stays.csv"), drift=0.0, noise=0.002),
        "drifts": table(Path(folder, "drifts.csv"), drift=-0.7, noise=0.002),
        "one seed": table(Path(folder, "one.csv"), drift=0.0, noise=0.002, seeds=1),
    }
    results = {name: hpt.judge_table(path, axis="width") for name, path in cases.items()}

for name, result in results.items():
    (drift,) = result.drifts
    print(
        f"{name}: {result.verdict}, the best rate moved {drift.octaves:.2f} octaves"
        f" (90% interval {drift.low:.2f} to {drift.high:.2f})"
    )
assert results["stays"].verdict == "PASS"
assert results["drifts"].verdict == "FAIL"
assert results["drifts"].drifts[0].low < -1.4 < results["drifts"].drifts[0].high
assert results["one seed"].verdict == "INCONCLUSIVE"  # one seed knows no noise
