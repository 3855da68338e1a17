"""Named columns of numbers from a CSV file, with errors that say which file, row and column was wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from hptransfer.core.errors import UsageError

Array = np.ndarray


def read_columns(
    path: str | Path, columns: Mapping[str, str], *, optional: Collection[str] = (), nonfinite: Collection[str] = ()
) -> dict[str, Array]:
    """The columns of a CSV file as float arrays (rows,), under the caller's own names.

    columns: our name -> the file's column name. optional: our names that may be missing from the file. nonfinite: our
    names whose nan and inf (and empty cells, read as nan) are let through.
    Raises UsageError for an unreadable or empty file, a missing column, a truncated row, or a cell that is no number.
    """
    path = Path(path)
    header, rows = _read(path)
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


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or [])
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
        value = math.nan if lenient and not text.strip() else float(text)
    except ValueError:
        raise UsageError(f"{path}, line {line}, column {column!r}: {text!r} is not a number.") from None
    if not lenient and not math.isfinite(value):
        raise UsageError(f"{path}, line {line}, column {column!r}: {text!r} is not finite. Remove or mend the row.")
    return value
