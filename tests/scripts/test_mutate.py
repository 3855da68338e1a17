"""Facts about the mutation run, on a toy package: what is killed, survives or hangs; the tree is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutate.py"
CODE = """\
LIMIT = 3


def capped(x):
    if x < LIMIT:
        return x + 1
    return -x


def countdown(n):
    while n != 0:
        n -= 1
    return n


def untested(a, b):
    return a * b
"""
TESTS = """\
from toy.code import capped, countdown


def test_small():
    assert capped(1) == 2


def test_large():
    assert capped(9) < 0


def test_countdown():
    assert countdown(1) == 0
"""
EXPECTED = {
    "3 -> 4": "survived",  # nobody asks what happens at 3
    "x < LIMIT -> x <= LIMIT": "survived",
    "x + 1 -> x - 1": "killed",
    "1 -> 2": "killed",
    "-x -> x": "killed",
    "n != 0 -> n == 0": "killed",
    "0 -> 1": "killed",
    "n -= 1 -> n += 1": "timeout",
    "a * b -> a / b": "uncovered",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for folder, name, text in (("toy", "__init__", ""), ("toy", "code", CODE), ("tests", "test_code", TESTS)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text)
    return tmp_path


def mutate(toy: Path, *args: str) -> str:
    command = [sys.executable, str(SCRIPT), "toy", "--out", "out.jsonl", "--map", "map.json", *args]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=toy, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(toy: Path) -> list[dict]:
    return [json.loads(line) for line in (toy / "out.jsonl").read_text().splitlines()]


def outcomes(toy: Path) -> dict[str, str]:
    return {
        f"{r['before']} -> {r['after']}": r["outcome"] for r in records(toy) if r["line"] != 12 or r["kind"] == "sign"
    }


def test_outcomes_are_what_the_tests_hold_and_the_tree_is_left_alone(toy: Path) -> None:
    printed = mutate(toy, "--limit", "20", "--workers", "2")
    assert outcomes(toy) == EXPECTED
    assert "survived: toy/code.py:5: x < LIMIT -> x <= LIMIT" in printed
    assert next(r for r in records(toy) if r["after"] == "x - 1")["by"] == "tests/test_code.py::test_small"
    assert {p.name for p in toy.iterdir()} == {"toy", "tests", "out.jsonl", "map.json"}
    assert (toy / "toy" / "code.py").read_text() == CODE


def test_a_run_goes_on_behind_what_is_done_and_retries_survivors_on_new_tests(toy: Path) -> None:
    (toy / "toy" / "code.py").write_text("LIMIT = 3\n\n\ndef capped(x):\n    return -x if x < LIMIT else x\n")
    (toy / "tests" / "test_code.py").write_text(
        "from toy.code import capped\n\n\ndef test_it():\n    assert capped(1) < 0\n"
    )
    mutate(toy, "--sample", "1", "--seed", "1")
    done = records(toy)
    assert len(done) == 1
    assert mutate(toy, "--sample", "1", "--seed", "1").startswith("1 mutants")
    assert records(toy) == done
    mutate(toy)
    assert records(toy)[:1] == done
    assert outcomes(toy) == {"3 -> 4": "survived", "x < LIMIT -> x <= LIMIT": "survived", "-x -> x": "killed"}

    edge = "from toy.code import capped\n\n\ndef test_edge():\n    assert capped(3) == 3\n"
    (toy / "tests" / "test_edge.py").write_text(edge)
    mutate(toy, "--retry", "--tests", "tests/test_edge.py", "--map", "edge.json")
    assert set(outcomes(toy).values()) == {"killed"} and len(records(toy)) == 5
