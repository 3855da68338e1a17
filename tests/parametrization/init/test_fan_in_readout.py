"""readout_init="fan-in": the readout starts at n^-1/2, every rate is as it was, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

import hptransfer as hpt
from tests.cases.models import MLP, Shape, Transformer, batches, seeded

FAN_IN = hpt.Options(readout_init="fan-in")


def plans(scheme: str = "mup", optimizer=torch.optim.AdamW, name: str = "mlp"):
    def build(width: int):
        return seeded(MLP, width) if name == "mlp" else seeded(Transformer, Shape(width))

    given = {"base": build(8), "example_inputs": (batches(name, 1)[0][0],), "scheme": scheme, "optimizer": optimizer}
    return (hpt.make_plan(build(32), **given, options=o) for o in (None, FAN_IN))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_the_readout_s_init_alone_changes(name, optimizer):
    own, larger = plans(optimizer=optimizer, name=name)
    head = next(row.name for row in own if row.role == "readout" and row.name.endswith("weight"))
    assert {row.name for row, other in zip(own, larger, strict=True) if row.init_mult != other.init_mult} == {head}
    assert own[head].init_mult == pytest.approx(1 / 4) and larger[head].init_mult == pytest.approx(1 / 2)
    assert [row.lr_mult for row in own] == [row.lr_mult for row in larger]


def test_a_relative_step_stays_as_large_in_entries():
    """Adafactor moves a weight by lr times its rms: the larger start takes the smaller rate."""
    own, larger = plans(optimizer=torch.optim.Adafactor)
    head = next(row.name for row in own if row.role == "readout" and row.name.endswith("weight"))
    moved = [plan[head].lr_mult * plan[head].init_mult for plan in (own, larger)]
    assert moved[1] == pytest.approx(moved[0])


def test_schemes_that_start_there_anyway_and_the_control_are_left_alone():
    for scheme in ("ntp", "sp"):
        own, larger = plans(scheme)
        assert [vars(row) for row in own] == [vars(row) for row in larger]


def test_what_cannot_be_started_there_is_refused():
    tied = seeded(Transformer, Shape(32, tied=True)), seeded(Transformer, Shape(8, tied=True))
    given = {"example_inputs": (batches("transformer", 1)[0][0],), "options": FAN_IN}
    with pytest.raises(hpt.UsageError, match="an input weight at once"):
        hpt.make_plan(tied[0], base=tied[1], **given)
    with pytest.raises(hpt.UsageError, match="by its condition"):
        list(plans("spectral"))
    with pytest.raises(hpt.UsageError, match="both set the readout's init"):
        hpt.Options(readout_init="fan-in", forward="unit")
