"""transfer_check over depth: what grows is the number of residual blocks, the width stays at the base's."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.reporting.report.html import render_report
from hptransfer.reporting.words import table
from hptransfer.validation.forecasts.against import score_forecast
from hptransfer.validation.forecasts.predict import predict
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.cases.forecast import at_width

DEPTHS = (2, 8)


class Block(nn.Module):
    """x + down(tanh(up(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


def build(scale: Scale) -> nn.Module:
    width = scale.width or 16
    blocks = (Block(width) for _ in range(scale.depth or 2))
    return nn.Sequential(nn.Linear(cases.INPUTS, width), *blocks, nn.Linear(width, 1))


def rows(seed: int) -> tuple[Tensor, Tensor]:
    """A linear target, the same for every seed of the runs: learnt at every depth, and best at a sharp rate."""
    x, _ = cases.rows(seed)
    return x, x[:, :1] + 0.5 * x[:, 1:2]


def batches(scale: Scale, seed: int):
    x, y = rows(0)
    draw = torch.Generator().manual_seed(seed)
    while True:
        pick = torch.randint(len(x), (64,), generator=draw)
        yield x[pick], y[pick]


DEEP = cases.recipe.replace(
    name="residual",
    build=build,
    batches=batches,
    validation=lambda: [rows(1)],
    base=Scale(width=16, depth=2),
    optimizer=torch.optim.SGD,
    steps=20,
    lrs=tuple(2.0**k for k in range(-8, 1)),
    seeds=3,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("depths")
    return transfer_check(DEEP, sampler="grid", depths=DEPTHS, workers=1, out=out), out


def test_only_the_depth_varies_and_the_result_says_so(found):
    result, out = found
    assert (result.axis, result.sizes, result.base_size) == ("depth", DEPTHS, 2)
    assert {run.width for run in result.runs} == {16} and {run.depth for run in result.runs} == set(DEPTHS)
    assert TransferResult.load(out) == result and json.loads((out / "verdict.json").read_text())["axis"] == "depth"


def test_depth_takes_a_scheme_with_a_depth_rule_by_default(found):
    result, _ = found
    assert result.scheme == "completep" and result.against == "sp"
    rows = {row["name"]: row for row in result.plan["rows"]}
    assert rows["1.down.weight"]["init_mult"] == pytest.approx(2 / 8)  # L^-1 in the branch's last matrix, 2505.01618


def test_the_optimum_of_sp_moves_further_over_depth(found):
    result, _ = found
    ours, sp = result.drifts
    assert abs(ours.octaves) + 0.5 < abs(sp.octaves)


def test_page_and_terminal_speak_of_depth(found):
    result, _ = found
    page, text = render_report(result), table(result)
    assert text.startswith("depth ") and "from depth 2 to 8" in text and "width" not in text
    assert "What moves with depth" in page and "base depth 2" in page and "deeper better" in page
    assert "over depth" not in result.rule and "largest depth" in result.rule


def test_a_sweep_takes_depths_too():
    runs = run_sweep(DEEP, depths=(3,), lrs=(2**-6,), seeds=1, steps=2, schemes=("completep",), workers=1)
    assert [(run.width, run.depth) for run in runs] == [(16, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [2]}, r"depths=\[2\]: a transfer needs at least two depths, for example 2,4,8"),
        ({"depths": [2, 0]}, "0 is not a positive whole number"),
        ({"depths": [2, 4], "widths": [16, 32]}, "Give one of widths, depths"),
    ],
)
def test_depths_that_make_no_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        transfer_check(DEEP, workers=1, **options)


def test_a_recipe_that_ignores_the_depth_is_refused_before_anything_is_trained():
    with pytest.raises(UsageError, match=r"builds the same model at depth 2 and 8.*must use scale\.depth"):
        transfer_check(cases.recipe, depths=DEPTHS, workers=1)


def test_a_check_over_depth_scores_no_forecast_of_a_width_and_lends_its_drift_to_none(found):
    result, _ = found
    with pytest.raises(UsageError, match="The check is over depth"):
        score_forecast(at_width(32, 0.1, 0.1), result)
    alone = predict(DEEP, target=Scale(width=64), lrs=DEEP.lrs, workers=1)
    lent = predict(DEEP, target=Scale(width=64), checked=result)
    octaves = [p.learning_rate.high / p.learning_rate.low for p in (alone, lent)]
    assert octaves[0] == pytest.approx(octaves[1], rel=0.25)
