"""Composition of factors: products, quadrature of intervals, and no axis counted twice."""

import dataclasses
import math

import pytest

from hptransfer import Scale, UsageError
from hptransfer.core.rules import SCHEMES
from hptransfer.prediction.forecast.batch_and_tokens import batch_factor, schedule_factor
from hptransfer.prediction.forecast.transfer import Factor, compose, width_and_depth
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.schedule import linear

START = Prediction("learning rate", 0.01, 0.005, 0.02, "1", "sweep", "here", (), Kind("none", "measured"))


def factor(axis: str, value: float, spread: float = 1.0) -> Factor:
    ends = value, value / spread, value * spread
    return Factor("learning rate", frozenset({axis}), *ends, axis, axis, (), Kind("derived", "none"))


def test_values_multiply_and_logarithms_of_intervals_add_in_quadrature():
    made = compose(START, [factor("width", 1.0), factor("batch", 2.0, spread=1.5)])
    reach = math.hypot(math.log(2), math.log(1.5))
    assert made.value == pytest.approx(0.02)
    assert (made.low, made.high) == pytest.approx((0.02 * math.exp(-reach), 0.02 * math.exp(reach)))


def test_factors_of_other_quantities_are_left_alone():
    other = dataclasses.replace(factor("batch", 3.0), quantity="weight decay")
    assert compose(START, [other]).value == START.value


def test_two_factors_on_one_axis_are_refused_with_both_named():
    axes = frozenset({"width", "depth", "tokens"})
    step_law = Factor("learning rate", axes, *(0.8, 0.8, 0.8), "step-law", "here", (), Kind("published", "none"))
    duration = schedule_factor(linear(100), linear(1000))
    with pytest.raises(UsageError, match=r"scaled twice with tokens: by 'step-law'.*convex bound"):
        compose(START, [step_law, *duration])


def test_a_scheme_without_a_depth_rule_refuses_a_deeper_target():
    base, target = Scale(width=64, depth=2), Scale(width=512, depth=8)
    with pytest.raises(UsageError, match=r"4 times deeper.*completep"):
        width_and_depth(base, target, SCHEMES["mup"], depths=True)
    assert {f.value for f in width_and_depth(base, target, SCHEMES["completep"], depths=True)} == {1.0}


def test_sp_cannot_forecast():
    with pytest.raises(UsageError, match="no transfer rule"):
        width_and_depth(Scale(width=64), Scale(width=512), SCHEMES["sp"], depths=False)


@pytest.mark.parametrize(("rule", "ratio"), [("sqrt", 2.0), ("linear", 4.0), ("constant", 1.0)])
def test_batch_factor_follows_its_rule(rule, ratio):
    (found,) = batch_factor(Scale(batch=16), Scale(batch=64), rule)
    assert found.value == pytest.approx(ratio)
    assert batch_factor(Scale(batch=16), Scale(batch=16), rule) == []
