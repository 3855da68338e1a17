"""The fingerprint changes with what changes a run, and with nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale, load_recipe
from hptransfer.validation.records.identity import fingerprint
from tests.cases import validation as cases
from tests.cases.validation import recipe

FILE = """
import torch
from hptransfer.core.training.recipe import Recipe, Scale

CONSTANT = 1

def batches(scale, seed):
    while True:
        yield torch.ones(2) * CONSTANT

def validation():
    return [torch.zeros(2)]

recipe = Recipe(build=lambda s: torch.nn.Linear(2, s.width), batches=batches, loss=lambda m, b: m(b).mean(),
    validation=validation, example_inputs=lambda: (torch.zeros(2),), base=Scale(width=2))
"""


def test_what_only_names_or_plans_a_sweep_does_not_change_it():
    same = recipe.replace(name="other", widths=(1, 2), lrs=(0.5,), seeds=9, steps=7, quick={"steps": 3})
    assert fingerprint(same) == fingerprint(recipe) == fingerprint(recipe)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": cases.nan_loss},
        {"build": partial(cases.build, bias=False)},
        {"build": partial(cases.build, bias=True)},
        {"optimizer": torch.optim.SGD},
        {"optimizer_options": {"betas": (0.8, 0.9)}},
        {"base": Scale(width=16)},
        {"schedule": lambda progress: 1.0},
        {"validation": lambda: cases.validation()[:1]},
        {"batches": lambda scale, seed: cases.batches(scale, seed + 1)},
    ],
)
def test_what_changes_a_run_changes_it(changes):
    assert fingerprint(recipe.replace(**changes)) != fingerprint(recipe)


def test_closures_count():
    def scaled(factor):
        return recipe.replace(loss=lambda model, batch: factor * cases.loss(model, batch))

    assert fingerprint(scaled(1.0)) == fingerprint(scaled(1.0)) != fingerprint(scaled(2.0))
    assert fingerprint(recipe, {"roles": 1}) != fingerprint(recipe)


def test_any_edit_of_the_recipes_file_counts_and_another_path_does_not(tmp_path):
    for name, text in {"a.py": FILE, "b.py": FILE, "c.py": FILE.replace("CONSTANT = 1", "CONSTANT = 2")}.items():
        (tmp_path / name).write_text(text)
    a, b, c = (fingerprint(load_recipe(str(tmp_path / f"{name}.py"))) for name in "abc")
    assert a == b != c


def test_the_data_count(tmp_path):
    (tmp_path / "a.py").write_text(FILE)
    loaded = load_recipe(str(tmp_path / "a.py"))
    assert fingerprint(loaded.replace(validation=loaded.validation)) == fingerprint(loaded)
    data = [torch.zeros(2)]
    first = fingerprint(loaded.replace(validation=lambda: data))
    data[0] += 1
    assert fingerprint(loaded.replace(validation=lambda: data)) != first


@pytest.mark.parametrize("field", ["batches", "validation"])
def test_data_that_cannot_be_had_are_a_usage_error(field):
    def broken(*_):
        raise FileNotFoundError("no such corpus")

    with pytest.raises(UsageError, match="cannot give its data: FileNotFoundError: no such corpus"):
        fingerprint(recipe.replace(**{field: broken}))
