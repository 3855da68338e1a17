"""make_plan(build, ...): the plan's first line says what a check at small sizes found, or why there is none."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.checks import verified
from hptransfer.core import rules
from hptransfer.parametrization.verification import Verification

X = (torch.zeros(4, 8),)


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 5))


class Residual(nn.Module):
    """A stem, `depth` blocks x + down(relu(up(norm(x)))) and a head."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def deep(scale: hpt.Scale) -> nn.Module:
    return Residual(scale.width or 32, scale.depth or 2)


def plan(builder: Any = build, base: Any = 32, target: Any = 256, **choices: Any) -> hpt.Plan:
    return hpt.make_plan(builder, base=base, target=target, **{"example_inputs": X, **choices})


def first_line(made: hpt.Plan) -> str:
    return str(made).splitlines()[0]


def told(made: hpt.Plan) -> Verification:
    assert made.verification is not None
    return made.verification


def test_a_builder_is_verified_and_the_numbers_are_those_of_its_models():
    made = plan()
    assert told(made).state == "verified", first_line(made)
    assert first_line(made).startswith("verified (width 32..128; ") and first_line(made).endswith(" s)")
    assert told(made).seconds > 0
    plain = hpt.make_plan(build(256), base=build(32), example_inputs=X)
    assert {n: (r.lr_mult, r.init_mult) for n, r in made.rows.items()} == {
        n: (r.lr_mult, r.init_mult) for n, r in plain.rows.items()
    }
    assert made.fingerprint == plain.fingerprint  # a verdict changes no training


def test_a_scheme_with_a_depth_rule_is_verified_over_depth_too():
    made = plan(deep, hpt.Scale(32, 2), hpt.Scale(128, 8), scheme="completep")
    assert told(made).state == "verified", first_line(made)
    assert told(made).depths == (2, 4, 8)
    assert "depth 2..8" in first_line(made)


def test_a_wrong_rule_is_said_to_have_failed_with_what_and_by_how_much(monkeypatch):
    monkeypatch.setattr(rules, "_update", lambda *_: rules.Power())  # one rate for all
    made = plan()
    assert told(made).state == "failed"
    assert re.match(r"FAILED: 2.weight: loss \+1.0\d .*; lr -0.9\d against the plan's \+0.00", first_line(made))


def test_the_verdict_survives_json_and_plans_without_one_still_read():
    made = plan()
    assert hpt.Plan.from_json(json.loads(json.dumps(made.to_json()))) == made
    old = {k: v for k, v in made.to_json().items() if k != "verification"}
    assert hpt.Plan.from_json(old).verification is None


def test_a_plan_of_models_says_that_a_builder_is_missing():
    made = hpt.make_plan(build(256), base=build(32), example_inputs=X)
    assert first_line(made).startswith("not verified: no builder; pass make_plan a function")


def refusing(width: int) -> nn.Module:
    if width not in (32, 256):
        raise RuntimeError(f"no width {width}")
    return build(width)


def on_a_gpu(width: int) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build(width)

        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                raise AssertionError("Torch not compiled with CUDA enabled")
            return self.inner(x)

    return Net()


@pytest.mark.parametrize(
    ("builder", "choices", "why"),
    [
        (build, {"verify": False}, "verify=False"),
        (build, {"scheme": "sp"}, "the SP control promises nothing"),
        (refusing, {}, "the builder raised RuntimeError between widths 32 and 128: no width 64"),
        (on_a_gpu, {}, "the check raised AssertionError: Torch not compiled with CUDA enabled"),
        (build, {"optimizer": "Lion"}, "Lion is known by name only"),
        (build, {"verify": (32, 64)}, "2 distinct, but a slope with an interval needs at least 3"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_checked_is_not_verified_and_says_why(builder, choices, why):
    made = plan(builder, **choices)
    assert told(made).state == "not verified"
    assert first_line(made).startswith("not verified: ") and why in first_line(made), first_line(made)


def test_models_on_meta_have_no_values_to_check():
    def on_meta(width: int) -> nn.Module:
        with torch.device("meta"):
            return build(width)

    stds = {name: 0.1 for name, _ in build(32).named_parameters()}
    made = plan(on_meta, base_std=stds)
    assert "models on meta, which have no values" in first_line(made)


def test_noise_is_never_called_verified(monkeypatch):
    real = verified.verify_plan

    def noisy(*args: Any, **options: Any) -> Any:
        import dataclasses

        return dataclasses.replace(
            real(*args, **options), verdict="INCONCLUSIVE", reasons=("noise leaves open: 2.weight",)
        )

    monkeypatch.setattr(verified, "verify_plan", noisy)
    assert first_line(plan()).startswith("not verified: noise leaves open: 2.weight (")


def test_a_model_too_large_to_check_in_seconds_is_checked_at_narrower_widths(monkeypatch):
    entries = sum(p.numel() for p in build(64).parameters())
    monkeypatch.setattr(verified, "MOST", entries)
    assert told(plan()).widths == (16, 32, 64)
    monkeypatch.setattr(verified, "MOST", 10)
    assert "too many to check in seconds; give small widths" in first_line(plan())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"target": None}, "give two widths"),
        ({"target": hpt.Scale(64)}, "give two widths"),
        ({"builder": 3}, "a model or a function that builds one"),
        ({"builder": build(32)}, "a model goes with base=model"),
        ({"builder": deep, "base": hpt.Scale(32), "target": hpt.Scale(64, 2)}, "both a depth or none"),
    ],
)
def test_a_wrong_call_is_refused(choices, message):
    with pytest.raises(hpt.UsageError, match=message):
        plan(**choices)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plan()
    assert torch.equal(before, torch.get_rng_state())
