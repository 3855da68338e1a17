"""A measurement comes as seldom as its cost demands."""

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.monitoring.budget import Budget


def play(budget: Budget, costs: dict[str, float], *, steps: int, step_seconds: float = 1.0, overhead: float = 0.0):
    """The seconds spent by step, (steps,), where every measurement costs what `costs` says of it."""
    spent = np.zeros(steps)
    for step in range(1, steps + 1):
        for name in budget.due(step):
            spent[step - 1] += costs[name]
            budget.paid(name, step, seconds=costs[name], step_seconds=step_seconds, overhead=overhead)
    return spent.cumsum()


@pytest.mark.parametrize("share", [0.01, 0.03, 0.2])
def test_the_share_is_kept_at_every_step_where_the_guesses_hold(share):
    costs = {"cheap": 0.1, "dear": 20.0}
    spent = play(Budget(share, {"cheap": 1.0, "dear": 3.0}, costs, {}), costs, steps=20_000)
    assert (spent <= share * np.arange(1, 20_001) + 1e-9).all()
    assert spent[-1] > 0.8 * share * 20_000  # and it is used


def test_a_first_cost_that_was_guessed_too_low_is_paid_back():
    costs = {"a": 50.0}
    spent = play(Budget(0.03, {"a": 1.0}, {"a": 1.0}, {}), costs, steps=100_000)
    later = np.arange(1, 100_001) > 2 * 50 / 0.03
    assert (spent <= 0.03 * np.arange(1, 100_001) + 1e-9)[later].all()


def test_what_every_step_costs_comes_off_the_share_first():
    costs = {"a": 1.0}
    half = play(Budget(0.03, {"a": 1.0}, costs, {}), costs, steps=20_000, overhead=0.015)
    assert half[-1] == pytest.approx(0.015 * 20_000, rel=0.02)
    none = play(Budget(0.03, {"a": 1.0}, costs, {}), costs, steps=20_000, overhead=0.05)
    assert none[-1] == 1.0  # the first, which was guessed; then never again


def test_a_spacing_that_was_asked_for_is_kept_whatever_it_costs():
    budget = Budget(0.03, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 7})
    due = []
    for step in range(1, 30):
        for name in budget.due(step):
            budget.paid(name, step, seconds=1e6, step_seconds=1.0)
            due += [step] if name == "a" else []
    assert due == [7, 14, 21, 28]


def test_what_is_dropped_leaves_its_part_to_the_others():
    budget = Budget(0.1, {"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 1.0}, {})
    budget.drop("b")
    assert list(budget.accounts) == ["a"] and budget.accounts["a"].weight == 1.0


def test_wrong_budgets_are_refused():
    guesses = {"a": 1.0}
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="share of the training time"):
            Budget(share, {"a": 1.0}, guesses, {})
    with pytest.raises(UsageError, match=r"names \['b'\]"):
        Budget(0.1, {"a": 1.0}, guesses, {"b": 3})
    for spacing in (0, -2, 1.5):
        with pytest.raises(UsageError, match="whole number of steps"):
            Budget(0.1, {"a": 1.0}, guesses, {"a": spacing})  # type: ignore[dict-item]
