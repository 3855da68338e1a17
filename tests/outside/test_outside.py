"""Families from outside transformers: a few handwritten ones in the default run, what was measured with -m slow."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from families.trial import attempt
from outside import OUTSIDE
from outside.depth import DEPTHS, attempt_depth, rule_of
from torch import Tensor, nn

from scripts.bench_outside import WIDTHS, deepened, markdown

ROOT = Path(__file__).parents[2]
MEASURED = {
    name: json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())["families"]
    for name in ("outside", "depth-families")
}
FAST = ("hand-highway", "hand-sum-attention", "hand-siren", "hand-kan", "hand-two-towers")


@pytest.mark.parametrize("name", FAST)
def test_the_oracle_agrees_with_plans_of_handwritten_models(name: str) -> None:
    trial = attempt(OUTSIDE[name], "fixed", widths=WIDTHS)
    assert trial.verdict == "PASS", trial.reason


@pytest.mark.slow
@pytest.mark.parametrize("row", MEASURED["outside"], ids=lambda row: row["family"])
def test_what_was_measured_over_the_width_stays(row: dict[str, str]) -> None:
    family = OUTSIDE[row["family"]]
    if family.absent:
        pytest.skip(family.absent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = attempt(family, "fixed", widths=WIDTHS)
    assert trial.verdict == row["verdict"], trial.reason


@pytest.mark.slow
@pytest.mark.parametrize("row", MEASURED["depth-families"], ids=lambda row: row["family"])
def test_what_was_measured_over_the_depth_stays(row: dict[str, str]) -> None:
    family = deepened()[row["family"]]
    if family.absent:
        pytest.skip(family.absent)
    trial = attempt_depth(family.name, family.deep_builder(64), family.inputs(), measure=False)
    assert trial.verdict == row["verdict"], trial.reason


class _Stack(nn.Module):
    """Blocks with a hidden layer, added to a stream where `residual`, else one behind the other."""

    def __init__(self, depth: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.embed, self.readout = nn.Linear(4, 16), nn.Linear(16, 3)
        self.up, self.down = (nn.ModuleList(nn.Linear(16, 16) for _ in range(depth)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = down(torch.relu(up(x)))
            x = x + h if self.residual else h
        return self.readout(x)


def test_every_parameter_of_a_residual_stack_is_an_outlet_or_inside() -> None:
    """Two of each layer's four parameters make what is added; the step keeps its size only with the rule."""
    trial = attempt_depth("stack", lambda depth: _Stack(depth, residual=True), (torch.randn(8, 4),))
    assert trial.verdict == "PASS", trial.reason
    assert (trial.layered, trial.outlet, trial.inside) == (32, 16, 16)
    assert trial.slope is not None and trial.slope_without is not None
    assert trial.slope < 0.25 < trial.slope_without


def test_layers_without_a_stream_have_no_depth_rule_and_the_trial_says_so() -> None:
    trial = attempt_depth("chain", lambda depth: _Stack(depth, residual=False), (torch.randn(8, 4),), measure=False)
    assert trial.verdict in ("FAIL", "REFUSED")
    assert trial.verdict == "REFUSED" or trial.without == {
        f"{part}.*.{kind}": 8 for part in ("up", "down") for kind in ("weight", "bias")
    }


def test_a_multiplier_that_is_neither_half_of_the_rule_is_told_apart() -> None:
    import hptransfer as hpt

    base, target = (_Stack(depth, residual=True) for depth in DEPTHS)
    half = hpt.make_plan(target, base=base, example_inputs=(torch.randn(8, 4),), scheme="depth-mup")
    assert rule_of(half["down.3.weight"], max(DEPTHS) / min(DEPTHS)) == "other"


def test_the_page_shows_the_figures_as_they_stand() -> None:
    tables = markdown(MEASURED["outside"], MEASURED["depth-families"])
    assert (ROOT / "docs" / "outside.md").read_text().endswith(tables)


def test_enough_families_pass() -> None:
    """Twenty-five from outside over the width; twenty decoders over the depth, parallel blocks among them."""
    passed = [row for row in MEASURED["outside"] if row["verdict"] == "PASS"]
    assert len(passed) >= 25 and len({row["package"] for row in passed}) >= 6
    deep = [
        row["family"] for row in MEASURED["depth-families"] if row["verdict"] == "PASS" and row["kind"] == "decoder"
    ]
    assert len(deep) >= 20 and {"cohere", "stablelm-parallel"} <= set(deep)
