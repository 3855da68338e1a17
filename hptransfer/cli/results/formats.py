"""One result in four forms: a table for people, JSON, CSV and Markdown for what comes next."""

# pyright: strict
from __future__ import annotations

import csv
import io
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hptransfer.cli.output import show
from hptransfer.core.files import json_text

Format = Literal["table", "json", "csv", "md"]
WIDTH = 100
"""Columns that folded text keeps to."""
Cells = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Forms:
    """What a command has to show.

    text: for a terminal, with everything said. data: plain JSON data, built when asked for. records: one a line of the
    CSV, with the same keys. cells: header and lines of the Markdown table. notes: what the text says beside its table.
    """

    text: str
    data: Callable[[], Any]
    records: Sequence[Mapping[str, object]]
    cells: Cells
    notes: Sequence[str] = ()


def show_as(form: Format, forms: Forms, *, then: str = "") -> None:
    """Print a result in one form; in CSV the notes go to stderr. then: the next command to run, below text alone."""
    if form == "json":
        show(json_text(forms.data()))
    elif form == "csv":
        show(csv_text(forms.records))
        print("\n".join(forms.notes), file=sys.stderr)
    elif form == "md":
        show("\n\n".join([markdown_table(forms.cells), *forms.notes]))
    else:
        show(forms.text + (f"\n\n{then}" if then else ""))


def folded(text: str) -> str:
    """The text with lines longer than WIDTH folded at blanks, what follows indented."""
    lines = (textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False) for line in text.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def csv_text(records: Sequence[Mapping[str, object]]) -> str:
    """Records as CSV with a header, numbers in full; an unknown number is an empty cell."""
    written = io.StringIO()
    names = list(records[0]) if records else []
    writer = csv.DictWriter(written, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(record[name]) for name in names} for record in records)
    return written.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def markdown_table(cells: Cells) -> str:
    """Header and lines as a table of GitHub's Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
