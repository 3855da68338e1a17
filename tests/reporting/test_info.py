"""What the figures show equals what the runs say."""

import dataclasses
import math

import pytest

from hptransfer.reporting.report.info import curves_info, gap_info, loss_axis, optima_info, schemes_of, superscript
from hptransfer.validation.records.results import LossGap
from tests.cases.reporting import BEST, FLOOR, LRS, SEEDS, WIDTHS, result


def test_a_curve_holds_every_run_of_its_scheme_and_width():
    info = curves_info(result(), "mup")
    assert [curve.size for curve in info.curves] == list(WIDTHS)
    for curve in info.curves:
        assert [2**p.log2_lr for p in curve.points] == pytest.approx(LRS)
        assert all(len(p.losses) == len(SEEDS) and p.diverged == 0 for p in curve.points)
        assert all(p.mean == pytest.approx(sum(p.losses) / len(p.losses)) for p in curve.points)


def test_diverged_and_pruned_runs_are_counted_and_left_out_of_the_mean():
    info = curves_info(result(), "sp")
    widest = info.curves[-1].points
    assert [p.diverged for p in widest] == [0] * 6 + [3, 3]
    assert widest[-1].losses == () and widest[-1].mean == math.inf
    runs = tuple(dataclasses.replace(r, state="pruned") if r.seed == 0 else r for r in result().runs)
    point = curves_info(result(runs=runs), "mup").curves[0].points[0]
    assert (len(point.losses), point.diverged, point.pruned, point.failed) == (2, 0, 1, 0)


def test_a_failed_run_is_a_state_of_its_own():
    runs = tuple(dataclasses.replace(r, state="failed", val_loss=math.inf) if r.seed == 2 else r for r in result().runs)
    point = curves_info(result(runs=runs), "mup").curves[0].points[0]
    assert (len(point.losses), point.diverged, point.pruned, point.failed) == (2, 0, 0, 1)


def test_failed_runs_are_not_shown_as_diverged():
    runs = tuple(dataclasses.replace(r, state="failed", val_loss=math.inf) for r in result().runs)
    for curve in curves_info(result(runs=runs), "mup").curves:
        assert all((p.losses, p.diverged, p.pruned, p.failed) == ((), 0, 0, 3) for p in curve.points)
    assert len(curves_info(result(runs=runs), "mup").curves) == len(WIDTHS)  # drawn, as failed


def test_the_optimum_of_a_curve_is_the_results():
    for curve in curves_info(result(), "sp").curves:
        assert curve.optimum is not None
        assert (curve.optimum.log2_lr, curve.optimum.loss) == (BEST["sp", curve.size], FLOOR[curve.size])


def test_the_control_comes_first_and_may_be_absent():
    assert schemes_of(result()) == ("sp", "mup")
    assert schemes_of(result(against=None)) == ("mup",)
    assert schemes_of(result(scheme="sp")) == ("sp",)


def test_the_loss_axis_is_shared_holds_the_best_and_cuts_off_the_hopeless():
    panels = [curves_info(result(), s) for s in ("sp", "mup")]
    axis = loss_axis(panels)
    losses = [loss for p in panels for c in p.curves for q in c.points for loss in q.losses]
    assert axis.log and axis.low < min(losses)
    assert max(losses) > axis.high > 7 * min(losses)


def test_a_narrow_range_of_losses_is_drawn_on_a_linear_axis_to_the_end():
    runs = tuple(dataclasses.replace(r, val_loss=2.0 + 0.1 * math.log2(r.lr / LRS[0])) for r in result().runs)
    axis = loss_axis([curves_info(result(runs=runs), "mup")])
    assert not axis.log and axis.low < 2.0 and axis.high > 2.7


@pytest.mark.parametrize("losses", [[], [math.inf], [-1.0, 2.0], [0.0, 0.0]])
def test_the_loss_axis_is_finite_for_odd_losses(losses):
    runs = tuple(
        dataclasses.replace(result().runs[0], val_loss=loss, diverged=False, seed=i) for i, loss in enumerate(losses)
    )
    axis = loss_axis([curves_info(result(runs=runs), "mup")])
    assert math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low < axis.high


def test_widths_without_an_optimum_are_left_out():
    lost = tuple(dataclasses.replace(o, log2_lr=math.nan) if o.size == 512 else o for o in result().optima)
    infos = optima_info(result(optima=lost))
    assert [(i.scheme, len(i.optima)) for i in infos] == [("sp", 3), ("mup", 3)]
    assert curves_info(result(optima=lost), "mup").curves[-1].optimum is None


def test_the_worst_gap_is_the_one_furthest_beyond_its_tolerance():
    gaps = (
        LossGap(64, 0.5, 0, 1, 0.4, False),
        LossGap(128, 0.3, 0, 1, 0.1, False),
        LossGap(256, math.inf, 0, 1, 0.1, False),
    )
    info = gap_info(result(loss_gaps=gaps))
    assert len(info.gaps) == 2 and info.worst == gaps[1]
    assert gap_info(result()).worst is None


def test_powers_of_two_are_written_with_superscripts():
    assert superscript(-7.0) == "2⁻⁷" and superscript(12) == "2¹²"
    assert superscript(-7.5) == f"{2**-7.5:.3g}"
