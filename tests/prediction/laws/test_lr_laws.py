"""Facts about the published laws: their values, what they need, and where they stop meaning anything."""

import math

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.batch_laws import BATCH_LAWS
from hptransfer.prediction.laws.lr_laws import LR_LAWS

AT = {"params": 1e9, "tokens": 1e11, "batch": 1e6, "loss": 2.5}
EVERY = [*LR_LAWS.values(), *BATCH_LAWS.values()]


def test_values_follow_the_published_formulas():
    assert LR_LAWS["step-law"].value(**AT) == pytest.approx(1.797 * 1e9**-0.7129 * 1e11**0.3075, rel=1e-12)
    assert BATCH_LAWS["step-law"].value(**AT) == pytest.approx(0.5807 * 1e11**0.5709, rel=1e-12)
    assert LR_LAWS["deepseek"].value(flop=1e20) == pytest.approx(0.3118 * 1e20**-0.125, rel=1e-12)
    assert BATCH_LAWS["deepseek"].value(flop=1e20) == pytest.approx(0.2920 * 1e20**0.3271, rel=1e-12)
    assert LR_LAWS["kaplan"].value(params=1e9) == pytest.approx(0.003239 - 0.0001395 * math.log(1e9))
    assert LR_LAWS["porian"].value(params=1e9) == pytest.approx(3.7 * 1e9**-0.36, rel=1e-12)
    assert BATCH_LAWS["porian"].value(params=1e9) == pytest.approx(0.7576 * 1e9**0.703, rel=1e-12)
    assert BATCH_LAWS["kaplan-critical"].value(loss=3.0) == pytest.approx(2e8 / 3 ** (1 / 0.21), rel=1e-12)
    assert BATCH_LAWS["minicpm"].value(loss=3.0) == pytest.approx(1.21e9 / 3**6.24, rel=1e-12)


@pytest.mark.parametrize(
    "law", [law for law in EVERY if law.has_constant], ids=lambda law: f"{law.quantity} {law.name}"
)
def test_constants_are_in_the_stated_units(law):
    # a rate for a 1B model on 100B tokens lies within 1e-5..2e-2, and a batch within 1e5..1e8 tokens
    low, high = (1e-5, 2e-2) if law.quantity == "lr" else (1e5, 1e8)
    assert low < law.value(**AT) < high


def test_the_laws_contradict_each_other_in_the_exponent_of_tokens():
    base, doubled = AT, AT | {"tokens": 2e11}
    exponents = {n: math.log2(LR_LAWS[n].ratio(base, doubled)) for n in ("step-law", "bjorck", "filatov", "porian")}
    assert exponents == pytest.approx({"step-law": 0.3075, "bjorck": -0.32, "filatov": -0.56, "porian": 0.0})


def test_compute_is_six_n_d_unless_given():
    deepseek = LR_LAWS["deepseek"]
    assert deepseek.value(params=1e9, tokens=1e11) == pytest.approx(deepseek.value(flop=6e20))
    assert deepseek.value(params=1e9, tokens=1e11, flop=1e18) == pytest.approx(deepseek.value(flop=1e18))


def test_a_law_known_only_by_its_shape_predicts_ratios_but_no_value():
    bjorck = LR_LAWS["bjorck"]
    assert bjorck.ratio({"params": 1e9, "tokens": 1e10}, {"params": 1e9, "tokens": 1e11}) == pytest.approx(10**-0.32)
    with pytest.raises(UsageError, match="no known constant"):
        bjorck.predict(**AT)


def test_a_prediction_says_its_recipe_and_when_it_leaves_its_domain():
    inside, outside = (
        LR_LAWS["step-law"].predict(params=2e8, tokens=1e10),
        LR_LAWS["step-law"].predict(**AT | {"params": 7e10}),
    )
    assert inside.low is None and str(inside.kind) == "exponent published, constant published"
    assert any("AdamW" in a for a in inside.assumptions)
    assert not any("outside" in a for a in inside.assumptions)
    assert any("params=7e+10 lies outside" in a for a in outside.assumptions)
    assert BATCH_LAWS["porian"].predict(**AT).unit == "tokens"


def test_missing_bad_and_impossible_inputs_are_refused():
    with pytest.raises(UsageError, match="needs tokens"):
        LR_LAWS["step-law"].value(params=1e9)
    with pytest.raises(UsageError, match="positive"):
        LR_LAWS["porian"].value(params=0.0)
    with pytest.raises(UsageError, match="outside where it means anything"):
        LR_LAWS["kaplan"].value(params=1e12)  # the logarithm has eaten the rate


@pytest.mark.parametrize("law", EVERY, ids=lambda law: f"{law.quantity} {law.name}")
def test_every_law_is_documented(law):
    assert law.source and law.checked and law.recipe and law.formula
    assert law.name == (LR_LAWS if law.quantity == "lr" else BATCH_LAWS)[law.name].name
