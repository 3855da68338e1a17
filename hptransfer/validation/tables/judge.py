"""judge_table: the verdict of a transfer check on runs that another trainer made, read from a table of them."""

# pyright: strict
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.secrets import masked
from hptransfer.validation.environment import command_line, environment
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.records.runs import Run, State
from hptransfer.validation.records.tally import Tally
from hptransfer.validation.tables.columns import AXES, Chosen, chosen, refuse_varying
from hptransfer.validation.tables.exports import Table, number, read_export
from hptransfer.validation.verdict import judge
from hptransfer.validation.verdict.judged import judged
from hptransfer.validation.verdict.measures import measures_of
from hptransfer.validation.verdict.optimum import Fit, curve_of

CONTROLS = ("sp", "standard", "baseline", "none")
"""What the control is called, in lower case."""
ONE = "runs"
"""The scheme of a table without schemes."""
FAILING = ("crashed", "failed", "fail", "killed", "preempted", "error")
ONGOING = ("running", "waiting", "pending")


def judge_table(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    axis: str | None = None,
    scheme: str | None = None,
    against: str | None = None,
    where: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    base: int | None = None,
    tolerance: float = 0.5,
    command: str | None = None,
) -> TransferResult:
    """Judge whether the best learning rate stays where it is over the sizes of a table of runs; nothing is trained.

    path: a run a row: CSV, TSV, JSON; W&B's and Optuna's exports as they are. columns: our name (size, lr, seed, loss,
    scheme, state, width, depth, batch, tokens) -> the file's header, where it is called otherwise. axis: what the size
    is: width, depth, batch or tokens. scheme, against: the values of the scheme column that are checked and its
    control; without such a column there is one scheme and no control. where: header -> value, the rows to take.
    ignore: columns that vary and are no settings. base: losses are compared from this size on; default: at all.
    tolerance: allowed drift in octaves. command: recorded.
    Raises UsageError where the table cannot be read, a column is missing, a row is no run, two rows are the same run,
    or a setting varies inside a size. See judge.RULE for the verdict.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"tolerance={tolerance!r}: must be a positive number of octaves.")
    table = _kept(read_export(path), where or {})
    choice = chosen(table, columns or {}, axis=axis)
    notes = refuse_varying(table, choice, ignore=ignore)
    runs, skipped = _runs(table, choice)
    checked, control = _schemes({run.scheme for run in runs}, scheme, against)
    runs = [run for run in runs if run.scheme in (checked, control)]
    seeds, lost = _seeds(runs, choice.axis)
    notes += [*skipped, *lost]
    return _result(path, choice, runs, seeds, (checked, control), base, tolerance, command, notes)


def _kept(table: Table, where: Mapping[str, str]) -> Table:
    """The rows in which every named column has the named value, as text or as a number."""
    rows = table.rows
    for name, value in where.items():
        header = table.column(name).header
        rows = [row for row in rows if row[header] == value or _same(row[header], value)]
    if not rows:
        raise UsageError(f"{table.path}: no row has {', '.join(f'{k}={v}' for k, v in where.items())}.")
    return Table(table.path, table.columns, rows)


def _same(one: str, other: str) -> bool:
    try:
        return number(one) == number(other)
    except ValueError:
        return False


def _runs(table: Table, choice: Chosen) -> tuple[list[Run], list[str]]:
    """The runs of all rows, and what is to be said of rows that are left out."""
    runs: dict[str, tuple[Run, int]] = {}
    ongoing = 0
    for place, row in enumerate(table.rows, 1):
        cells = {ours: row[column.header] for ours, column in choice.columns.items()}
        if cells.get("state", "").lower() in ONGOING:
            ongoing += 1
            continue
        run = _run(f"{table.path}, run {place}", choice.axis, cells)
        if run.key in runs:
            raise UsageError(
                f"{table.path}: runs {runs[run.key][1]} and {place} are the same by their columns ({run.job}). "
                + ("Name what tells them apart" if "seed" in choice.columns else "Name the column of the seed")
                + ": --columns seed=COLUMN, or choose rows with --where COLUMN=VALUE."
            )
        runs[run.key] = run, place
    skipped = [f"{ongoing} run{'s' * (ongoing > 1)} that had not ended {'are' if ongoing > 1 else 'is'} left out."]
    return [run for run, _ in runs.values()], skipped if ongoing else []


def _run(where: str, axis: str, cells: Mapping[str, str]) -> Run:
    given = [name for name in AXES if cells.get(name)]
    sizes = {name: _positive(where, name, cells[name], whole=name not in ("batch", "tokens")) for name in given}
    if axis not in sizes:
        raise UsageError(f"{where}: it has no {axis}.")
    seed = number_of(where, "seed", cells.get("seed") or "0")
    loss = number_of(where, "loss", cells["loss"])
    state = _state(cells.get("state", ""), cells["loss"], loss)
    scale: dict[str, Any] = {axis: sizes.get(axis) for axis in AXES}
    return Run(
        *(cells.get("scheme") or ONE, scale.pop("width"), scale.pop("depth"), _positive(where, "lr", cells["lr"])),
        *(int(seed), 0, loss if state == "complete" else math.inf, math.inf, (), state == "diverged", 0.0, state),
        error=f"its state is {cells['state']!r}" if state == "failed" and cells.get("state") else None,
        **scale,
    )


def _state(said: str, text: str, loss: float) -> State:
    """How a run ended: what its tool says, else by its loss. One without a loss failed, of whatever."""
    if said.lower() in FAILING:
        return "failed"
    if said.lower() in ("pruned", "stopped"):
        return "pruned"
    if text.strip() == "" or text.strip().lower() in ("none", "null"):
        return "failed"
    return "complete" if math.isfinite(loss) else "diverged"


def number_of(where: str, name: str, text: str) -> float:
    """A cell as a number. Raises UsageError, naming it, where it is none."""
    try:
        return number(text)
    except ValueError as error:
        raise UsageError(f"{where}: {name} is {text!r}, which is no number.") from error


def _positive(where: str, name: str, text: str, *, whole: bool = False) -> Any:
    value = number_of(where, name, text)
    if not (math.isfinite(value) and value > 0) or (whole and value != int(value)):
        raise UsageError(f"{where}: {name} is {text!r}; it must be a positive {'whole ' if whole else ''}number.")
    return int(value) if whole else value


def _schemes(names: set[str], scheme: str | None, against: str | None) -> tuple[str, str | None]:
    """The checked scheme and its control, as named or as their names tell."""
    for given in (scheme, against):
        if given is not None and given not in names:
            raise UsageError(f"No run is of scheme {given!r}; there are {', '.join(sorted(names))}.")
    control = against or next((name for name in sorted(names) if name.lower() in CONTROLS and name != scheme), None)
    others = sorted(names - {control})
    if scheme is None and len(others) == 1:
        return others[0], control
    if scheme is None and not others:
        return str(control), None
    if scheme is None:
        raise UsageError(f"The table holds schemes {', '.join(others)}: name the one to check with --scheme.")
    return scheme, None if control == scheme else control


def _seeds(runs: Sequence[Run], axis: str) -> tuple[tuple[int, ...], list[str]]:
    """The seeds that every (scheme, size) has, and what is to be said of the others."""
    by_cell: dict[tuple[str, Any], set[int]] = defaultdict(set)
    for run in runs:
        by_cell[run.scheme, getattr(run, axis)].add(run.seed)
    common, every = set[int].intersection(*by_cell.values()), set[int].union(*by_cell.values())
    if not common:
        raise UsageError("No seed was run at every size and scheme, so that nothing can be compared.")
    lost = sorted(every - common)
    note = f"Seeds {', '.join(map(str, lost))} are left out: some size lacks them."
    return tuple(sorted(common)), [note] if lost else []


def _result(
    path: str | Path,
    choice: Chosen,
    runs: list[Run],
    seeds: tuple[int, ...],
    names: tuple[str, str | None],
    base: int | None,
    tolerance: float,
    command: str | None,
    notes: Sequence[str],
) -> TransferResult:
    axis, (scheme, control) = choice.axis, names
    present = [name for name in names if name is not None]
    by_scheme = {name: {getattr(run, axis) for run in runs if run.scheme == name} for name in present}
    sizes = sorted(set[Any].intersection(*by_scheme.values()))
    if len(sizes) < 2:
        raise UsageError(f"{path}: {axis} {sizes}: a transfer needs at least two {axis}s with runs of every scheme.")
    runs = [run for run in runs if getattr(run, axis) in sizes and run.seed in seeds]
    fits = {
        name: [Fit.of(curve_of(runs, scheme=name, size=size, seeds=seeds, axis=axis)) for size in sizes]
        for name in present
    }
    said = judged(fits, scheme=scheme, control=control, tolerance=tolerance, base=base)
    return TransferResult(
        recipe=Path(path).stem,
        scheme=scheme,
        rule=judge.rule_text(scheme, control, tolerance, axis=axis),
        **vars(said),
        axis=axis,
        sizes=tuple(int(size) for size in sizes),
        lrs=tuple(sorted({run.lr for run in runs})),
        seeds=seeds,
        steps=0,
        base_size=base,
        runs=tuple(runs),
        environment={k: v for k, v in environment("cpu").items() if k in ("hptransfer", "date")},
        command=masked(command or command_line()),
        against=control,
        tolerance=tolerance,
        notes=tuple(notes),
        tally=Tally.of(runs),
        measures=measures_of(fits, runs),
    )
