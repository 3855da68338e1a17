"""The public runs that the laws are checked on, read from a data folder (env HPTRANSFER_DATA, or ../shared/data).

lr-scheduling/runs_index.csv   124M Llamas of Schaipp et al. 2025, arXiv:2501.18965 (MIT licence)
multi-power-law/csv_25/*.csv   25M loss curves of Luo et al. 2025, arXiv:2503.12811 (MIT licence)
chinchilla/svg_extracted_data.csv   points read off a figure of arXiv:2203.15556 by arXiv:2404.10102
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from hptransfer.prediction.schedules.multi_power import LossCurve, read_curve
from hptransfer.prediction.schedules.schedule import Schedule, constant, cosine, wsd
from hptransfer.prediction.schedules.schedule_transfer import ScheduleRun

Array = np.ndarray

FOLDER = Path(os.environ.get("HPTRANSFER_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))

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
"""The first three are the ones the authors fitted."""

TOKENS_PER_STEP_124M = 50 * 2 * 2 * 512


def schedule_runs() -> list[ScheduleRun]:
    """All runs of the 124M model on SlimPajama that vary the peak rate, with the warm-up of 300 steps they had."""
    with (FOLDER / "lr-scheduling" / "runs_index.csv").open() as file:
        rows = [(row, row["file"].split("_")[0]) for row in csv.DictReader(file)]
    model = ("slimpajama", "12", "768")
    return [
        ScheduleRun((s := _schedule_124m(row, prefix)).name, s, float(row["lr"]), float(row["fv"]))
        for row, prefix in rows
        if (row["dataset"], row["n_layer"], row["n_embd"]) == model and prefix not in ("sl", "horizon", "ann0.2")
    ]


def decays_to_zero(run: ScheduleRun) -> bool:
    return bool(run.schedule.factors[-1] < 0.02)


def _schedule_124m(row: dict[str, str], prefix: str) -> Schedule:
    steps, fraction = int(row["iters"]), float(row["fract"])
    if row["sched"] == "cos":
        final = 0.0 if prefix in ("cos-zero-124m", "grad") else 0.1
        found = cosine(steps, final=final, warmup=300)
        return found if not final else Schedule("cosine to 0.1", found.factors, found.lines)
    if not fraction:
        return constant(steps, warmup=300)
    return wsd(steps, cooldown=fraction, shape="1-sqrt" if row["decay_type"] == "sqrt" else "linear", warmup=300)


def curves_25m() -> list[LossCurve]:
    """The nine 25M curves in the order of CURVES_25M, each with its exact schedule."""
    folder = FOLDER / "multi-power-law" / "csv_25"
    return [read_curve(folder / f"{name}.csv", lrs=rates_25m(name)) for name in CURVES_25M]


def rates_25m(name: str) -> Array:
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


def chinchilla_runs() -> tuple[Array, Array, Array]:
    """N, D, L (240,): without the five highest losses, D = C/(6N)."""
    with (FOLDER / "chinchilla" / "svg_extracted_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    params, flop, loss = (np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss"))
    keep = loss < np.sort(loss)[-5]
    return params[keep], (flop / 6 / params)[keep], loss[keep]
