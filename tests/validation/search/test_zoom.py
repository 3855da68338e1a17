"""The zoom: finds the optimum of every cell with few runs, from any start, and gives the same runs to whoever asks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.search.planner import Fixed, GridPlanner, Planner
from hptransfer.validation.search.samplers import planner_of
from hptransfer.validation.search.zoom import ZoomPlanner

WIDTHS = (64, 128, 256, 512)
GRID = Grid(("mup", "sp"), tuple(Scale(width=w) for w in WIDTHS), tuple(2.0**k for k in range(-10, -1)), (0, 1, 2), 9)


def optimum_of(job: Job, *, mup: float = -6.0, drift: float = -0.8) -> float:
    """log2 of the best rate: the same at every width under mup, moving as width^drift under sp."""
    return mup if job.scheme == "mup" else mup + drift * math.log2((job.width or 0) / WIDTHS[0])


def run_of(job: Job, loss: float) -> Run:
    parts = (job.scheme, job.width, job.depth, job.lr, job.seed, job.steps)
    state = "complete" if math.isfinite(loss) else "diverged"
    return Run(*parts, loss, loss, (), state == "diverged", 0.1, state, fingerprint=job.fingerprint)


def bowl(job: Job, **where: float) -> Run:
    """A parabola in log2 lr, with a wall 2.5 octaves above its minimum and a little noise of the seed."""
    x = math.log2(job.lr) - optimum_of(job, **where)
    noise = np.random.default_rng([job.seed, job.width or 0, round(job.lr * 2**40)]).normal(0, 0.002)
    return run_of(job, math.inf if x > 2.5 else 1 + 0.05 * x * x + noise)


def searched(planner: Planner, make=bowl, *, at_once: int = 1, order=1, known=()) -> dict[str, Run]:
    """Every run of a search, `at_once` at a time, from the front or (order -1) the back of what is wanted."""
    runs = {run.key: run for run in known}
    while jobs := planner.wanted(runs):
        for job in jobs[::order][:at_once]:
            assert job.key not in runs
            runs[job.key] = make(job)
    return runs


def best(runs: dict[str, Run], scheme: str, width: int) -> float:
    """log2 of the rate with the lowest mean over all seeds."""
    cell = [r for r in runs.values() if (r.scheme, r.width) == (scheme, width)]
    means = {lr: np.mean([r.val_loss for r in group]) for lr, group in grouped(cell) if len(group) == 3}
    return math.log2(min(means, key=lambda lr: means[lr]))


def grouped(runs):
    key = lambda run: run.lr  # noqa: E731
    return [(lr, list(group)) for lr, group in itertools.groupby(sorted(runs, key=key), key=key)]


@pytest.mark.parametrize(("mup", "drift"), [(-6.0, -0.8), (-3.2, -1.0), (-9.7, 0.0), (-5.5, -0.5), (-12.0, 0.3)])
def test_every_optimum_is_found_to_half_an_octave_and_bracketed_with_all_seeds(mup, drift):
    where = {"mup": mup, "drift": drift}
    runs = searched(ZoomPlanner(GRID, ""), lambda job: bowl(job, **where))
    for scheme, width in itertools.product(GRID.schemes, WIDTHS):
        truth = optimum_of(Job(scheme, width, None, 1.0, 0, 9), **where)
        found = best(runs, scheme, width)
        assert abs(found - truth) <= 0.5
        cell = [r for r in runs.values() if (r.scheme, r.width) == (scheme, width)]
        whole = {round(math.log2(lr), 3) for lr, group in grouped(cell) if len(group) == 3}
        assert {round(found + step, 3) for step in (-1, -0.5, 0, 0.5, 1)} <= whole


def test_it_needs_fewer_runs_than_the_grid_it_searches_at_twice_its_resolution():
    fine = [2.0 ** (k / 2) for k in range(-20, -3)]
    zoomed, grid = searched(ZoomPlanner(GRID, "")), searched(Fixed(Grid(*vars(GRID).values()).jobs("")))
    assert len(zoomed) < 0.7 * len(grid) and len(zoomed) < 0.4 * len(grid) * len(fine) / len(GRID.lrs)


@pytest.mark.parametrize(("at_once", "order"), [(1, -1), (2, 1), (7, -1), (1000, 1)])
def test_the_optima_do_not_depend_on_how_many_run_at_once_or_in_what_order(at_once, order):
    alone, other = searched(ZoomPlanner(GRID, "")), searched(ZoomPlanner(GRID, ""), at_once=at_once, order=order)
    for scheme, width in itertools.product(GRID.schemes, WIDTHS):
        assert best(other, scheme, width) == best(alone, scheme, width)


def test_a_search_that_was_killed_anywhere_goes_on_without_a_run_made_twice():
    whole = searched(ZoomPlanner(GRID, ""))
    for count in range(0, len(whole), 11):
        rest = searched(ZoomPlanner(GRID, ""), known=list(whole.values())[:count])
        assert set(rest) == set(whole)


def test_the_seeds_are_paired_every_rate_of_the_fine_stage_has_the_same_ones():
    runs = searched(ZoomPlanner(GRID, ""))
    seeds: dict[tuple[str, int | None, float], set[int]] = {}
    for run in runs.values():
        seeds.setdefault((run.scheme, run.width, run.lr), set()).add(run.seed)
    assert all(drawn in ({0}, {0, 1, 2}) for drawn in seeds.values())


@pytest.mark.parametrize("planner", [ZoomPlanner(GRID, "", 2.0), GridPlanner(GRID, "", 2.0)])
def test_it_goes_beyond_the_range_by_extend_octaves_and_no_further(planner):
    runs = searched(planner, lambda job: run_of(job, 1 + 2.0**-20 / job.lr))
    assert max(r.lr for r in runs.values()) == 2.0 ** (-2 + 2)
    runs = searched(planner, lambda job: run_of(job, 1 + job.lr))
    assert min(r.lr for r in runs.values()) == 2.0 ** (-10 - 2)


@pytest.mark.parametrize("planner", [ZoomPlanner(GRID, ""), GridPlanner(GRID, "", 4.0)])
def test_where_everything_diverges_it_looks_lower_and_stops(planner):
    runs = searched(planner, lambda job: run_of(job, math.inf))
    assert 0 < len(runs) <= 2 * len(GRID.jobs("")) and min(r.lr for r in runs.values()) < GRID.lrs[0]


def test_a_rate_at_which_runs_fail_is_no_wall_and_is_not_asked_for_again():
    def make(job: Job) -> Run:
        run = bowl(job)
        broken = job.scheme == "mup" and job.width == 64 and job.lr > 2**-6
        return Run(**{**vars(run), "state": "failed", "val_loss": math.inf, "error": "x"}) if broken else run

    runs = searched(ZoomPlanner(GRID, ""), make)
    assert best(runs, "mup", 64) == -6.0 and best(runs, "mup", 512) == -6.0


@pytest.mark.parametrize("name", ["tpe", "gp"])
@pytest.mark.filterwarnings("ignore:.*experimental")
def test_optunas_samplers_choose_as_many_rates_as_the_grid_has_and_go_on_where_they_were(name):
    small = Grid(("mup",), GRID.scales[:2], GRID.lrs[:6], (0, 1), 9)
    planner = planner_of(name, small, fingerprint="", extend=0.0, axis="width")
    whole = searched(planner)
    assert len(whole) == len(small.jobs("")) == len(planner.chosen(whole))
    assert all(GRID.lrs[0] <= run.lr <= GRID.lrs[5] for run in whole.values())
    assert set(searched(planner, known=list(whole.values())[:7])) == set(whole)
