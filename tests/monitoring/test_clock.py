"""The monitor's clock, on a time that the test turns."""

import pytest
import torch

from hptransfer.monitoring import clock
from hptransfer.monitoring.clock import Clock

CPU = torch.device("cpu")


@pytest.fixture
def hours(monkeypatch):
    """Call it to let time pass."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def passed(seconds: float) -> None:
        now[0] += seconds

    return passed


def steps(told: Clock, hours, count: int, *, training: float = 1.0, booking: float = 0.0) -> None:
    for _ in range(count):
        hours(training)
        with told.bookkeeping():
            hours(booking)
        told.stepped()


def test_the_monitors_share_is_its_time_over_the_rest(hours):
    told = Clock()
    steps(told, hours, 10, booking=0.01)
    with told.measuring("noise", CPU):
        hours(0.3)
    assert told.overhead == pytest.approx(0.01)
    assert told.taken("noise") == pytest.approx(0.3) and told.taken("noise") == 0.0
    assert told.share == pytest.approx((0.1 + 0.3) / 10)


def test_a_step_is_timed_without_the_monitor_and_without_the_slowest_tenth(hours):
    told = Clock()
    steps(told, hours, 18)
    steps(told, hours, 1, training=50.0)  # an evaluation
    hours(1.0)
    with told.measuring("noise", CPU):
        hours(7.0)
    told.stepped()
    assert told.step_seconds == pytest.approx(1.0)


def test_two_parts_of_a_measurement_are_one_cost(hours):
    told = Clock()
    for seconds in (0.1, 0.2):
        with told.measuring("spectra", CPU):
            hours(seconds)
    assert told.taken("spectra") == pytest.approx(0.3)


def test_what_is_skipped_is_no_training_time(hours):
    told = Clock()
    steps(told, hours, 10, booking=0.1)
    hours(1000.0)
    told.skip()
    assert told.share == pytest.approx(0.1)
    steps(told, hours, 1)
    assert told.step_seconds == pytest.approx(1.0)


def test_a_clock_goes_on_from_its_state_and_time_between_does_not_count(hours):
    told = Clock()
    steps(told, hours, 10, booking=0.1)
    state = told.state()
    hours(10_000.0)
    again = Clock()
    again.load(state)
    steps(again, hours, 10, booking=0.1)
    assert again.seconds == pytest.approx(22.0) and again.share == pytest.approx(0.1)
    assert again.overhead == pytest.approx(0.1)
