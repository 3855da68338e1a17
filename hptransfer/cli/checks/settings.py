"""A check of several settings, one after the other, each in a folder of its own; and what every check writes."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import output_folder
from hptransfer.cli.exits import DONE, FAILED, OF_VERDICT, UNDECIDED
from hptransfer.cli.results.formats import Forms, show_as
from hptransfer.cli.results.next_step import after_check
from hptransfer.cli.results.verdict_forms import verdict_forms
from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns, write_json

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe
    from hptransfer.validation.records.results import TransferResult

Check = Callable[[argparse.Namespace, "Recipe", Path, str], "TransferResult"]
HEADER = ("setting", "tuned", "best at", "verdict", "drift (octaves)", "tuned vector costs")


def run_settings(args: argparse.Namespace, recipe: Recipe, check: Check) -> int:
    """Check every --setting, print what each says and a table of all; the exit code of the worst verdict."""
    from hptransfer.validation.settings.setting import Setting

    named = {str(setting): setting for setting in map(Setting.named, args.setting)}
    if len({setting.slug for setting in named.values()}) < len(args.setting):
        raise UsageError(f"--setting {' '.join(args.setting)}: give each once.")
    folders = {name: _folder(args, recipe, setting.slug, alone=len(named) == 1) for name, setting in named.items()}
    results: dict[str, TransferResult] = {}
    for name, out in folders.items():
        results[name] = check(args, recipe, out, name)
        print("Wrote " + ", ".join(map(str, write_all(results[name], out))), file=sys.stderr)
    worst = _worst(results)
    show_as(args.format, forms_of(results), then=after_check(worst, args, folders[worst.setting]))
    return OF_VERDICT[worst.verdict]


def _folder(args: argparse.Namespace, recipe: Recipe, slug: str, *, alone: bool) -> Path:
    """--out, with a folder for each of several settings; or hptransfer-out/<recipe>-<setting>."""
    given = None if args.out is None else args.out if alone else str(Path(args.out) / slug)
    return output_folder(given, recipe.name, suffix=f"{'-quick' if args.quick else ''}-{slug}")


def _worst(results: Mapping[str, TransferResult]) -> TransferResult:
    """The first that failed, else the first that is undecided, else the first."""
    order = {FAILED: 0, UNDECIDED: 1, DONE: 2}
    return min(results.values(), key=lambda result: order[OF_VERDICT[result.verdict]])


def forms_of(results: Mapping[str, TransferResult]) -> Forms:
    """All results: each whole, and below them a line for each; as JSON by the name of the setting."""
    forms = {name: verdict_forms(result) for name, result in results.items()}
    if len(forms) == 1:
        return next(iter(forms.values()))
    table = [HEADER, *(_line(result) for result in results.values())]
    texts = [f"== {name} ==\n{form.text}" for name, form in forms.items()]
    return Forms(
        text="\n\n".join([*texts, "\n".join(columns(table))]),
        data=lambda: {name: result.without_runs() for name, result in results.items()},
        records=[{"setting": name, **dict(record)} for name, form in forms.items() for record in form.records],
        cells=table,
        notes=[note for form in forms.values() for note in form.notes],
    )


def _line(result: TransferResult) -> tuple[str, ...]:
    from hptransfer.reporting.words import interval, optimum_text, signed

    setting, largest = result.swept, max(result.sizes)
    drift = next(drift for drift in result.drifts if drift.scheme == result.scheme)
    vector = result.vector
    known = "" if vector is None else interval(vector.low, vector.high, "+.2g").removeprefix("90% interval ")
    cost = "unknown" if vector is None or not math.isfinite(vector.loss) else signed(vector.loss)
    tuned = 1.0 if not setting.is_rate else math.nan
    return (
        str(setting),
        setting.shown(result.tuned.get(str(setting), tuned)),
        f"{setting.of_base}{optimum_text(result.optimum(result.scheme, largest))} at {largest}",
        result.verdict,
        f"{drift.octaves:+.2f} ({drift.low:+.2f} to {drift.high:+.2f})" if math.isfinite(drift.octaves) else "unknown",
        f"{cost}{f' ({known})' if known else ''}",
    )


def write_all(result: TransferResult, out: Path) -> list[Path]:
    """verdict.json, runs.jsonl, plan.json and report.html; returns their paths."""
    from hptransfer.reporting.report.html import write_report
    from hptransfer.validation.records.results import VERDICT_FILE
    from hptransfer.validation.records.runs import RUNS_FILE

    result.save(out)
    plan = out / "plan.json"
    write_json(plan, result.plan)
    return [out / VERDICT_FILE, out / RUNS_FILE, plan, write_report(result, out / "report.html")]
