"""Facts about mutants: every kind is made, each changes one node only, and types and texts are left alone."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

from scripts.mutants import mutants

KINDS = [
    ("x = 3", "number", "3", "4"),
    ("x = 0.5", "number", "0.5", "1.0"),
    ("x = 0.0", "number", "0.0", "1.0"),
    ("x = a + b", "sign", "a + b", "a - b"),
    ("x = a - b", "sign", "a - b", "a + b"),
    ("x += a", "sign", "x += a", "x -= a"),
    ("x = -a", "sign", "-a", "a"),
    ("x = a * b", "factor", "a * b", "a / b"),
    ("x = a / b", "factor", "a / b", "a * b"),
    ("x = a < b", "comparison", "a < b", "a <= b"),
    ("x = a <= b", "comparison", "a <= b", "a < b"),
    ("x = a > b", "comparison", "a > b", "a >= b"),
    ("x = a >= b", "comparison", "a >= b", "a > b"),
    ("x = a == b", "comparison", "a == b", "a != b"),
    ("x = a != b", "comparison", "a != b", "a == b"),
    ("x = a is b", "comparison", "a is b", "a is not b"),
    ("x = a is not b", "comparison", "a is not b", "a is b"),
    ("x = a in b", "comparison", "a in b", "a not in b"),
    ("x = a not in b", "comparison", "a not in b", "a in b"),
    ("x = a and b", "logic", "a and b", "a or b"),
    ("x = a or b", "logic", "a or b", "a and b"),
    ("x = not a", "logic", "not a", "a"),
]


@pytest.mark.parametrize(("source", "kind", "before", "after"), KINDS)
def test_each_change_is_made(source: str, kind: str, before: str, after: str) -> None:
    (only,) = mutants(source)
    assert (only.kind, only.before, only.after) == (kind, before, after)
    assert ast.unparse(ast.parse(only.applied(source))) == source.replace(before, after)


def test_a_chain_of_comparisons_is_changed_link_by_link() -> None:
    assert [m.after for m in mutants("x = a < b <= c")] == ["a < b < c", "a <= b <= c"]


def test_the_changed_expression_keeps_its_place_among_operators() -> None:
    """Without its `not`, `not (a or b) and c` is `(a or b) and c`; `a * b ** -c` loses its sign in the exponent."""
    applied = {m.applied("x = not (a or b) and c") for m in mutants("x = not (a or b) and c")}
    assert "x = (a or b) and c" in {ast.unparse(ast.parse(source)) for source in applied}
    applied = {ast.unparse(ast.parse(m.applied("x = a * b ** -c"))) for m in mutants("x = a * b ** -c")}
    assert applied == {"x = a / b ** (-c)", "x = a * b ** c"}


@pytest.mark.parametrize(
    "source",
    [
        "x: Array[3] = y",
        "def f(a: T[1]) -> T[2]: ...",
        "x = True",
        "x = 'a'",
        "x = a + '.'",
        "x += f'{a}'",
        "x = f'{a + 1:.3f}'",
        '"""1 < 2"""',
    ],
)
def test_types_texts_and_booleans_are_left_alone(source: str) -> None:
    assert mutants(source) == []


def test_characters_of_several_bytes_do_not_move_the_change() -> None:
    source = 'x = f("ä" * 1, "—", a < b)  # ö\ny = "é"; z = 2\n'
    changed = {m.after: m.applied(source) for m in mutants(source)}
    assert changed["3"] == source.replace("z = 2", "z = 3")
    assert changed["a <= b"] == source.replace("a < b", "(a <= b)")


SPANS = """\
LIMIT = 3

def f(a=1):
    if (a <
            2):
        return a + 4
    return max(
        a,
        5,
    )
"""


def test_a_mutant_knows_the_lines_that_execute_it() -> None:
    """A statement of several lines is reached by any of them; a default, by whoever runs the function."""
    spans = {m.before: (m.lines, m.top) for m in mutants(SPANS)}
    assert spans["3"] == ((1, 1), True)
    assert spans["1"] == ((3, 10), False)
    assert spans["a < 2"] == ((4, 5), False)
    assert spans["4"] == ((6, 6), False)
    assert spans["5"] == ((7, 10), False)


def test_every_mutant_of_a_real_file_changes_one_expression() -> None:
    """`applied` compares syntax trees; here by text: one run of characters differs, and no two mutants are the same."""
    source = (Path(__file__).parents[2] / "scripts" / "covering.py").read_text()
    made = mutants(source)
    applied = [m.applied(source) for m in made]
    assert len({m.key for m in made}) == len(made) == len(set(applied)) > 5
    for mutant, text in zip(made, applied, strict=True):
        changed = [op for op in difflib.ndiff(source.splitlines(), text.splitlines()) if op[0] == "-"]
        assert len(changed) == 1 and mutant.before.split()[0] in changed[0]


def test_an_edited_file_has_other_keys() -> None:
    assert mutants("x = 1")[0].key != mutants("x = 1\ny = a")[0].key
