"""Recompute every figure that the laws claim on public data, and write it with the machine that did it.

    python scripts/bench_laws.py [--out benchmarks/laws.json] [--only shrinkage ...]      # about 3 minutes on one core

Needs the data folder (see public_data.py). Sections: bound, shrinkage, multi_power, triples, loss_laws, lr_laws, meter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from public_data import (
    CURVES_25M,
    FOLDER,
    TOKENS_PER_STEP_124M,
    chinchilla_runs,
    curves_25m,
    decays_to_zero,
    schedule_runs,
)
from torch import nn

from hptransfer.prediction.laws.lr_fit import fit_sweep
from hptransfer.prediction.laws.scaling import FREE, LOSS_LAWS
from hptransfer.prediction.laws.scaling_fit import fit_loss_law, huber_objective
from hptransfer.prediction.laws.score import score_lr_laws
from hptransfer.prediction.laws.sweep_table import make_table
from hptransfer.prediction.noise.noise_meter import NoiseScaleMeter
from hptransfer.prediction.schedules.convex_bound import best_cooldown, convex_bound, theory_exponent
from hptransfer.prediction.schedules.multi_power import LossCurve, MultiPowerLaw
from hptransfer.prediction.schedules.multi_power_fit import fit_multi_power, held_out_errors
from hptransfer.prediction.schedules.schedule import constant, cosine, linear, wsd
from hptransfer.prediction.schedules.schedule_search import optimise_schedule
from hptransfer.prediction.schedules.schedule_transfer import (
    GroupOptimum,
    ScheduleRun,
    fit_shrinkage,
    group_optima,
    transfer_lr,
)

PUBLISHED_25M = MultiPowerLaw(3.0405, 0.5247, 0.5079, 363.8, 2.066, 0.5828, 0.6414)


def bound() -> dict[str, Any]:
    """Largest relative error against the anchors, milliseconds per evaluation, exponents and best cooldowns."""
    key = "schaipp_bound_D=G=1 [gamma*,Omega_T]"
    anchors = json.loads((FOLDER / "analytic_anchors.json").read_text())[key]
    shapes = {"const": constant, "linear": linear, "cos": cosine}
    for percent in (20, 40, 60, 80):
        shapes[f"wsd{percent}"] = lambda n, p=percent: wsd(n, cooldown=p / 100)
    shapes["wsd20sqrt"] = lambda n: wsd(n, cooldown=0.2, shape="1-sqrt")
    errors = []
    for steps, row in anchors.items():
        for name, expected in row.items():
            found = convex_bound(shapes[name](int(steps)))
            errors += [abs(found.best_lr / expected[0] - 1), abs(found.best_value / expected[1] - 1)]
    return {
        "anchors": len(errors),
        "largest_relative_error": max(errors),
        "milliseconds": {str(n): _milliseconds(partial(convex_bound, cosine(n))) for n in (10**4, 10**5, 10**6)},
        "theory_horizon_exponent": {
            "cosine": theory_exponent(cosine, 20000),
            "constant": theory_exponent(constant, 20000),
        },
        "best_cooldown_of_the_bound": {
            s: best_cooldown(4000, shape=s).fraction for s in ("linear", "1-sqrt", "cosine")
        },
    }


def shrinkage() -> dict[str, Any]:
    """The shipped fit, its errors on families left out, and what it does not cover."""
    runs = schedule_runs()
    zero = [r for r in runs if decays_to_zero(r)]
    fit = fit_shrinkage(zero)
    optima = group_optima(zero)
    best = {o.family: o.loss for o in optima if o.schedule.steps == 50000 and "linear" in o.family}
    lowest = min(best.values())
    return {
        "runs": len(zero),
        "fit": vars(fit),
        "optima": {f"{o.family}, {o.schedule.steps} steps": math.exp(o.log_lr) for o in optima},
        "left_out_family_error": _left_out(zero, optima),
        "not_decaying_to_zero_overpredicted": _not_zero(runs, optima),
        "cooldown_loss_above_best_at_50k": {name: loss - lowest for name, loss in sorted(best.items())},
    }


def _left_out(runs: list[ScheduleRun], optima: list[GroupOptimum]) -> dict[str, dict[str, float]]:
    """Mean and worst |error| in octaves, and mean regret in nats, from WSD .2 at 25k to every other family."""
    start = next(o for o in optima if o.family == "wsd 0.2 linear" and o.schedule.steps == 25000)
    curvature = _curvature(runs, optima)
    errors: dict[str, list[float]] = {"shrunk": [], "theory": [], "unchanged": []}
    for family in {o.family for o in optima} - {start.family}:
        fit = fit_shrinkage([r for r in runs if r.family != family], resamples=1)
        for o in (o for o in optima if o.family == family):
            moved = transfer_lr(math.exp(start.log_lr), start.schedule, o.schedule, shrinkage=fit)
            for name, ratio in (("shrunk", moved.ratio), ("theory", moved.theory_ratio), ("unchanged", 1.0)):
                errors[name].append(start.log_lr + math.log(ratio) - o.log_lr)
    return {
        name: {
            "mean_octaves": float(np.mean(np.abs(e)) / math.log(2)),
            "worst_octaves": float(np.max(np.abs(e)) / math.log(2)),
            "mean_regret_nats": float(curvature * np.mean(np.square(e))),
        }
        for name, e in errors.items()
    }


def _curvature(runs: list[ScheduleRun], optima: list[GroupOptimum]) -> float:
    """Loss per squared ln lr around the optima, within a factor 2 of them."""
    at = {(o.family, o.schedule.steps): o for o in optima}
    pairs = [
        (math.log(r.lr) - at[r.family, r.schedule.steps].log_lr, r.loss - at[r.family, r.schedule.steps].loss)
        for r in runs
    ]
    near = np.array([(x * x, y) for x, y in pairs if abs(x) < math.log(4) and y < 0.1])
    return float(near[:, 0] @ near[:, 1] / (near[:, 0] @ near[:, 0]))


def _not_zero(runs: list[ScheduleRun], optima: list[GroupOptimum]) -> dict[str, float]:
    """Predicted over observed rate at 50k steps, from WSD .4, for schedules that do not decay to zero."""
    start = next(o for o in optima if o.family == "wsd 0.4 linear" and o.schedule.steps == 50000)
    rest = group_optima([r for r in runs if not decays_to_zero(r) or r.family == start.family])
    rest = [o for o in rest if o.schedule.steps == 50000 and o.family != start.family]
    return {
        o.family: transfer_lr(math.exp(start.log_lr), start.schedule, o.schedule).prediction.value / math.exp(o.log_lr)
        for o in rest
    }


def multi_power() -> dict[str, Any]:
    """Published parameters and own fits of the authors' three curves, on the other six; the schedule found."""
    curves = curves_25m()
    start = time.perf_counter()
    fit = fit_multi_power(curves[:3])
    seconds = time.perf_counter() - start
    free = fit_multi_power(curves[:3], prior=0.0, starts=12)
    found = optimise_schedule(fit.law, 24001, 3e-4, warmup=2160)
    return {
        "fitted_curves": list(CURVES_25M[:3]),
        "published_parameters_mae_on_six": _mae(PUBLISHED_25M, curves[3:]),
        "fit": vars(fit.law) | {"mae_on_three": fit.mae, "mae_on_six": _mae(fit.law, curves[3:]), "seconds": seconds},
        "per_curve_mae": {h.curve: h.mae for h in held_out_errors(fit, curves)},
        "per_curve_final_error": {h.curve: h.final_error for h in held_out_errors(fit, curves)},
        "without_prior": vars(free.law) | {"mae_on_three": free.mae, "mae_on_six": _mae(free.law, curves[3:])},
        "best_schedule_24000": {"loss": found.loss, "rivals": found.rivals},
    }


def triples() -> dict[str, Any]:
    """Every choice of three curves that lowers a rate somewhere: MAE on the other six, with and without the prior."""
    curves = curves_25m()
    rows: dict[str, list[float]] = {"prior": [], "no_prior": []}
    for pick in itertools.combinations(range(9), 3):
        chosen, rest = [curves[i] for i in pick], [c for i, c in enumerate(curves) if i not in pick]
        for name, prior in (("prior", 10.0), ("no_prior", 0.0)):
            rows[name].append(_mae(fit_multi_power(chosen, prior=prior, starts=2).law, rest))
    return {
        name: {
            "triples": len(m),
            "mean_mae": float(np.mean(m)),
            "median_mae": float(np.median(m)),
            "worst_mae": float(np.max(m)),
            "share_below_.0045": float(np.mean(np.array(m) <= 0.0045)),
        }
        for name, m in rows.items()
    }


def _mae(law: MultiPowerLaw, curves: Sequence[LossCurve]) -> float:
    return float(np.mean([np.abs(law.curve(c.lrs, c.steps) - c.losses).mean() for c in curves]))


def loss_laws() -> dict[str, Any]:
    """Refits of the Chinchilla points, published laws on them, and extrapolation to the dearest runs."""
    params, tokens, losses = chinchilla_runs()
    logs = np.log(params), np.log(tokens), np.log(losses)
    fits = {form: fit_loss_law(params, tokens, losses, form=form, resamples=200) for form in FREE}
    best = fits["chinchilla"]
    return {
        "refits": {form: fit.law.to_json() | {"objective": fit.objective} for form, fit in fits.items()},
        "chinchilla_90%": {name: best.interval(name) for name in ("E", "A", "a", "B", "b")},
        "published_objectives": {name: huber_objective(law.law, *logs) for name, law in LOSS_LAWS.items()},
        "optimal_at_5.76e23": [str(p) for p in best.optimal(5.76e23)],
        "extrapolation": {form: _extrapolate(params, tokens, losses, form) for form in FREE},
    }


def _extrapolate(params: np.ndarray, tokens: np.ndarray, losses: np.ndarray, form: Any) -> dict[str, Any]:
    """Fit on the runs of least compute (.3, .5, .7 of them), predict the tenth of most."""
    flop = 6 * params * tokens
    dear = flop >= np.quantile(flop, 0.9)
    found = {}
    for share in (0.3, 0.5, 0.7):
        cheap = flop <= np.quantile(flop, share)
        fit = fit_loss_law(params[cheap], tokens[cheap], losses[cheap], form=form, resamples=200, starts=10)
        rows = list(zip(params[dear], tokens[dear], losses[dear], strict=True))
        wide, bare = ([(fit.predict(n, d, widen=w), y) for n, d, y in rows] for w in (None, 1.0))
        found[f"cheapest {share:g}"] = {
            "compute_ratio_of_medians": float(np.median(flop[dear]) / np.median(flop[cheap])),
            "mean_relative_error": float(np.mean([abs(p.value / y - 1) for p, y in bare])),
            "share_inside_bare_90%": float(np.mean([bool(p.contains(y)) for p, y in bare])),
            "share_inside_backtested_90%": float(np.mean([bool(p.contains(y)) for p, y in wide])),
        }
    return found


def lr_laws() -> dict[str, Any]:
    """Laws scored over horizons on the 124M runs, per schedule; and the drift of those optima."""
    found: dict[str, Any] = {}
    for family in ("wsd 0.2 linear", "wsd 0.4 linear"):
        runs = [r for r in schedule_runs() if r.family == family and r.lr > 2e-4]
        count = np.full(len(runs), 1.0)
        tokens = np.array([r.schedule.steps * TOKENS_PER_STEP_124M for r in runs], dtype=float)
        scale = {"params": 124e6 * count, "tokens": tokens, "batch": TOKENS_PER_STEP_124M * count}
        table = make_table(lr=np.array([r.lr for r in runs]), loss=np.array([r.loss for r in runs]), **scale)
        fit = fit_sweep(table)
        found[family] = {
            "scores": [str(s) for s in score_lr_laws(table).scores],
            "token_exponent": fit.exponents["tokens"],
            "token_exponent_90%": fit.intervals["tokens"],
        }
    return found


def meter() -> dict[str, float]:
    """Milliseconds of a step of four microbatches, with and without the meter: a 4-layer, 512-wide perceptron."""
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(512, 512), nn.ReLU())))
    x = torch.randn(4, 64, 512)

    def step(meter: NoiseScaleMeter | None) -> None:
        for micro in x:
            (model(micro).square().mean() / 4).backward()
        if meter:
            meter.step()
        model.zero_grad()

    bare = _milliseconds(lambda: step(None), repeats=30)
    with NoiseScaleMeter(model, micro_batch=64) as measured:
        metered = _milliseconds(lambda: step(measured), repeats=30)
    return {"bare_ms": bare, "metered_ms": metered, "overhead": metered / bare - 1}


def _milliseconds(function: Callable[[], Any], repeats: int = 7) -> float:
    """Best of several."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


SECTIONS: dict[str, Callable[[], Any]] = {
    f.__name__: f for f in (bound, shrinkage, multi_power, triples, loss_laws, lr_laws, meter)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "benchmarks" / "laws.json")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["environment"] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch": torch.__version__,
        "command": "python scripts/bench_laws.py",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        start = time.perf_counter()
        result[name] = SECTIONS[name]()
        text = json.dumps(result, indent=1, default=lambda x: getattr(x, "__dict__", str(x)))
        options.out.write_text(text + "\n")  # after every section, so that an interrupted run keeps the others
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
