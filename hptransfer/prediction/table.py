"""Named columns of numbers from a CSV file, with errors that say which file, row and column was wrong."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from hptransfer.core.errors import UsageError

Array = np.ndarray


Where = Mapping[str, str]
"""Column of a file -> the value that a row must have, as text or as a number."""
_UNITS = {"k": 1e3, "K": 1e3, "m": 1e6, "M": 1e6, "B": 1e9, "b": 1e9, "G": 1e9, "T": 1e12}


def read_columns(
    path: str | Path,
    columns: Mapping[str, str],
    *,
    optional: Collection[str] = (),
    nonfinite: Collection[str] = (),
    where: Where | None = None,
) -> dict[str, Array]:
    """The columns of a CSV file as float arrays (rows,), under the caller's own names.

    columns: our name -> the file's column name (blanks around names do not count). optional: our names that may be
    missing from the file. nonfinite: our names whose nan and inf (and empty cells, read as nan) are let through. where:
    rows that count. Numbers may be written as 130M, 1.5B, 2_000 or "1,000".
    Raises UsageError for an unreadable or empty file, a missing column, a truncated row, or a cell that is no number.
    """
    path = Path(path)
    header, rows = _read(path)
    _refuse_duplicates(path, header, [*columns.values(), *(where or {})])
    rows = _selected(path, header, rows, where or {})
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs in header}
    missing = [f"{columns[ours]!r} (for {ours})" for ours in columns if ours not in wanted and ours not in optional]
    if missing:
        raise UsageError(
            f"{path} has no column {', '.join(missing)}. It has: {', '.join(header)}. Map names, as in loss=val_loss."
        )
    return {
        ours: np.array([_number(path, i, row, theirs, ours in nonfinite) for i, row in rows])
        for ours, theirs in wanted.items()
    }


def settings_that_vary(
    path: str | Path, columns: Mapping[str, str], scale: Collection[Array], lr: Array, *, where: Where | None = None
) -> tuple[str, ...]:
    """Notes on further columns that vary inside a cell, the runs of one scale (columns as in read_columns).

    scale, lr (rows,): as read with the same `where`. A column counts as a setting where it has at most SETTINGS values
    that each occur more than once and its name is none of a seed's or a run's. Raises UsageError where one varies
    between runs of one scale and rate: their mean would mix settings.
    """
    path = Path(path)
    header, rows = _read(path)
    rows = _selected(path, header, rows, where or {})
    cells = list(zip(*scale, strict=True))
    notes: list[str] = []
    for name in dict.fromkeys(header):
        values = [(row[name] or "").strip() for _, row in rows]
        if name in columns.values() or name.lower() in NO_SETTINGS or not _a_setting(values):
            continue
        if _varies(values, [(*cell, rate) for cell, rate in zip(cells, lr.tolist(), strict=True)]):
            raise UsageError(
                f"{path}: column {name!r} differs between runs of one scale and learning rate ({_shown(values)}): "
                f"their mean would mix them. Keep one value with where={{{name!r}: ...}} (--where {name}=VALUE)."
            )
        if _varies(values, cells):
            notes.append(f"column {name!r} varies inside cells ({_shown(values)}): its effect counts as the rate's")
    return tuple(notes)


_RUNS = {"run", "run_id", "id", "index", "name", "file", "note", "notes", "state", "status", ""}
NO_SETTINGS = {"seed", "data_seed", "seeds", "rep", "replicate", "trial", *_RUNS}
SETTINGS = 20
"""The largest number of values of a column that counts as a setting."""


def _a_setting(values: Collection[str]) -> bool:
    counts = Counter(values)
    return 1 < len(counts) <= SETTINGS and min(counts.values()) > 1


def _varies(values: Collection[str], keys: Collection[tuple[float, ...]]) -> bool:
    seen: dict[tuple[float, ...], str] = {}
    return any(seen.setdefault(key, value) != value for key, value in zip(keys, values, strict=True))


def _shown(values: Collection[str]) -> str:
    distinct = sorted(set(values))
    return ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")


def _refuse_duplicates(path: Path, header: Collection[str], used: Collection[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1 and name in used]
    if twice:
        raise UsageError(f"{path} has {len(twice)} column name(s) twice: {', '.join(twice)}. Rename all but one.")


def _selected(path: Path, header: Collection[str], rows: list[Row], where: Where) -> list[Row]:
    unknown = sorted(set(where) - set(header))
    if unknown:
        raise UsageError(f"{path} has no column {', '.join(unknown)} to select by. It has: {', '.join(header)}.")
    kept = [(i, row) for i, row in rows if all(_equal(row[name] or "", value) for name, value in where.items())]
    if not kept:
        raise UsageError(f"{path}: no row has {', '.join(f'{n}={v}' for n, v in where.items())}.")
    return kept


def _equal(text: str, value: str) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return text.strip() == value.strip()


Row = tuple[int, dict[str, str | None]]


def _read(path: Path) -> tuple[list[str], list[Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"Cannot read {str(path)!r} as a CSV file: {error}") from error
    for line, row in rows:
        if None in row or None in row.values():
            have = sum(1 for value in row.values() if value is not None)
            raise UsageError(
                f"{path}, line {line}: {have} cells where the header has {len(header)}. The file looks truncated or "
                "damaged there."
            )
    if not rows:
        raise UsageError(f"{path} holds no rows below its header ({', '.join(header) or 'which is missing too'}).")
    return header, rows


def _number(path: Path, line: int, row: dict[str, str | None], column: str, lenient: bool) -> float:
    text = row[column] or ""
    try:
        value = math.nan if lenient and not text.strip() else _parsed(text.strip())
    except ValueError:
        raise UsageError(f"{path}, line {line}, column {column!r}: {text!r} is not a number.") from None
    if not lenient and not math.isfinite(value):
        raise UsageError(f"{path}, line {line}, column {column!r}: {text!r} is not finite. Remove or mend the row.")
    return value


def _parsed(text: str) -> float:
    """A number, perhaps with thousands separated or a unit behind it: 2_000, 1,000, 130M."""
    text = text.replace(",", "").replace("_", "")
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else float(text)
