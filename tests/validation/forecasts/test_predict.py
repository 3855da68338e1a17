"""predict on a tiny recipe: a real sweep of the base, a given rate, a check's optimum, and what is refused."""

import math

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.validation.forecasts.predict import MAX_STEPS, predict, target_steps
from tests.cases.reporting import result
from tests.cases.validation import recipe

LRS = (2**-8, 2**-6, 2**-4, 2**-2, 2**0)
BATCHED = recipe.replace(base=Scale(width=8, batch=16))


def test_a_real_sweep_gives_an_interval_around_an_inner_optimum():
    made = predict(recipe, target=Scale(width=32), lrs=LRS, workers=1)
    found = made.learning_rate
    assert found.low is not None and found.high is not None
    # two seeds: Student's t with one degree of freedom makes the interval wider than the grid
    assert found.low < found.value < found.high and LRS[0] < found.value < LRS[-1]
    assert [x for x, _ in made.base_curve] == [math.log2(lr) for lr in LRS]
    assert made.target == Scale(width=32)


def test_an_optimum_at_the_edge_of_the_grid_is_refused():
    with pytest.raises(UsageError, match="edge of the grid"):
        predict(recipe, target=Scale(width=32), lrs=(2**-14, 2**-13, 2**-12), workers=1)


def test_a_given_rate_needs_no_sweep_and_has_no_interval():
    made = predict(recipe, target=Scale(width=32), lr=0.01)
    assert made.advised_lr == 0.01 and made.base_curve == () and made.learning_rate.low is None


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(lr):
    with pytest.raises(UsageError, match="positive finite"):
        predict(recipe, target=Scale(width=32), lr=lr)


@pytest.mark.parametrize("axes", [{"batch": 4.0}, {"tokens": 99.0}, {"batch": 4.0, "tokens": 99.0}, {"depth": 3}])
def test_an_axis_that_the_base_leaves_open_is_refused_before_the_sweep(axes):
    with pytest.raises(UsageError, match="does not say its own"):
        predict(recipe.replace(lrs=()), target=Scale(width=32, **axes))


def test_steps_follow_tokens_and_batch():
    assert target_steps(recipe, Scale(width=32)) == recipe.steps
    assert target_steps(BATCHED, Scale(batch=32)) == recipe.steps // 2
    assert target_steps(BATCHED, Scale(tokens=16 * 70)) == 70
    with pytest.raises(UsageError, match="larger batch"):
        target_steps(BATCHED, Scale(tokens=17.0 * MAX_STEPS))


def test_a_check_gives_its_optimum_at_the_base():
    checked = result(recipe=recipe.name)
    wide = recipe.replace(base=Scale(width=64))
    made = predict(wide, target=Scale(width=1024), checked=checked)
    # the landscape's minimum lies at 2^-6.8, between two octaves; its two sides differ in steepness
    assert math.log2(made.learning_rate.value) == pytest.approx(-6.8, abs=0.2)
    assert made.loss is not None and made.loss.value < min(o.loss for o in checked.optima)
    with pytest.raises(UsageError, match="check is of recipe"):
        predict(wide, target=Scale(width=1024), checked=result())
