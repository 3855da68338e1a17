"""Facts about weight-decay rules: what each keeps, how they relate, and that a factor of lr is not counted twice."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.decay import (
    DECAY_RULES,
    DecaySettings,
    power_lines_timescale,
    run_timescale,
    steps_timescale,
    weight_decay_at,
)

BASE = DecaySettings(lr=1e-3, weight_decay=0.1, batch=5e5, tokens=1e10, params=5e8, width=512)
TARGET = DecaySettings(lr=4e-4, batch=4e6, tokens=1e12, params=7e9, width=4096)


def at(rule, base=BASE, target=TARGET):
    return dataclasses.replace(target, weight_decay=weight_decay_at(rule, base, target).value)


def test_adamw_averages_its_updates_over_the_timescale():
    # constant updates -lr u: w tends to -u/wd, with 1/e of the way left after 1/(lr wd) steps
    lr, wd = 0.01, 0.5
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([p], lr=lr, weight_decay=wd, betas=(0.0, 0.0), eps=0.0)
    steps = round(steps_timescale(lr, wd))
    for _ in range(steps):
        p.grad = torch.ones(1)
        optimizer.step()
    assert float(p.detach()) == pytest.approx(-(1 - math.exp(-1)) / wd, rel=5e-3)
    assert steps_timescale(1e-3, 0.0) == math.inf


def test_each_rule_keeps_what_it_says():
    assert at("fixed").weight_decay == 0.1
    kept = at("independent")
    assert kept.lr * kept.weight_decay == pytest.approx(BASE.lr * BASE.weight_decay)
    kept = at("tokens")
    assert kept.batch / (kept.lr * kept.weight_decay) == pytest.approx(BASE.batch / (BASE.lr * BASE.weight_decay))
    assert run_timescale(at("timescale")) == pytest.approx(run_timescale(BASE))
    assert at("width").weight_decay == pytest.approx(0.8)
    assert at("sqrt-width").weight_decay == pytest.approx(0.1 * math.sqrt(8))


def test_power_lines_sets_the_timescale_from_tokens_per_parameter_alone():
    kept = at("power-lines")
    assert run_timescale(kept) == pytest.approx(1.084 * (1e12 / 7e9) ** -0.527)
    no_base_decay = dataclasses.replace(BASE, weight_decay=0.0, batch=None, tokens=None)
    assert weight_decay_at("power-lines", no_base_decay, TARGET).value == pytest.approx(kept.weight_decay)
    assert power_lines_timescale(1.0) == pytest.approx(1.084)
    assert weight_decay_at("power-lines", BASE, TARGET).kind.constant == "published"


def test_sqrt_batch_is_the_timescale_rule_with_the_square_root_rate_inside():
    target = dataclasses.replace(TARGET, lr=BASE.lr * math.sqrt(TARGET.batch / BASE.batch))
    assert at("sqrt-batch", target=target).weight_decay == pytest.approx(at("timescale", target=target).weight_decay)
    assert DECAY_RULES["sqrt-batch"].carries == "sqrt"


def test_sqrt_batch_with_another_rate_would_count_it_twice_and_is_refused():
    with pytest.raises(UsageError, match="carries lr ~ sqrt"):
        weight_decay_at("sqrt-batch", BASE, TARGET)


@pytest.mark.parametrize("rule", [name for name in DECAY_RULES if name not in ("sqrt-batch", "power-lines")])
def test_rules_are_the_identity_at_the_base_and_compose(rule):
    assert at(rule, BASE, BASE).weight_decay == pytest.approx(BASE.weight_decay)
    middle = DecaySettings(lr=7e-4, batch=1e6, tokens=1e11, params=1e9, width=1024)
    through = at(rule, at(rule, BASE, middle), TARGET)
    assert through.weight_decay == pytest.approx(at(rule).weight_decay)


def test_the_same_timescale_gives_the_same_average_of_a_shared_signal():
    # an update that depends on progress only: the decayed sum at the end is the same for short and long runs
    def final_weight(steps, lr, wd):
        w = 0.0
        for t in range(steps):
            w = (1 - lr * wd) * w - lr * wd * math.sin(3 * (t + 0.5) / steps)  # in units of the stationary weight
        return w

    base = DecaySettings(lr=0.01, weight_decay=0.5, batch=1, tokens=1000)
    target = DecaySettings(lr=0.004, batch=2, tokens=16000)
    wd = weight_decay_at("timescale", base, target).value
    assert final_weight(8000, 0.004, wd) == pytest.approx(final_weight(1000, 0.01, 0.5), rel=5e-3)
    assert abs(final_weight(8000, 0.004, 0.5) / final_weight(1000, 0.01, 0.5) - 1) > 0.2


def test_bad_settings_are_refused():
    bare = DecaySettings(lr=1e-3, weight_decay=0.1)
    for call, words in [
        (lambda: weight_decay_at("cosine", BASE, TARGET), "choose from"),
        (lambda: weight_decay_at("timescale", bare, TARGET), "needs batch, tokens"),
        (lambda: weight_decay_at("sqrt-width", BASE, bare), "needs width"),
        (lambda: run_timescale(bare), "needs batch"),
        (lambda: DecaySettings(lr=0.0), "lr=0.0"),
        (lambda: DecaySettings(lr=1e-3, weight_decay=-0.1), "weight_decay"),
        (lambda: DecaySettings(lr=1e-3, tokens=np.inf), "tokens"),
        (lambda: weight_decay_at("tokens", BASE, dataclasses.replace(TARGET, batch=1e13)), "wipes the weights out"),
    ]:
        with pytest.raises(UsageError, match=words):
            call()
