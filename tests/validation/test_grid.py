"""What a user may give as a grid, and what is said about the rest."""

from __future__ import annotations

import math

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import checked_device, grid_of
from tests.cases.validation import recipe


def test_defaults_come_from_the_recipe():
    grid = grid_of(recipe)
    assert grid.scales == (Scale(width=8), Scale(width=16)) and grid.seeds == (0, 1) and grid.steps == 20
    jobs = grid.jobs("f")
    assert len(jobs) == len({job.key for job in jobs}) == 2 * 2 * 3 * 2


def test_widths_change_the_base_scale_only_in_width():
    deep = recipe.replace(base=Scale(width=8, depth=3))
    assert grid_of(deep, widths=[4]).scales == (Scale(width=4, depth=3),)
    assert grid_of(deep, scales=[Scale(width=4, depth=6)]).scales == (Scale(width=4, depth=6),)


def test_learning_rates_are_sorted_and_seeds_counted_or_taken():
    assert grid_of(recipe, lrs=[0.2, 0.1], seeds=[7, 3]).lrs == (0.1, 0.2)
    assert grid_of(recipe, seeds=[7, 3]).seeds == (7, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, "widths is empty"),
        ({"widths": [8, 16, 8]}, "widths holds 8 more than once"),
        ({"widths": [8, 0]}, "0 is not a positive whole number"),
        ({"widths": [8, 16.5]}, "16.5 is not a positive whole number"),
        ({"widths": [8], "scales": [Scale(width=8)]}, "Give one of widths, depths and scales"),
        ({"lrs": []}, "lrs is empty"),
        ({"lrs": [0.1, 0.2, 0.1]}, "0.1 more than once"),
        ({"lrs": [0.1, -0.2]}, "-0.2 is not a learning rate"),
        ({"lrs": [0.0]}, "0.0 is not a learning rate"),
        ({"lrs": [math.nan]}, "nan is not a learning rate"),
        ({"lrs": [math.inf]}, "inf is not a learning rate"),
        ({"lrs": ["0.1"]}, "'0.1' is not a learning rate"),
        ({"seeds": 0}, "give at least 1"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "more than once"),
        ({"seeds": [-1]}, "-1 is not a seed"),
        ({"seeds": [0.5]}, "0.5 is not a seed"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"schemes": ["mup", "nope"]}, "'nope' is unknown; use one of .*mup.*sp"),
        ({"schemes": []}, "schemes is empty"),
        ({"schemes": ["sp", "sp"]}, "sp more than once"),
    ],
)
def test_bad_input_is_refused_with_the_value(options, message):
    with pytest.raises(UsageError, match=message):
        grid_of(recipe, **options)


def test_a_recipe_without_defaults_says_what_to_give():
    with pytest.raises(UsageError, match="widths is empty: give at least one, or set the recipe's own"):
        grid_of(recipe.replace(widths=()))


def test_an_unusable_device_is_refused():
    assert checked_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="device='warp' cannot be used here"):
        checked_device("warp")
