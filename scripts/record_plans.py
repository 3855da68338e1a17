"""Every plan that must not change unnoticed: recipes and transformers families, recorded whole, then compared.

    python scripts/record_plans.py record before.json [--only llama,gpt2]      # about ten minutes, one core
    python scripts/record_plans.py compare before.json after.json              # exits with 1 where a number differs

Numbers are compared exactly (float.hex), reasons and notes are not.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from families import FAMILIES  # pyright: ignore[reportMissingImports]
from families.trial import planned  # pyright: ignore[reportMissingImports]

import hptransfer as hpt

NUMBERS = ("init_mult", "lr_mult", "wd_mult", "eps_mult", "fwd_mult", "scale_mult", "grad_mult", "held")
RECIPES = {"mlp": (64, 256), "gpt": (64, 128), "resnet": (16, 64)}

Record = Mapping[str, Any]


def record(plan: hpt.Plan) -> Record:
    """A plan's numbers, exactly, with its hooks and notes."""
    rows = {
        name: {"role": row.role, **{key: float(getattr(row, key)).hex() for key in NUMBERS}}
        for name, row in plan.rows.items()
    }
    return {"rows": rows, "hooks": [str(hook) for hook in plan.hooks], "notes": list(plan.notes)}


def attempted(name: str, plan: Any) -> Record:
    """The record of what plan() makes, or its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return record(plan())
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def recipe_plan(name: str, scheme: str, optimizer: str, depth: int | None) -> hpt.Plan:
    """A recipe's plan from its smallest width to a larger one, or from depth 2 to `depth`."""
    recipe = hpt.load_recipe(str(Path(__file__).parents[1] / "recipes" / f"{name}.py"))
    models: list[nn.Module] = []
    narrow, wide = RECIPES[name]
    for scale in (hpt.Scale(narrow, 2), hpt.Scale(wide, 2) if depth is None else hpt.Scale(narrow, depth)):
        torch.manual_seed(0)
        models.append(recipe.build(scale))
    return hpt.make_plan(
        models[1], base=models[0], example_inputs=recipe.example_inputs(), scheme=scheme, optimizer=optimizer
    )


def tasks(only: set[str]) -> Iterator[tuple[str, Any]]:
    for name in RECIPES:
        for scheme in ("mup", "completep", "umup", "spectral", "ntk"):
            for optimizer in ("AdamW", "SGD", "Muon"):
                yield f"{name}/{scheme}/{optimizer}", lambda n=name, s=scheme, o=optimizer: recipe_plan(n, s, o, None)
    for scheme in ("completep", "depth-mup", "umup"):
        yield f"gpt/{scheme}/AdamW/depth", lambda s=scheme: recipe_plan("gpt", s, "AdamW", 8)
    for name, family in FAMILIES.items():
        for heads in family.modes:
            if not only or name in only:
                yield f"{name}/{heads}", lambda f=family, h=heads: planned(f, h)


def differences(before: Record, after: Record) -> list[str]:
    if "error" in before or "error" in after:
        return [] if before.get("error") == after.get("error") else [f"{_brief(before)} -> {_brief(after)}"]
    lines = []
    for name in sorted({*before["rows"], *after["rows"]}):
        old, new = before["rows"].get(name), after["rows"].get(name)
        if old != new:
            changed = [k for k in (old or new) if old is None or new is None or old[k] != new[k]]
            shown = [f"{k} {_number(old, k)} -> {_number(new, k)}" for k in changed]
            lines.append(f"{name}: {', '.join(shown)}")
    if before["hooks"] != after["hooks"]:
        lines.append(f"hooks {before['hooks']} -> {after['hooks']}")
    return lines


def _number(row: Record | None, key: str) -> str:
    value = "-" if row is None else row[key]
    return f"{float.fromhex(value):.6g}" if value.startswith(("0x", "-0x")) else value


def _brief(record: Record) -> str:
    return str(record.get("error", "planned"))[:300]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", default="", help="families, separated by commas; the recipes always")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "record":
        only = set(filter(None, args.only.split(",")))
        records = {name: attempted(name, plan) for name, plan in tqdm(list(tasks(only)), mininterval=10)}
        args.files[0].write_text(json.dumps(records, indent=0) + "\n")
        return
    before, after = (json.loads(file.read_text()) for file in args.files)
    changed = 0
    for name in [name for name in before if name in after]:
        lines = differences(before[name], after[name])
        changed += bool(lines)
        print(
            *([f"{name}: changed", *(f"    {line}" for line in lines[:12])] if lines else []),
            sep="\n",
            end="\n" * bool(lines),
        )
    print(f"{len(before)} recorded, {sum(n in after for n in before)} compared, {changed} differ")
    sys.exit(int(changed > 0))


if __name__ == "__main__":
    main()
