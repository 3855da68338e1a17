"""Which rule of batch and tokens: regret and interval coverage on every table at hand, each data set left out in turn.

    python scripts/bench_factors.py [TABLE.csv ...] [--out benchmarks/factors.json]        # half a minute

Tables: benchmarks/grids/*.csv (measure_grids.py), the public 124M runs where the data folder is there (public_data.py),
and any given (columns params, tokens, batch, lr, loss). From every cell to every other of the same params whose optima
lie inside their rates: the base's best rate times the rule's factor, scored by the regret at the target relative to its
best loss. The joint rule is made without the table's own data set (a row of core/horizon/evidence.py says which).
Rules are ranked by their regret as a share of that of keeping the rate, averaged over data sets, each of which counts
once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.core.horizon.carried import JOINT
from hptransfer.core.horizon.evidence import EVIDENCE, joint_rule
from hptransfer.prediction.forecast.batch_and_tokens import ALTERNATIVES
from hptransfer.prediction.laws.cell import Cell
from hptransfer.prediction.laws.lr_fit import fit_sweep
from hptransfer.prediction.laws.sweep_table import SweepTable, make_table, read_table

ROOT = Path(__file__).resolve().parent.parent
DATA_SETS = {"mlp-adam": "mlp, digits", "gpt-adam": "gpt, source code", "resnet-adam": "resnet, digits"}
"""Table -> the data of its row of evidence, where it has one."""


FEWEST_STEPS = 50
"""Cells whose runs have fewer are left out: they hardly train, and the best rate is then the largest stable one."""


def tables(paths: list[Path]) -> dict[str, SweepTable]:
    """Every table at hand by name; tables under SGD are left out, the rule being for steps of fixed size."""
    found = {p.stem: read_table(p, diverged="wall") for p in paths if not p.stem.endswith("-sgd")}
    try:
        from public_data import TOKENS_PER_STEP_124M, schedule_runs

        for family in ("wsd 0.2 linear", "wsd 0.4 linear", "cosine"):
            runs = [r for r in schedule_runs() if r.family == family and r.lr > 2e-4]
            count = np.full(len(runs), 1.0)
            tokens = np.array([r.schedule.steps * TOKENS_PER_STEP_124M for r in runs], dtype=float)
            scale = {"params": 124e6 * count, "tokens": tokens, "batch": TOKENS_PER_STEP_124M * count}
            arrays = {"lr": np.array([r.lr for r in runs]), "loss": np.array([r.loss for r in runs])}
            found[f"124M, {family}"] = make_table(**arrays, **scale)
    except OSError as error:
        print(f"the 124M runs are left out: {error}", file=sys.stderr)
    return found


def moves(table: SweepTable) -> Iterator[tuple[Cell, Cell, float, float]]:
    """(base, target, batch ratio, tokens ratio) of every ordered pair of cells whose optima are known."""
    inside = [cell for cell in table.cells if not cell.at_edge and not cell.tokens / cell.batch < FEWEST_STEPS]
    for base, target in itertools.permutations(inside, 2):
        k = 1.0 if math.isnan(base.batch) else target.batch / base.batch
        if base.params == target.params or math.isnan(base.params):
            yield base, target, k, target.tokens / base.tokens


def data_of(name: str) -> str:
    return "124M Llama, SlimPajama" if name.startswith("124M") else DATA_SETS.get(name, name)


def score(name: str, table: SweepTable) -> dict[str, Any]:
    """Mean relative regret of each rule, coverage of the left-out joint rule's 90% intervals, and the own exponents."""
    rule = joint_rule([row for row in EVIDENCE if row.data != data_of(name)])
    regrets: dict[str, list[float]] = {n: [] for n in ("joint, left out", *ALTERNATIVES)}
    hits: dict[str, list[bool]] = {"batch": [], "tokens": [], "both": []}
    for base, target, k, r in moves(table):
        factors = {"joint, left out": rule.factor(k, r)} | {n: k**b * r**t for n, (b, t, _) in ALTERNATIVES.items()}
        for n, factor in factors.items():
            regrets[n].append(target.regret(base.best_lr * factor) / abs(target.best_loss))
        off = math.log(target.best_lr / (base.best_lr * factors["joint, left out"]))
        kind = "both" if k != 1 and r != 1 else "batch" if k != 1 else "tokens"
        hits[kind].append(abs(off) <= rule.reach(k, r))
    every = [hit for row in hits.values() for hit in row]
    return {
        "data": data_of(name),
        "moves": len(every),
        "regret": {n: statistics.fmean(values) for n, values in regrets.items()} if every else {},
        "coverage": {kind: [sum(row), len(row)] for kind, row in hits.items()},
        "share": statistics.fmean(every) if every else math.nan,
        "exponents": own_exponents(table),
    }


def own_exponents(table: SweepTable) -> str:
    from hptransfer import UsageError

    try:
        return str(fit_sweep(table))
    except UsageError as error:
        return f"none: {error}"


def over_sources() -> dict[str, Any]:
    """Each source's published exponents against the rule of the others: does the t-interval of an exponent hold it?"""
    rows = {}
    for row in EVIDENCE:
        rule = joint_rule([other for other in EVIDENCE if other is not row])
        for axis, value, at in (("batch", row.batch, (math.e, 1.0)), ("tokens", row.tokens, (1.0, math.e))):
            if value is not None:
                half, middle = rule.reach(*at), math.log(rule.factor(*at))
                rows[f"{row.data}: {axis}"] = {"value": value, "rule": middle, "hit": abs(value - middle) <= half}
    return {"rows": rows, "share": statistics.fmean(row["hit"] for row in rows.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "factors.json")
    args = parser.parse_args()
    paths = [*sorted((ROOT / "benchmarks" / "grids").glob("*.csv")), *args.tables]
    scores = {name: score(name, table) for name, table in tables(paths).items()}
    scored = {name: row for name, row in scores.items() if row["regret"]}
    data = sorted({row["data"] for row in scored.values()})
    names = ["joint, left out", *ALTERNATIVES]

    def over_data(rule: str) -> float:
        def share(row: dict[str, Any]) -> float:
            return row["regret"][rule] / row["regret"]["keep the rate"]

        by_data = [[share(row) for row in scored.values() if row["data"] == d] for d in data]
        return statistics.fmean(statistics.fmean(values) for values in by_data)

    ranking = sorted((over_data(name), name) for name in names)
    for name, row in scores.items():
        regret = ", ".join(f"{n} {100 * v:.2f}%" for n, v in sorted(row["regret"].items(), key=lambda item: item[1]))
        print(f"{name} ({row['moves']} moves): {regret}")
        print(f"   held {row['coverage']} = {row['share']:.2f}; {row['exponents']}")
    print("\nRegret over that of keeping the rate:", ", ".join(f"{name} {value:.2f}" for value, name in ranking))
    sources = over_sources()
    print(f"Exponents of left-out sources held: {sources['share']:.2f}")
    shipped = {"batch": JOINT.batch, "tokens": JOINT.tokens, "spread": JOINT.spread, "scatter": JOINT.scatter}
    body = {"command": " ".join(sys.argv), "joint": shipped, "ranking": ranking, "tables": scores, "sources": sources}
    args.out.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
