"""The numbers behind a report as files that lie inside the page: runs and optima, as CSV and JSON."""

# pyright: strict
from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hptransfer.core.files import encode, json_text
from hptransfer.core.training.scale import MIXTURE
from hptransfer.validation.records.results import TransferResult

RUN_COLUMNS = (
    *("scheme", "width", "depth", "batch", "tokens", "lr", "settings", "seed", "steps"),
    *("val_loss", "train_loss", "state", "seconds", "error", *MIXTURE),
)
OPTIMUM_COLUMNS = (
    *("scheme", "size", "setting", "lr", "log2_lr", "low", "high", "loss", "loss_low", "loss_high"),
    *("at_edge", "seeds", "missing"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell of text for a formula (OWASP, CSV injection)."""


class Download(NamedTuple):
    """label: what is in it. name: the file it becomes. url: the whole file, as a data: URL."""

    label: str
    name: str
    url: str


def downloads(result: TransferResult) -> tuple[Download, ...]:
    """Runs, as runs.jsonl has them but for their loss curves, and optima; each as CSV and as JSON.

    An optimum's lr is a factor on the base's value where its setting is not "lr".
    """
    runs = [{name: value for name, value in vars(run).items() if name != "curve"} for run in result.runs]
    optima = [_with_rate(vars(o)) | {"setting": result.setting} for o in result.optima]
    files = (
        ("runs, CSV", "runs.csv", "text/csv", csv_text(RUN_COLUMNS, runs)),
        ("runs, JSON", "runs.json", "application/json", json_text(encode(runs))),
        ("optima, CSV", "optima.csv", "text/csv", csv_text(OPTIMUM_COLUMNS, optima)),
        ("optima, JSON", "optima.json", "application/json", json_text(encode(optima))),
    )
    return tuple(Download(label, name, _data_url(kind, text)) for label, name, kind, text in files)


def _with_rate(optimum: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an optimum and its learning rate itself, None where there is none."""
    return {**optimum, "lr": 2.0 ** optimum["log2_lr"] if math.isfinite(optimum["log2_lr"]) else None}


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table with a header; numbers in full, text in quotes and never a formula; None and nan are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(header)
    writer.writerows([_cell(row.get(name)) for name in header] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def _data_url(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
