"""docs/evidence.md says what the benchmarks' files say; figures are made of the same."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import pytest

from hptransfer.reporting.svg import minus
from scripts import evidence


def page_rows() -> list[str]:
    block = evidence.PAGE.read_text("utf-8").partition(evidence.BEGIN)[2].partition(evidence.END)[0]
    return [line for line in block.splitlines() if line.startswith("|")]


def test_every_row_of_the_page_is_a_row_of_the_files():
    """The files may hold more than the page: `python scripts/evidence.py` writes the page again."""
    rows, made = page_rows(), evidence.markdown().splitlines()
    assert len(rows) >= 9 and set(rows) <= set(made)


def test_a_row_holds_the_files_numbers():
    data = evidence.read("depth-400")
    (row,) = [row for row in page_rows() if "`depth-400.json`" in row]
    for drift in data["drifts"]:
        assert minus(f"{drift['octaves']:+.2f} [{drift['low']:+.2f}, {drift['high']:+.2f}]") in row
    largest = max(data["loss_gaps"], key=lambda gap: gap["size"])
    assert minus(f"{largest['mup_minus_sp']:+.3f}") in row and data["verdict"] in row


def test_figures_say_what_the_files_say(tmp_path):
    drawn = {path.name: unescape(path.read_text("utf-8")) for path in evidence.write(tmp_path)}
    assert {"evidence-drifts.svg", "evidence-gpu.svg", "evidence-families.svg"} <= set(drawn)
    for check in evidence.checks():
        assert f"{check.name}: {minus(evidence._moved(check.drift))}, {check.verdict}" in drawn["evidence-drifts.svg"]
    passes = sum(row["verdict"] == "PASS" for row in evidence.read("families")["families"])
    label = re.search(r'aria-label="([^"]*)"', drawn["evidence-families.svg"])[1]
    assert sum(map(int, re.findall(r"(\d+) PASS", label))) == passes + 54 + 24
    for name, text in drawn.items():
        assert re.search(r'aria-label="[^"]{40,}"', text) and "#0a0" not in text, name


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "BENCHMARKS", tmp_path)
    return tmp_path


def test_without_its_file_a_figure_is_left_out(elsewhere):
    shutil.copy(evidence.ROOT / "benchmarks" / "depth.json", elsewhere)
    written = evidence.write(elsewhere)
    assert [path.name for path in written] == ["evidence-drifts.svg"]
    assert len(evidence.checks()) == 1


def test_figures_of_files_that_come_later(elsewhere):
    cells = [
        {"shape": shape, "noise": noise, "drift": drift, "pass": 1 - drift}
        for shape in ("digits", "cliff")
        for noise in (0.1, 0.4)
        for drift in (0.0, 0.5, 1.0)
    ]
    (elsewhere / "verdict.json").write_text(json.dumps({"settings": {"repeats": 60}, "cells": cells}))
    side = {"stage": "octaves", "seconds": 90.0}
    row = {"recipe": "mlp", "ours": {"seconds": 30.0}, "mup": [side], "against": "octaves"}
    (elsewhere / "check.json").write_text(json.dumps({"recipes": [row]}))
    drawn = [path.read_text("utf-8") for path in evidence.write(elsewhere, ["verdict", "check"])]
    assert "60 checks a cell" in drawn[0] and drawn[0].count("noise 0.") == 2
    assert "mlp: hptransfer check: 30 s; mlp: mup + Optuna, octaves: 90 s" in drawn[1]
