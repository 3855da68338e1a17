"""`hptransfer init`: every template is a recipe that runs as it is, and nothing of the user's is overwritten."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from hptransfer.cli import main
from hptransfer.cli.plans.init import KINDS, TEMPLATES
from hptransfer.core.training.recipe import load_recipe
from tests.support.versions import has_muon

SMALL = ["--widths", "8,16", "--steps", "1", "--seeds", "1", "--lrs", "2^-8..2^-6", "--extend", "0", "--workers", "1"]


def test_there_is_a_template_for_every_kind():
    assert {path.stem for path in TEMPLATES.glob("*.py")} == set(KINDS)


MARKS = {"hf": [pytest.mark.slow], "vision": [has_muon]}
RUN = [pytest.param(kind, marks=MARKS.get(kind, [])) for kind in KINDS]
"""transformers takes longer to import than a fast test may take."""


@pytest.mark.parametrize("kind", RUN)
def test_a_template_runs_as_it_is(kind, tmp_path, monkeypatch, capsys):
    if kind == "hf":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.py", "--model", kind]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Next: hptransfer check mine.py --quick") and "FILE" not in Path("mine.py").read_text()
    words = shlex.split(last.removeprefix("Next: hptransfer ").partition("   (")[0])
    assert main([*words, *SMALL, "--no-coord"]) in (0, 1, 3), capsys.readouterr().err
    assert (tmp_path / "hptransfer-out" / "mine-quick" / "report.html").exists()
    assert "CHANGE" in Path("mine.py").read_text() and load_recipe("mine.py").name == "mine"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "own" else [pytest.mark.slow]) for kind in KINDS]
)
def test_a_templates_plan_is_verified(kind, tmp_path, monkeypatch, capsys):
    if kind == "hf":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.py", "--model", kind]) == 0
    assert main(["plan", "mine.py", "--width", "128"]) == 0
    assert "\nverified (width " in capsys.readouterr().out


def test_data_of_a_template_is_that_of_its_seed(tmp_path):
    recipe = load_recipe(str(TEMPLATES / "own.py"))
    first, again, other = (next(recipe.batches(recipe.base, seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("precious")
    assert main(["init", "mine.py"]) == 2 and Path("mine.py").read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert main(["init", "mine.py", "--force"]) == 0 and "Recipe(" in Path("mine.py").read_text()
    assert main(["init", "mine.txt"]) == 2 and "is a Python file" in capsys.readouterr().err
    assert main(["init", "nowhere/mine.py"]) == 2 and "cannot be written" in capsys.readouterr().err
