"""Loss curves beside a smaller run's: what may be fitted away, what is an alarm, how often a healthy run gives one."""

import math

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.monitoring.collapse import FEWEST, SKIPPED, WINDOWS, LossCurve, Watch, alarm, collapse

STEPS = 200
X = (np.arange(STEPS) + 1) / STEPS


def curve(shape=lambda x: x**-0.4, *, offset=0.0, slope=1.0, noise=0.0, seed=0, upto=STEPS) -> LossCurve:
    drawn = np.random.default_rng(seed).normal(size=STEPS)
    losses = offset + slope * (1.5 + 0.5 * shape(X)) + noise * drawn
    return LossCurve.of_steps(losses[:upto].tolist(), steps=STEPS)


def test_a_curve_that_is_the_references_scaled_and_lower_fits_with_that_slope_and_offset():
    looks = collapse(curve(offset=-0.4, slope=1.1), curve())
    assert len(looks) == WINDOWS - SKIPPED - FEWEST + 1 and looks[0].progress == (SKIPPED + FEWEST) / WINDOWS
    for look in looks:
        assert (look.slope, look.offset) == (pytest.approx(1.1), pytest.approx(-0.4))
        assert look.off < 1e-9 and look.verdict == ""
    assert alarm(looks) is None


def test_distances_are_shares_of_the_references_fall():
    """Twice the units, twice the losses: nothing changes; and above is the offset over the fall."""
    small = curve()
    fall = small.windows()[0][0] - small.windows()[0].min()
    look = collapse(curve(offset=0.1), small)[-1]
    assert look.above == pytest.approx(0.1 / fall)
    twice = collapse(curve(offset=0.2, slope=2.0), curve(slope=2.0))[-1]
    assert (twice.above, twice.off) == (pytest.approx(look.above), pytest.approx(look.off, abs=1e-12))


def test_a_run_above_the_smaller_one_is_an_alarm_and_below_is_none():
    told = alarm(collapse(curve(offset=0.1), curve()))
    assert told is not None and "above the reference" in told[1]
    assert told[0] == (SKIPPED + FEWEST + 1) / WINDOWS  # two looks in a row
    assert alarm(collapse(curve(offset=-0.1), curve())) is None


def test_a_run_of_another_shape_is_an_alarm_although_it_lies_below():
    humped = curve(lambda x: x**-0.4 + 1.0 * np.exp(-(((x - 0.5) / 0.12) ** 2)), offset=-1.0)
    told = alarm(collapse(humped, curve()))
    assert told is not None and "another shape" in told[1] and told[0] < 0.8


def test_a_loss_that_is_not_finite_is_an_alarm():
    losses = [*curve().losses[:100], *([math.nan] * 100)]
    told = alarm(collapse(LossCurve.of_steps(losses), curve()))
    assert told is not None and told[1] == "its loss is not finite" and told[0] == pytest.approx(0.6)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_alone_gives_fewer_than_one_false_alarm_in_twenty(noise):
    """Worst case of health: the larger run is no better than the smaller. 60 pairs: 9 or more have p < .005 at 1/20."""
    raised = sum(
        alarm(collapse(curve(noise=noise, seed=2 * k), curve(noise=noise, seed=2 * k + 1))) is not None
        for k in range(60)
    )
    assert raised < 9


def test_a_run_that_is_fed_point_by_point_gives_the_same_alarm_once_it_is_due():
    run, small = curve(offset=0.1, noise=0.01), curve(noise=0.01, seed=1)
    expected, watch = alarm(collapse(run, small)), Watch(small)
    said = [(p, watch(p, loss)) for p, loss in zip(run.progress, run.losses, strict=True)]
    first = next((p, words) for p, words in said if words)
    assert expected is not None and first[0] == pytest.approx(expected[0]) and expected[1] in first[1]


def test_windows_are_means_with_the_error_of_the_scatter_about_a_line():
    progress = (np.arange(400) + 1) / 400
    losses = 3 - progress + 0.1 * np.random.default_rng(0).normal(size=400)
    means, errors = LossCurve(tuple(progress.tolist()), tuple(losses.tolist())).windows()
    assert len(means) == WINDOWS
    np.testing.assert_allclose(means, losses.reshape(WINDOWS, -1).mean(axis=1), rtol=1e-12)
    assert float(np.median(errors)) == pytest.approx(0.1 / math.sqrt(20), rel=0.15)


def test_part_of_a_run_has_fewer_looks_and_no_run_has_none():
    assert len(collapse(curve(upto=100), curve())) == WINDOWS // 2 - SKIPPED - FEWEST + 1
    assert collapse(LossCurve((), ()), curve()) == () and alarm(()) is None


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="10 of 20 parts"):
        collapse(curve(), curve(upto=100))
    with pytest.raises(UsageError, match="0 of 20 parts"):
        Watch(LossCurve((), ()))
    for progress in ((0.5, 0.4), (0.0, 0.5), (0.5, 1.2), (0.5,)):
        with pytest.raises(UsageError, match="must rise within"):
            LossCurve(progress, (1.0, 1.0))
