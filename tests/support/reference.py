"""Reference data that lies outside the repository: where it is, and the tables of computed anchors in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.public_data import FOLDER


def reference(name: str) -> Path:
    """The path of a file or folder of the reference data; skips the calling test where it is not there."""
    if not (FOLDER / name).exists():
        pytest.skip(f"{name} is not in the data folder {FOLDER} (set HPTRANSFER_DATA)")
    return FOLDER / name


def anchors(section: str) -> dict[str, Any]:
    """One table of numbers computed elsewhere: key -> values."""
    tables: dict[str, dict[str, Any]] = json.loads(reference("analytic_anchors.json").read_text("utf-8"))
    return tables[section]
