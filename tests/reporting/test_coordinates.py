"""The coordinate check's figure: a module that failed is drawn as failed, whichever step it failed at, and is named."""

from __future__ import annotations

import itertools
import math
import re
from html import unescape

import pytest

from hptransfer.checks.coord.report import CoordReport
from hptransfer.checks.coord.rows import Module, Record, fit_rows
from hptransfer.reporting.report.coordinates import (
    NAMES_SHOWN,
    _apart,
    coord_info,
    coord_rows,
    coordinate_figure,
    line_text,
)
from hptransfer.reporting.svg import minus

WIDTHS, SEEDS, STEPS = (64, 128, 256), (0, 1), (0, 1, 2)


def report(exponents: dict[str, tuple[float, ...]], kind: str = "hidden") -> CoordReport:
    """Modules whose output goes as width^b, b given per step; inf: not finite at the largest width."""
    records = [
        Record(w, seed, t, name, _size(b, w) * (1 + 0.01 * seed), None if t == 0 else _size(b, w) * (1 + 0.01 * seed))
        for name, by_step in exponents.items()
        for t, b in zip(STEPS, by_step, strict=True)
        for w in WIDTHS
        for seed in SEEDS
    ]
    modules = {name: Module(kind) for name in exponents}  # type: ignore[arg-type]
    rows = tuple(fit_rows(records, modules, tolerance=0.25))
    return CoordReport("FAIL", 0.25, "", (), rows, (), tuple(records), (), (), {})


def _size(exponent: float, width: int) -> float:
    return (
        math.inf if exponent == math.inf and width == WIDTHS[-1] else width ** (0 if exponent == math.inf else exponent)
    )


def states(found: CoordReport) -> list[dict[str, str]]:
    return [{line.module: line.state for line in panel.lines} for panel in coord_info(found)]


def test_a_line_has_the_state_of_its_worst_step_as_the_table_has():
    found = report({"good": (0, 0, 0), "early": (0, 0.6, 0), "late": (0, 0, 0.6)})
    table = {(row.module, row.quantity): row.state for row in coord_rows(found)}
    for panel in coord_info(found):
        for line in panel.lines:
            assert line.state == table[line.module, panel.quantity]
    assert states(found)[1] == {"good": "ok", "early": "fails", "late": "fails"}


def test_a_module_that_blew_up_is_drawn_and_named_as_failed():
    found = report({"good": (0, 0, 0), "blown": (0, 0, math.inf)})
    (line,) = [line for line in coord_info(found)[1].lines if line.module == "blown"]
    assert line.state == "fails" and line.broken == (256,) and [w for w, _ in line.points] == [64, 128]
    drawn = coordinate_figure(coord_info(found)[1], name="c")
    assert "zero or not finite: blown" in drawn and "blown: fails" in drawn


def test_modules_are_named_on_their_lines_and_tell_a_pointer_their_exponents():
    found = report({f"block.{i}.attention": (0, 0, 0.1 * i) for i in range(3)})
    drawn = unescape(coordinate_figure(coord_info(found)[1], name="c"))
    for line in coord_info(found)[1].lines:
        assert f">{line.module}</text>" in drawn
        assert f"<title>{minus(line_text(line))}</title>" in drawn
    assert len(re.findall(r"<title>block\.\d\.attention: (?:ok|fails|undecided); exponent [+−]0\.\d\d", drawn)) == 3


def test_no_more_names_than_fit_and_those_of_failures_first():
    names = {f"m{i:02}": (0, 0, 0) for i in range(20)} | {"bad": (0, 0, 0.9)}
    drawn = coordinate_figure(coord_info(report(names))[1], name="c")
    shown = re.findall(r">(m\d\d|bad)</text>", drawn)
    assert len(shown) == NAMES_SHOWN and "bad" in shown
    assert drawn.count("<title>") == 21


@pytest.mark.parametrize("heights", [[], [0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -0.95, 0.9, 1.0], [1.0, 1.0, 1.0]])
def test_labels_are_apart_in_order_and_inside(heights):
    placed = _apart(heights, 0.2, -1.0, 1.0)
    assert len(placed) == len(heights)
    assert all(b - a >= 0.2 - 1e-12 for a, b in itertools.pairwise(placed))
    assert all(-1 - 1e-12 <= y <= 1 + 1e-12 for y in placed)
    if heights == [0.0] * 4:
        assert sum(placed) == pytest.approx(0.0)  # spread about their common end
