"""Facts about schedules: what their values are, that every way out of the library gives the same numbers."""

import math

import numpy as np
import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.schedule import (
    SCHEDULES,
    constant,
    cosine,
    from_array,
    linear,
    make_schedule,
    polynomial,
    power,
    with_warmup,
    wsd,
)
from hptransfer.prediction.schedules.schedule_export import as_lambda_lr, as_torch_code, read_csv, write_csv

EVERY = [
    constant(10),
    constant(10, warmup=3),
    cosine(50, final=0.1, warmup=7),
    linear(50),
    wsd(50, cooldown=0.3, shape="1-sqrt", warmup=5),
    wsd(50, cooldown=0.3, final=0.1),
    wsd(20, cooldown=0.0),
    wsd(20, cooldown=1.0, shape="cosine"),
    power(40, exponent=0.5, hold=8, warmup=8),
    polynomial(40, exponent=1.5, final=0.05, warmup=1),
    from_array([0.0, 1.0, 1.0, 0.5, 0.25, 0.0], name="mine"),
    from_array(np.random.default_rng(0).random(31)),
    from_array([0.7]),
]
ids = [f"{i} {s.name}" for i, s in enumerate(EVERY)]


def test_decays_start_at_one_and_would_reach_their_end_one_step_after_the_last():
    assert cosine(100).factors[0] == 1.0
    assert linear(100).factors[-1] == pytest.approx(1 / 100)
    assert linear(100, final=0.1).factors[-1] == pytest.approx(0.1 + 0.9 / 100)
    assert cosine(100).factors[50] == pytest.approx(0.5)
    assert np.all(np.diff(cosine(100).factors) < 0)


def test_wsd_is_constant_then_the_named_shape():
    s = wsd(100, cooldown=0.2, shape="1-sqrt")
    assert np.all(s.factors[:81] == 1.0)
    np.testing.assert_allclose(s.factors[80:], 1 - np.sqrt(np.arange(20) / 20))
    np.testing.assert_array_equal(wsd(100, cooldown=1.0).factors, linear(100).factors)
    np.testing.assert_array_equal(wsd(100, cooldown=0.0).factors, np.ones(100))


def test_a_cooldown_fraction_counts_the_warm_up_as_part_of_the_run():
    s = wsd(100, cooldown=0.5, warmup=50)
    assert s.steps == 100 and s.factors[50] == 1.0 and s.factors[51] == pytest.approx(0.98)


def test_power_is_inverse_square_root_of_the_step():
    s = power(100, exponent=0.5, hold=4)
    assert s.factors[15] == pytest.approx(math.sqrt(4 / 16))
    assert np.all(s.factors[:4] == 1.0)


def test_warm_up_ends_at_the_schedules_first_factor_and_lengthens_the_run():
    s = with_warmup(from_array([0.5, 0.25]), 4)
    np.testing.assert_allclose(s.factors, [0.125, 0.25, 0.375, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("schedule", EVERY, ids=ids)
def test_pasted_code_gives_the_same_factors(schedule):
    scope: dict = {}
    exec(as_torch_code(schedule), scope)
    got = [scope["factor"](t) for t in range(schedule.steps)]
    np.testing.assert_allclose(got, schedule.factors, rtol=1e-12, atol=1e-15)
    assert scope["factor"](schedule.steps + 5) == pytest.approx(schedule.factors[-1])


@pytest.mark.parametrize("schedule", EVERY, ids=ids)
def test_progress_at_the_middle_of_each_step_is_that_steps_factor(schedule):
    t = np.arange(schedule.steps)
    got = [schedule.at_progress((s + 0.5) / schedule.steps) for s in t]
    np.testing.assert_allclose(got, schedule.factors, rtol=1e-9, atol=1e-12)


def _lrs(optimizer, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(seen)


def _two_groups():
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    return torch.optim.AdamW([{"params": [a], "lr": 1e-2}, {"params": [b], "lr": 1e-3}], lr=1.0)


def test_torch_scheduler_multiplies_every_group_and_keeps_their_ratio():
    schedule, optimizer = cosine(20, warmup=4), _two_groups()
    seen = _lrs(optimizer, as_lambda_lr(schedule, optimizer), 20)
    np.testing.assert_allclose(seen, np.outer(schedule.factors, [1e-2, 1e-3]), rtol=1e-12)


def test_pasted_scheduler_does_what_the_library_does():
    schedule, optimizer = wsd(20, cooldown=0.4), _two_groups()
    scope: dict = {}
    exec(as_torch_code(schedule), scope)
    seen = _lrs(optimizer, scope["make_scheduler"](optimizer), 20)
    np.testing.assert_allclose(seen, np.outer(schedule.factors, [1e-2, 1e-3]), rtol=1e-12)


def test_a_resumed_scheduler_goes_on_where_it_stopped():
    schedule, whole = linear(10), _two_groups()
    expected = _lrs(whole, as_lambda_lr(schedule, whole), 10)
    first = _two_groups()
    scheduler = as_lambda_lr(schedule, first)
    _lrs(first, scheduler, 6)
    second = _two_groups()
    second.load_state_dict(first.state_dict())
    resumed = as_lambda_lr(schedule, second)
    resumed.load_state_dict(scheduler.state_dict())
    for group, lr in zip(second.param_groups, resumed.get_last_lr(), strict=True):
        group["lr"] = lr
    np.testing.assert_allclose(_lrs(second, resumed, 4), expected[6:], rtol=1e-12)


@pytest.mark.parametrize("schedule", EVERY, ids=ids)
def test_csv_round_trip_is_exact(schedule, tmp_path):
    path = write_csv(schedule, tmp_path / "s.csv", lr=3e-4)
    np.testing.assert_array_equal(read_csv(path).factors, schedule.factors)
    np.testing.assert_allclose(read_csv(path, column="lr").factors, 3e-4 * schedule.factors, rtol=1e-15)


def test_a_long_cosine_array_is_exported_without_loss():
    schedule = from_array(cosine(400).factors)
    scope: dict = {}
    exec(as_torch_code(schedule), scope)
    assert max(abs(scope["factor"](t) - schedule.factors[t]) for t in range(400)) < 1e-11


def test_names_and_errors():
    assert make_schedule("wsd", 10, cooldown=0.5).factors[5] == 1.0
    assert set(SCHEDULES) == {"constant", "cosine", "linear", "wsd", "power", "polynomial"}
    for call, words in [
        (lambda: make_schedule("triangle", 10), "triangle.*choose from"),
        (lambda: make_schedule("cosine", 10, cooldown=0.2), "cooldown"),
        (lambda: wsd(10, cooldown=1.2), "fraction"),
        (lambda: wsd(10, shape="cubic"), "cubic"),  # type: ignore[arg-type]
        (lambda: wsd(10, cooldown=0.9, warmup=5), "do not fit"),
        (lambda: cosine(10, warmup=10), "leaves no step"),
        (lambda: cosine(0), "steps"),
        (lambda: cosine(10, final=-1), "final"),
        (lambda: power(10, hold=0), "hold"),
        (lambda: polynomial(10, exponent=0), "exponent"),
        (lambda: from_array([]), "non-empty"),
        (lambda: from_array([[1.0]]), "one-dimensional"),
        (lambda: from_array([1.0, float("nan"), -1]), "entry 1 is nan"),
    ]:
        with pytest.raises(UsageError, match=words):
            call()


def test_a_csv_without_the_column_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("step,lr\n0,1.0\n")
    with pytest.raises(UsageError, match="factor"):
        read_csv(tmp_path / "c.csv")
