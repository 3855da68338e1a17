"""One table of batch, duration and decay rules: plans and forecasts give one number, and never apply it twice."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import hptransfer as hpt
from hptransfer.core.horizon.carried import BATCH_RULES, DECAY_RULES, DURATION_RULES, STEP, Carried, horizon
from hptransfer.prediction.forecast.forecast import Forecast, Rules, forecast
from hptransfer.prediction.laws.batch_rules import lr_at_batch
from hptransfer.prediction.laws.decay import DecaySettings, weight_decay_at
from hptransfer.prediction.schedules.schedule import linear
from hptransfer.prediction.schedules.schedule_transfer import SHRINKAGE
from tests.cases.forecast import SETTINGS, START
from tests.cases.models import MLP, batches, seeded

BASE, TARGET = hpt.Scale(8, batch=64, tokens=6400), hpt.Scale(8, batch=256, tokens=102_400)
PLAIN = [name for name, rule in BATCH_RULES.items() if not rule.needs_noise]
PLANNED = [name for name, rule in DECAY_RULES.items() if not (rule.absolute or rule.width)]


@pytest.mark.parametrize("batch", PLAIN)
def test_a_plans_rate_is_the_forecasts(batch: str) -> None:
    assert horizon(TARGET, BASE, "sign", batch=batch).lr == pytest.approx(lr_at_batch(batch, 1.0, 64, 256).value)


@pytest.mark.parametrize("decay", PLANNED)
def test_a_plans_weight_decay_is_the_forecasts(decay: str) -> None:
    base = DecaySettings(1e-3, 0.1, batch=64, tokens=6400)
    target = DecaySettings(2e-3, batch=256, tokens=102_400)
    ratio = horizon(TARGET, BASE, "sign", batch="sqrt", decay=decay)
    assert 0.1 * ratio.weight_decay == pytest.approx(weight_decay_at(decay, base, target).value)


def test_the_numbers_by_hand() -> None:
    """k = 4, r = 16, Adam: lr x 2, eps x 1/2, betas^4, and B/(lr wd D) kept: wd x 4/(2 x 16)."""
    ratio = horizon(TARGET, BASE, "sign")
    assert (ratio.lr, ratio.eps, ratio.beta_power, ratio.weight_decay) == (2.0, 0.5, 4, 0.125)
    assert horizon(TARGET, BASE, "gradient").lr == 4.0 and horizon(TARGET, BASE, "gradient").eps == 1.0
    assert horizon(TARGET, BASE, "spectral").lr == 2.0 and horizon(TARGET, BASE, "spectral").eps == 1.0
    none = horizon(TARGET, BASE, "sign", batch="none", decay="none", duration="power:-0.5")
    assert (none.lr, none.weight_decay, none.beta_power) == (0.25, 1.0, 1.0)
    assert none.carries == {"learning rate": ("tokens",), "weight decay": ()}
    assert horizon(TARGET, BASE, "sign", duration="bound").lr == pytest.approx(2 * 4**-0.2931)  # 4 times the steps


def test_each_default_is_a_rule_for_its_geometry_and_the_duration_is_the_shrunk_bound() -> None:
    assert "gradient" in BATCH_RULES["linear"].geometries and BATCH_RULES["sqrt"].geometries == STEP
    assert (SHRINKAGE.horizon, SHRINKAGE.horizon_interval) == (0.5862, (0.536, 0.636))
    low, high = DURATION_RULES["bound"].interval
    assert -0.5 < low < DURATION_RULES["bound"].exponent < high < 0


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"batch": "surge"}, "batch rule 'surge' is unknown or needs more than a plan knows"),
        ({"decay": "power-lines"}, "decay rule 'power-lines' is unknown or needs more"),
        ({"decay": "width"}, "decay rule 'width' is unknown or needs more"),
        ({"duration": "power:x"}, "Duration rule 'power:x' is unknown"),
        ({"duration": "power:-3"}, "was never measured"),
        ({"batch": "power:5"}, "was never measured"),
        ({"batch": "power:nan"}, "was never measured"),
        ({"batch": "linear", "decay": "sqrt-batch"}, r"carries lr ~ sqrt\(batch\), which makes lr x 2, but .* x 4"),
    ],
)
def test_a_rule_that_cannot_serve_a_plan_is_refused(rules: dict[str, str], message: str) -> None:
    with pytest.raises(hpt.UsageError, match=message):
        horizon(TARGET, BASE, "sign", **rules)


def made(target: hpt.Scale = TARGET, **rules: str) -> Forecast:
    base, schedules = hpt.Scale(8, batch=64, tokens=6400), (SETTINGS.schedule, linear(400))
    chosen = Rules(**{"scheme": "mup", "batch": "sqrt", "schedule": "keep", **rules})
    return forecast(
        recipe="x", start=START, base=base, target=target, settings=SETTINGS, target_schedule=schedules[1], rules=chosen
    )


def plan(**scales: hpt.Scale) -> tuple[torch.nn.Module, hpt.Plan]:
    model = seeded(MLP, 8)
    given = {"base": seeded(MLP, 8), "example_inputs": (batches("mlp", 1)[0][0],)}
    return model, hpt.make_plan(model, **given, **scales)  # type: ignore[arg-type]


def test_a_forecasts_rate_and_decay_are_refused_by_a_plan_that_carries_the_batch_too() -> None:
    model, carrying = plan(scale=TARGET, base_scale=BASE)
    found = made()
    assert carrying.carries == {"learning rate": ("batch",), "weight decay": ("batch", "tokens")}
    assert found.carries == carrying.carries and found.weight_decay is not None
    for rate in (found.advised_lr, found.learning_rate.value):
        with pytest.raises(hpt.UsageError, match=r"learning rate .* holds the factor of batch, and this plan carries"):
            hpt.param_groups(model, carrying, lr=rate)
    with pytest.raises(hpt.UsageError, match=r"weight decay .* holds the factor of batch and tokens"):
        hpt.param_groups(model, carrying, lr=1e-3, weight_decay=found.weight_decay.value)
    with pytest.raises(hpt.UsageError, match="applied twice"):
        hpt.build_optimizers(model, carrying, {torch.optim.AdamW: {"lr": found.advised_lr}})


def test_each_alone_is_accepted_and_both_ways_give_the_same_rate() -> None:
    model, carrying = plan(scale=TARGET, base_scale=BASE)
    plain = plan()[1]
    found = made()
    one = hpt.param_groups(model, carrying, lr=START.value)
    other = hpt.param_groups(model, plain, lr=found.advised_lr)
    assert [g["lr"] for g in one] == pytest.approx([g["lr"] for g in other])
    assert hpt.param_groups(model, carrying, lr=made(hpt.Scale(8)).advised_lr)  # a forecast over width alone


def test_what_is_carried_survives_files_copies_and_earlier_files(tmp_path) -> None:
    found, carrying = made(), plan(scale=TARGET, base_scale=BASE)[1]
    found.save(tmp_path / "f.json")
    carrying.save(tmp_path / "p.json")
    assert hpt.Plan.load(tmp_path / "p.json") == carrying
    old = {k: v for k, v in found.to_json().items() if k != "carries"}
    for again in (Forecast.load(tmp_path / "f.json"), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again == found and again.advised_lr.axes == ("batch",)  # type: ignore[attr-defined]
    assert Forecast.from_json(old).advised_lr.axes == ("batch", "tokens")  # type: ignore[attr-defined]
    number = Carried(2.0, ("batch",))
    assert number == 2.0 and type(number * 1.0) is float and math.log2(number) == 1.0 and f"{number:g}" == "2"


def test_the_fingerprint_does_not_depend_on_the_note_of_what_is_carried() -> None:
    """Checkpoints of plans that were made before it was noted still load."""
    from dataclasses import replace

    carrying = plan(scale=TARGET, base_scale=BASE)[1]
    assert replace(carrying, carries={}).fingerprint == carrying.fingerprint != plan()[1].fingerprint


def test_a_plan_whose_averages_would_forget_within_a_step_is_refused() -> None:
    model, far = plan(scale=hpt.Scale(8, batch=64 * 244, tokens=6400 * 244), base_scale=BASE)
    with pytest.raises(hpt.UsageError, match=r"betas 0.9 would become .* no average any more"):
        hpt.param_groups(model, far, lr=1e-3)
    model, near = plan(scale=hpt.Scale(8, batch=64 * 16, tokens=6400), base_scale=BASE)
    assert hpt.param_groups(model, near, lr=1e-3)
