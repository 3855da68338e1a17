"""Which column of a table of runs is what: named by the user, or known by the names that trainers give them."""

# pyright: strict
from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from hptransfer.core.errors import UsageError
from hptransfer.core.training.scale import Axis
from hptransfer.validation.tables.exports import Column, Table

NAMES: Mapping[str, tuple[str, ...]] = {
    "width": ("width", "d_model", "n_embd", "hidden_size", "hidden_dim", "model_dim", "dim"),
    "depth": ("depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers", "layers"),
    "batch": ("batch", "batch_size", "global_batch_size"),
    "tokens": ("tokens", "train_tokens", "total_tokens"),
    "experts": ("experts", "num_experts", "n_experts", "num_local_experts", "n_routed_experts"),
    "active": ("active", "num_experts_per_tok", "top_k", "topk", "experts_per_token"),
    "expert_width": ("expert_width", "moe_intermediate_size", "expert_dim", "expert_hidden_size"),
    "lr": ("lr", "learning_rate", "base_lr", "max_lr"),
    "seed": ("seed", "random_seed", "rng_seed"),
    "loss": (
        *("val_loss", "validation_loss", "valid_loss", "eval_loss", "val/loss", "eval/loss", "validation/loss"),
        *("valid/loss", "val/loss_epoch", "loss", "value"),
    ),
    "scheme": ("scheme", "param", "parametrization", "parameterization"),
    "state": ("state", "status"),
}
"""Our names, and how they are called elsewhere; the first one in the table counts."""
AXES = cast(tuple[Axis, ...], get_args(Axis))
OURS = (*NAMES, "size")
ABOUT = frozenset(
    {
        "name",
        "id",
        "notes",
        "user",
        "tags",
        "created",
        "runtime",
        "sweep",
        "group",
        "hostname",
        "commit",
        "description",
        "updated",
        "agent",
        "number",
        "duration",
        "index",
        "datetime_start",
        "datetime_complete",
        "display_name",
        "project",
        "entity",
        "job_type",
        "start_time",
        "end_time",
        "path",
        "url",
        "relative_time",
        "trial",
        "trial_id",
        "timestamp",
        "seconds",
        "_step",
        "_runtime",
        "_timestamp",
        "_wandb",
        "engine",
        "diverged",
        "error",
        "curve",
        "fingerprint",
        "train_loss",
        "schema",
        "plan",
        "git_commit",
        "run_id",
        "run_name",
    }
)
"""Columns about a run that never decide how it ended."""


@dataclass(frozen=True)
class Chosen:
    """The axis, and the column of each of our names that the table has."""

    axis: Axis
    columns: Mapping[str, Column]

    @property
    def size(self) -> Column:
        """The column of the sizes."""
        return self.columns[self.axis]


def chosen(table: Table, given: Mapping[str, str], *, axis: str | None) -> Chosen:
    """Our names' columns. given: our name -> the file's header; `size` is the axis's, whichever that is.

    Raises UsageError where a name is unknown, a needed column is missing, or several axes vary and none is named.
    """
    if unknown := sorted(set(given) - set(OURS)):
        raise UsageError(f"--columns {unknown[0]}=...: name any of {', '.join(OURS)}.")
    if axis is not None and axis not in AXES:
        raise UsageError(f"axis={axis!r}: use one of {', '.join(AXES)}.")
    columns = {ours: table.column(theirs) for ours, theirs in given.items() if ours != "size"}
    for ours in NAMES:
        if ours not in columns and (known := _known(table, ours, taken=columns.values())) is not None:
            columns[ours] = known
    named = axis
    if "size" in given:
        column = table.column(given["size"])
        named = named or _axis_of(column)
        columns[named] = column
    named = named or _varying(table, columns)
    for needed in (named, "lr", "loss"):
        if needed not in columns:
            raise UsageError(f"{table.path} has no column known as {needed}. Name it: --columns {needed}=COLUMN,...")
    return Chosen(named, columns)


def _known(table: Table, ours: str, taken: Sequence[Column] | object) -> Column | None:
    used = {column.header for column in cast(Sequence[Column], taken)}
    for name in NAMES[ours]:
        for column in table.columns:
            if column.header not in used and column.name.lower().replace("-", "_") == name:
                return column
    return None


def _axis_of(column: Column) -> Axis:
    for axis in AXES:
        if column.name.lower().replace("-", "_") in NAMES[axis]:
            return axis
    raise UsageError(f"What is {column.header!r} a size of? Give --axis {' or --axis '.join(AXES)}.")


def _varying(table: Table, columns: Mapping[str, Column]) -> Axis:
    varying: list[Axis] = [
        a for a in AXES if a in columns and len({row[columns[a].header] for row in table.rows} - {""}) > 1
    ]
    if len(varying) == 1:
        return varying[0]
    what = f"{', '.join(varying)} vary" if varying else "no width, depth, batch or tokens varies"
    raise UsageError(f"{table.path}: {what}. Name the one to judge over: --columns size=COLUMN, and --axis NAME.")


def refuse_varying(table: Table, choice: Chosen, *, ignore: Sequence[str]) -> list[str]:
    """What else differs between the sizes, in words. ignore: columns that are measurements.

    Raises UsageError, naming the column, where a setting varies inside a (scheme, size): one its tool calls a setting,
    or one whose values repeat from run to run as a measurement's do not.
    """
    used = {column.header for column in choice.columns.values()} - _other_axes(choice)
    skipped = used | {table.column(name).header for name in ignore}
    notes: list[str] = []
    for column in table.columns:
        if column.header in skipped or column.kind == "metric" or column.name.lower().replace(" ", "_") in ABOUT:
            continue
        if column.header == "" or not _is_setting(table, column):
            continue
        values: dict[tuple[str, str], set[str]] = defaultdict(set)
        scheme = choice.columns.get("scheme")
        for row in table.rows:
            values[row[scheme.header] if scheme else "", row[choice.size.header]].add(row[column.header])
        for (name, size), several in values.items():
            if len(several) > 1:
                where = f"{name + ' ' if name else ''}{choice.axis} {size}"
                raise UsageError(
                    f"{table.path}: {column.header!r} takes {len(several)} values ({', '.join(sorted(several)[:4])}) "
                    f"at {where}: the runs there do not differ in rate and seed alone. Choose with --where "
                    f"{column.header}=VALUE, or say that it is no setting with --ignore {column.header}."
                )
        if len({value for several in values.values() for value in several}) > 1:
            notes.append(f"{column.header} is not the same everywhere, though it is inside every {choice.axis}.")
    return notes


def _other_axes(choice: Chosen) -> set[str]:
    return {column.header for ours, column in choice.columns.items() if ours in AXES and ours != choice.axis}


def _is_setting(table: Table, column: Column) -> bool:
    """Called so by its tool, or of values that repeat: fewer than half as many as rows."""
    filled = [row[column.header] for row in table.rows if row[column.header]]
    return column.kind == "setting" or (len(filled) > 0 and len(set(filled)) <= max(1, len(filled) / 2))
