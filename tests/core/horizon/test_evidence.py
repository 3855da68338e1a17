"""The joint rule: means over data sets, an interval for a new one, and what it refuses to know."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hptransfer.core.horizon.carried import JOINT, moved_betas
from hptransfer.core.horizon.evidence import EVIDENCE, Evidence, joint_rule, reach_about


def drawn(rng: np.random.Generator, sources: int) -> tuple[list[Evidence], tuple[float, float]]:
    """Sources and one new data set from the same bivariate normal."""
    pairs = rng.multivariate_normal([0.4, -0.25], [[0.03, -0.02], [-0.02, 0.04]], size=sources + 1)
    return [Evidence(str(i), b, t, "sign", "drawn") for i, (b, t) in enumerate(pairs[1:])], tuple(pairs[0])


@pytest.mark.parametrize(("k", "r"), [(8.0, 1.0), (1.0, 8.0), (8.0, 8.0), (0.125, 4.0)])
def test_the_interval_holds_a_new_data_set_as_often_as_it_says(k: float, r: float) -> None:
    """90% of 600 draws, give or take 3 standard errors (.012 each); few sources, so a normal would hold fewer."""
    rng, hits, narrow = np.random.default_rng(0), 0, 0
    for _ in range(600):
        sources, (b, t) = drawn(rng, 5)
        rule = joint_rule(sources, scatter=0.0)
        off = abs(b * math.log(k) + t * math.log(r) - math.log(rule.factor(k, r)))
        hits += off <= rule.reach(k, r)
        narrow += off <= rule.reach(k, r) * 1.645 / 2.132  # the normal's quantile in place of t's with 4 degrees
    assert 0.86 < hits / 600 < 0.94 and narrow < hits


def test_nothing_moves_where_nothing_changes_and_factors_compose() -> None:
    assert JOINT.factor(1, 1) == 1.0 and JOINT.reach(1, 1) == 0.0 == reach_about(0.0, 1.0)
    assert JOINT.factor(2, 3) * JOINT.factor(5, 7) == pytest.approx(JOINT.factor(10, 21))
    assert JOINT.factor(4, 2) * JOINT.factor(0.25, 0.5) == pytest.approx(1.0)
    assert JOINT.reach(4, 2) == pytest.approx(JOINT.reach(0.25, 0.5))


def test_the_rule_lies_where_data_sets_do_and_its_interval_admits_each() -> None:
    for row in EVIDENCE:
        rule = joint_rule([other for other in EVIDENCE if other is not row])
        for value, at in ((row.batch, (16.0, 1.0)), (row.tokens, (1.0, 16.0))):
            if value is not None:
                assert abs(value * math.log(16) - math.log(rule.factor(*at))) < rule.reach(*at), row.data


def test_the_further_the_wider_and_every_move_has_a_width() -> None:
    reaches = [JOINT.reach(k, 1.0) for k in (1.01, 2, 8, 64)]
    assert all(0 < a < b for a, b in itertools.pairwise(reaches))


def test_a_rule_far_from_the_evidence_has_the_wider_interval() -> None:
    """Linear at x 16 stands further from what was measured than the mean exponent does."""
    assert reach_about(math.log(16), 16) > reach_about(JOINT.batch * math.log(16), 16) > 0


@pytest.mark.parametrize(
    ("betas", "k", "why"),
    [((0.9, 0.95), 244.0, "half-life"), ((0.9, 0.999), 8.0, "half-life"), ((0.9, 0.999), 1 / 16, "above 0.9999")],
)
def test_betas_that_cannot_follow_are_refused(betas: tuple[float, ...], k: float, why: str) -> None:
    from hptransfer import UsageError

    with pytest.raises(UsageError, match=why):
        moved_betas(betas, k)


@pytest.mark.parametrize("k", [0.5, 2.0, 4.0])
def test_moved_betas_keep_the_half_life_in_samples(k: float) -> None:
    before, after = (0.9, 0.95), moved_betas((0.9, 0.95), k)
    for old, new in zip(before, after, strict=True):
        assert math.log(new) / math.log(old) == pytest.approx(k)
    assert moved_betas((0.0, 0.99999), 1.0) == (0.0, 0.99999)


@pytest.mark.parametrize(("table", "data"), [("mlp-adam", "mlp, digits"), ("gpt-adam", "gpt, source code")])
def test_rows_of_our_own_grids_are_what_those_grids_give(table: str, data: str) -> None:
    from pathlib import Path

    from hptransfer.prediction.laws.lr_fit import fit_sweep
    from hptransfer.prediction.laws.sweep_table import read_table

    grid = Path(__file__).parents[3] / "benchmarks" / "grids" / f"{table}.csv"
    exponents = fit_sweep(read_table(grid, diverged="wall")).exponents
    (row,) = [row for row in EVIDENCE if row.data == data]
    assert (row.batch, row.tokens) == (round(exponents["batch"], 2), round(exponents["tokens"], 2))
