"""Tables of finished runs as other tools write them: CSV, TSV, JSON and JSON lines; W&B's and Optuna's exports.

W&B: the table's "Export CSV", and the data frame of its documentation with a dict in each `config` and `summary` cell.
Optuna: `study.trials_dataframe().to_csv()`, the dashboard's CSV, and `optuna trials -f json`.
"""

# pyright: strict
from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hptransfer.core.errors import UsageError, bounded

MAX_BYTES = 500_000_000
Rows = list[dict[str, str]]
_SETTINGS = ("config", "params", "param", "hparams", "hyperparameters")
_METRICS = ("summary", "user_attrs", "user attribute", "userattribute", "metrics", "values")
_PREFIX = re.compile(rf"(?i)^(?P<kind>{'|'.join((*_SETTINGS, *_METRICS))})(?:[_./ ]+)(?P<name>.+)$")


@dataclass(frozen=True)
class Column:
    """One column: its name in the file, the name without a tool's prefix, and whether the tool says what it is."""

    header: str
    name: str
    kind: str

    @classmethod
    def of(cls, header: str) -> Column:
        """`params_lr` of Optuna is the setting lr; `summary.val_loss` of W&B the metric val_loss."""
        match = _PREFIX.match(header)
        if match is None:
            return cls(header, header, "")
        kind = "setting" if match["kind"].lower() in _SETTINGS else "metric"
        return cls(header, match["name"], kind)


@dataclass(frozen=True)
class Table:
    """rows: header -> text, "" where a row has no such cell. columns: in the file's order. path: for messages."""

    path: str
    columns: tuple[Column, ...]
    rows: Rows

    def column(self, name: str) -> Column:
        """The column of that header, or of that name without a prefix. Raises UsageError where there is none."""
        exact = [c for c in self.columns if c.header == name] or [c for c in self.columns if c.name == name]
        exact = exact or [c for c in self.columns if c.name.lower() == name.lower()]
        if not exact:
            shown = ", ".join(repr(c.header) for c in self.columns[:20])
            raise UsageError(f"{self.path} has no column {name!r}. It has {bounded(shown)}.")
        return exact[0]


def read_export(path: str | Path) -> Table:
    """The table in a file. Raises UsageError where it cannot be read, is empty, ragged or no table of runs."""
    name = str(path)
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise UsageError(f"{name} is larger than {MAX_BYTES / 1e6:.0f} MB. Export the columns that are needed.")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read as text: {error}.") from error
    records = _records(name, text)
    rows = [_flat(record) for record in records]
    headers = list(dict.fromkeys(header for row in rows for header in row))
    if not rows or not headers:
        raise UsageError(f"{name} holds no runs. Give a table with a row for every run.")
    columns = tuple(Column.of(header) for header in headers)
    return Table(name, columns, [{header: row.get(header, "") for header in headers} for row in rows])


def _records(name: str, text: str) -> Iterable[Mapping[str, Any]]:
    start = text.lstrip()[:1]
    if start == "[" or (start == "{" and Path(name).suffix == ".json"):
        return _objects(name, _json(name, text))
    if start == "{":
        return [record for line in text.splitlines() if line.strip() for record in _objects(name, [_json(name, line)])]
    return _csv(name, text)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{name} is not whole JSON ({error}).") from error


def _objects(name: str, data: Any) -> list[Mapping[str, Any]]:
    items: list[Any] = [data]
    if isinstance(data, Mapping):  # {"trials": [...]} or the like, or one run
        record = cast(Mapping[str, Any], data)
        lists = [cast(list[Any], value) for value in record.values() if isinstance(value, list)]
        items = lists[0] if len(lists) == 1 and not {"lr", "loss"} & set(record) else [record]
    elif isinstance(data, list):
        items = cast(list[Any], data)
    if not all(isinstance(item, Mapping) for item in items):
        raise UsageError(f"{name} is no list of JSON objects, one a run.")
    return cast(list[Mapping[str, Any]], items)


def _csv(name: str, text: str) -> list[Mapping[str, Any]]:
    head = text[: text.find("\n") if "\n" in text else None]
    delimiter = max(",;\t", key=head.count)
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(line)]
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{name} cannot be read as CSV: {error}.") from error
    header = [cell.strip() for cell in header]
    twice = sorted({cell for cell in header if cell and header.count(cell) > 1})
    if twice:
        raise UsageError(f"{name}: the column {twice[0]!r} comes more than once.")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise UsageError(f"{name}, row {number}: {len(line)} cells under {len(header)} columns.")
    return [dict(zip(header, line, strict=True)) for line in lines]


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """header -> text; a cell that is a dict, or the text of one, becomes a column per key."""
    cells: dict[str, str] = {}
    for key, value in record.items():
        inner = _dict(value)
        if inner is not None:
            cells |= _flat(inner, f"{prefix}{key}.")
        elif not isinstance(value, list):
            cells[f"{prefix}{key}"] = "" if value is None else str(value).strip()
    return cells


def _dict(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    if not (isinstance(value, str) and value.strip()[:1] == "{" and value.strip()[-1:] == "}"):
        return None
    text = value.strip()
    for read in (_json_text, _python_text):
        try:
            inner = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return cast(Mapping[str, Any], inner) if isinstance(inner, dict) else None
    return None


def _json_text(text: str) -> object:
    return json.loads(text)


def _python_text(text: str) -> object:
    """A dict as Python prints it, nan and inf included."""
    return ast.literal_eval(re.sub(r"(?<![\w'\"])(-?)(nan|inf)\b", r"\g<1>1e999", text))


def number(text: str) -> float:
    """A cell as a number; nan where it is empty or says so, inf for Infinity. Raises ValueError for other text."""
    plain = text.strip().lower().replace("infinity", "inf")
    return math.nan if plain in ("", "nan", "none", "null", "n/a") else float(plain)
