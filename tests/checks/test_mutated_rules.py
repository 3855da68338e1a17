"""The oracle does not read the rules that it judges: every altered constant of a scheme fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from test_oracle import LENGTH, VOCABULARY, Block, Transformer
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.checks.oracle.report import OracleReport
from hptransfer.checks.oracle.verify import verify_plan
from hptransfer.core import rules
from hptransfer.core.training.recipe import Recipe, Scale
from tests.support.some import the_rest_slow

HALF = Fraction(1, 2)


def build(scale: Scale) -> nn.Module:
    model, width = Transformer(scale.width or 32), scale.width or 32
    model.blocks = nn.Sequential(*(Block(width) for _ in range(scale.depth or 2)))
    return model


def batches(scale: Scale, seed: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(0, VOCABULARY, (4, LENGTH + 1), generator=draw)


def verify(scheme: str, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> OracleReport:
    recipe = Recipe(
        build=build,
        batches=batches,
        loss=lambda model, x: F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()),
        validation=lambda: [],
        example_inputs=lambda: (torch.zeros(2, LENGTH, dtype=torch.long),),
        base=Scale(32, 2),
        name="tiny",
        optimizer=optimizer,
    )
    return verify_plan(recipe, scheme=scheme, seeds=2)


SCHEMES: list[tuple[str, dict[str, Any]]] = [
    ("mup", {"readout_init": -HALF}),
    ("mup", {"readout_init": Fraction(-3, 2)}),
    ("ntk", {"readout_init": Fraction(-1)}),
    ("mup", {"aligned": False}),
    ("mup-no-align", {"aligned": True}),
    ("mup", {"attention": "1/sqrt(d)"}),
    ("ntp", {"attention": "1/d"}),
    ("umup", {"embedding_lr": HALF}),
    ("umup", {"embedding_lr": Fraction(0)}),
    ("mup", {"embedding_lr": -HALF}),
    ("completep", {"depth_alpha": Fraction(0)}),
    ("completep", {"depth_alpha": HALF}),
    ("completep", {"depth_alpha": Fraction(2)}),
    ("depth-mup", {"depth_alpha": Fraction(1)}),
    ("ntk", {"kernel": False}),
]


@pytest.mark.parametrize(("scheme", "change"), the_rest_slow(SCHEMES, always=2), ids=lambda value: str(value))
def test_an_altered_scheme_fails(scheme, change, monkeypatch):
    altered = dataclasses.replace(rules.SCHEMES[scheme], **change)
    monkeypatch.setattr(rules, "SCHEMES", {**rules.SCHEMES, scheme: altered})
    report = verify(scheme)
    assert report.verdict == "FAIL", str(report)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    "factor",
    the_rest_slow([{"fan_in": HALF}, {"fan_out": HALF}, {"fan_in": -HALF}, {"fan_out": -HALF}], always=1),
    ids=str,
)
def test_an_altered_learning_rate_fails(factor, optimizer, monkeypatch):
    rule = rules._update
    monkeypatch.setattr(rules, "_update", lambda *given: rule(*given) * rules.Power(**factor))
    assert verify("mup", optimizer).verdict == "FAIL"


@pytest.mark.parametrize("power", [Fraction(0), -HALF])
def test_an_altered_eps_fails(power, monkeypatch):
    monkeypatch.setattr(rules, "gradient_scale", lambda scheme: rules.Power(fan_out=power))
    assert verify("mup").verdict == "FAIL"


@pytest.mark.parametrize("scheme", ["ntp", "ntk", "completep"])
def test_unaltered_schemes_pass_under_sgd(scheme):
    report = verify(scheme, torch.optim.SGD)
    assert report.verdict == "PASS", str(report)
