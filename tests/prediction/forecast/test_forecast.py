"""The derivation is whole, multiplies out, refuses what it cannot know, and survives its file."""

import dataclasses
import json
import math
import re

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.prediction.forecast.forecast import Forecast, Rules, schedule_of
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.schedule import constant, linear
from tests.cases.forecast import BASE, CURVE, SETTINGS, START, TARGET, made


def factors(found: Forecast):
    return [s.prediction for s in found.steps if s.prediction and s.title.startswith("Factor")]


def test_the_factors_multiply_to_the_learning_rate():
    found = made()
    assert found.learning_rate.value == pytest.approx(
        START.value * math.prod(f.value for f in factors(found)), rel=1e-12
    )
    assert found.steps[0].prediction == START
    assert found.advised_lr <= found.learning_rate.value


def test_the_batch_factor_can_be_the_square_root():
    found = made(rules=Rules(batch="sqrt"))
    assert next(f for f in factors(found) if "sqrt" in f.law).value == pytest.approx(math.sqrt(64 / 16))


def test_every_step_is_numbered_and_every_factor_is_in_the_text():
    found = made()
    text = str(found)
    assert [int(n) for n in re.findall(r"^(\d+)\. ", text, re.M)] == list(range(1, len(found.steps) + 1))
    for axis in ("width", "depth", "batch and tokens"):
        assert f"Factor for {axis}" in text
    for factor in factors(found):
        assert factor.law in text and factor.source in text and f"{factor.value:.4g}" in text


def test_decay_keeps_the_timescale_in_fractions_of_the_run():
    found = made()
    assert found.weight_decay is not None

    def per_run(lr: float, decay: float, scale: Scale) -> float:  # lr x wd x steps: 2405.13698
        assert scale.tokens and scale.batch
        return lr * decay * scale.tokens / scale.batch

    assert per_run(found.advised_lr, found.weight_decay.value, TARGET) == pytest.approx(
        per_run(START.value, SETTINGS.weight_decay, BASE), rel=1e-9
    )


def test_betas_keep_their_half_life_in_samples():
    assert made().betas == pytest.approx((0.9**4, 0.95**4))


@pytest.mark.parametrize("axis", ["width", "depth", "batch", "tokens"])
def test_a_target_on_an_axis_that_the_base_leaves_open_is_refused(axis):
    with pytest.raises(UsageError, match=f"sets {axis}=.*does not say its own {axis}"):
        made(base=BASE.with_(**{axis: None}))


def test_a_deeper_target_needs_a_depth_rule():
    with pytest.raises(UsageError, match="no depth rule"):
        made(rules=Rules(scheme="mup"))


def test_an_unknown_rule_is_refused():
    with pytest.raises(UsageError):
        made(rules=Rules(batch="guess"))
    with pytest.raises(UsageError):
        made(rules=Rules(decay="guess"))


def test_the_rate_can_be_kept_over_schedules():
    found = made(rules=Rules(schedule="keep"), target=TARGET.with_(batch=16, width=64, depth=2))
    assert found.learning_rate.value == START.value


def test_the_figures_data_are_kept_and_thinned():
    found = made(target_schedule=linear(10_000))
    assert len(found.schedule_factors) <= 200
    assert found.schedule_factors[0][1] == 1.0 and found.schedule_factors[-1][1] == pytest.approx(1e-4)
    assert found.base_curve == CURVE and found.cliff == (-6.0, -5.0)
    assert len(made(target_schedule=constant(1)).schedule_factors) == 1


def test_a_forecast_survives_its_file(tmp_path):
    found = made()
    found.save(tmp_path / "prediction.json")
    text = (tmp_path / "prediction.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert Forecast.load(tmp_path / "prediction.json") == found
    old = {k: v for k, v in found.to_json().items() if k not in ("base_curve", "cliff", "schedule_factors")}
    assert Forecast.from_json(old).learning_rate == found.learning_rate  # files from before the figures


def test_a_file_of_the_earlier_spelling_reads_as_the_same_forecast():
    """Its key was "format", and a run that diverged had the loss null."""
    curve = ((-7.0, 1.0), (-6.0, math.inf))
    found = dataclasses.replace(made(), base_curve=curve)
    now = found.to_json()
    assert now["schema"] == 1 and now["base_curve"] == [[-7.0, 1.0], [-6.0, "inf"]]
    old = {"format": 1, **{k: v for k, v in now.items() if k != "schema"}, "base_curve": [[-7.0, 1.0], [-6.0, None]]}
    assert Forecast.from_json(old) == found


def test_files_that_are_no_forecast_are_refused(tmp_path):
    path = tmp_path / "prediction.json"
    with pytest.raises(UsageError, match="cannot be read"):
        Forecast.load(path)
    whole = json.dumps(made().to_json())
    for text in (
        whole[: len(whole) // 2],
        "",
        "\x00",
        "[]",
        "3",
        '"x"',
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 9}',
        '{"schema": 9}',
    ):
        path.write_text(text)
        with pytest.raises(UsageError):
            Forecast.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": None},
        {"advised_lr": "much"},
        {"steps": [1]},
        {"target": {"width": -1}},
        {"base": {"breadth": 1}},
        {"rules": 5},
        {"loss": 2.0},
        {"base_curve": [[1]]},
        {"extra": 1},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_field_of_the_wrong_kind_is_refused(change):
    with pytest.raises(UsageError):
        Forecast.from_json(made().to_json() | change)


def test_an_unwritable_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        made().save(tmp_path / "missing" / "prediction.json")


def test_a_recipes_schedule_is_sampled_at_the_middle_of_each_step():
    assert schedule_of(lambda progress: progress, 4).factors.tolist() == [0.125, 0.375, 0.625, 0.875]


def far(**changes):
    """Batch x 244, tokens x 5: what printed betas of 1e-179 and a factor without a width."""
    scales = {"base": Scale(width=64, batch=16384, tokens=2e8), "target": Scale(width=64, batch=4e6, tokens=1e9)}
    schedules = {"settings": dataclasses.replace(SETTINGS, schedule=linear(12207)), "target_schedule": linear(250)}
    return made(**(scales | schedules | {"lean": None} | changes))


def test_far_away_the_forecast_says_that_it_does_not_know():
    found = far()
    assert found.betas is None and "refused" in str(found) and "half-life" in str(found)
    assert not found.conclusive and found.decades > 1 and "INCONCLUSIVE" in str(found)
    rate = found.learning_rate
    for exponents in ((0.3, 0.0), (0.62, -0.56)):
        assert rate.low < START.value * (4e6 / 16384) ** exponents[0] * 5 ** exponents[1] < rate.high
    assert made().conclusive


def test_every_factor_has_a_width_and_the_alternatives_stand_beside():
    for found in (made(), far(), made(rules=Rules(batch="sqrt", duration="none"))):
        assert all(f.low < f.value < f.high for f in factors(found))
        assert "keep the rate x 1 " in str(found) and "sqrt(B) x" in str(found)


@pytest.mark.parametrize("k", [4.5, 244, 1 / 8])
def test_the_square_root_is_not_taken_far_without_a_noise_scale(k):
    target = TARGET.with_(batch=16 * k)
    with pytest.raises(UsageError, match=r"Measure it .* 'joint'"):
        made(target=target, rules=Rules(batch="sqrt"))
    noise = Prediction("noise scale", 1e4, None, None, "x", "y", "z", (), Kind("none", "measured"))
    assert made(target=target, rules=Rules(batch="sqrt"), noise=noise).learning_rate.value > 0


def test_a_measured_exponent_takes_the_place_of_the_rule():
    found = made(rules=Rules(batch="power:0.3", duration="power:-0.1"))
    assert found.learning_rate.value == pytest.approx(START.value * 4**0.3 * 8**-0.1)
    with pytest.raises(UsageError, match="Duration rule"):
        made(rules=Rules(duration="power:x"))


def test_the_advised_rate_is_held_against_the_stability_limit():
    def limit(value):
        return Prediction("stability limit", value, None, None, "1", "x", "y", (), Kind("derived", "measured"))

    assert "ABOVE" in str(made(stability=limit(1e-3))) and "ABOVE" not in str(made(stability=limit(1.0)))
    assert made(stability=limit(1e-3)).stability == limit(1e-3)


def test_another_shape_of_schedule_is_a_factor_of_its_own_and_another_length_is_none():
    longer, other = made(target_schedule=linear(400)), made(target_schedule=constant(200))
    assert longer.learning_rate == made().learning_rate
    assert any("schedule" in s.title for s in other.steps) and other.learning_rate.value < made().learning_rate.value
