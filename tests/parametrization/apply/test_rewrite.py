"""parametrize_: the initial scale it gives, what it leaves, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.parametrization.measure import measure_rms
from tests.cases.models import MLP, batches, seeded

X = torch.randn(4, 8, dtype=torch.float64)


def plan_for(build, width: int = 64, base: int = 16, **options) -> hpt.Plan:
    return hpt.make_plan(build(width), base=build(base), example_inputs=(X,), **options)


def layer(init) -> callable:
    """A three-layer net whose weights are all drawn by init(weight)."""

    def build(width: int, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 5))
        for module in model:
            if isinstance(module, nn.Linear):
                init(module.weight)
        return model.double()

    return build


INITS = {  # init -> (its own target/base ratio, for 8 -> n, n -> n and n -> 5 weights at m = 4)
    "constant std": (lambda w: nn.init.normal_(w, std=0.02), (1, 1, 1)),
    "torch's default": (lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), (1, 0.5, 0.5)),
    "kaiming fan_out": (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), (0.5, 0.5, 1)),
    "orthogonal": (nn.init.orthogonal_, None),
    "ones": (nn.init.ones_, (1, 1, 1)),
    "muP's own": (
        lambda w: nn.init.normal_(w, std=1 / w.shape[1] if w.shape[0] == 5 else w.shape[1] ** -0.5),
        (1, 0.5, 0.25),
    ),
}
RULE = {"0.weight": 1.0, "2.weight": 0.5, "4.weight": 0.25}


@pytest.mark.parametrize("init", sorted(INITS))
def test_whatever_the_init_the_target_gets_the_rule_s_ratio_to_the_base(init: str) -> None:
    draw, own = INITS[init]
    build = layer(draw)
    model, plan = build(64, seed=1), plan_for(build)
    base, before = measure_rms(build(16)), measure_rms(model)
    changes = {change.name: change for change in hpt.parametrize_(model, plan)}
    for k, (name, ratio) in enumerate(RULE.items()):
        assert measure_rms(model)[name] == pytest.approx(base[name] * ratio, rel=0.25)
        if own is not None:  # the factor is exact, not a ratio of two samples
            factor = changes[name].factor if name in changes else 1.0
            assert factor == pytest.approx(ratio / own[k], rel=1e-12)
            assert measure_rms(model)[name] == pytest.approx(before[name] * factor, rel=1e-9)


def test_the_distribution_is_kept() -> None:
    build = layer(lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)))
    model = build(64)
    before = copy.deepcopy(model.state_dict())
    hpt.parametrize_(model, plan_for(build))
    factor = model[4].weight / before["4.weight"]
    torch.testing.assert_close(factor, factor.flatten()[0].expand_as(factor), rtol=1e-12, atol=0)


def test_zeros_stay_zeros_and_a_zero_readout_is_an_option() -> None:
    def build(width: int) -> nn.Module:
        model = seeded(MLP, width)
        nn.init.zeros_(model.hidden.weight)
        nn.init.zeros_(model.last.bias)
        return model

    model = build(64)
    hpt.parametrize_(model, plan_for(build))
    assert not model.hidden.weight.any() and not model.last.bias.any() and model.last.weight.any()
    zero = plan_for(build, options=hpt.Options(readout_init="zero"))
    hpt.parametrize_(model, zero)
    assert not model.last.weight.any() and zero["last.weight"].lr_mult == 0.25


def test_calling_it_twice_changes_nothing_more() -> None:
    build = layer(lambda w: nn.init.normal_(w, std=0.1))
    model, plan = build(64), plan_for(build)
    hpt.parametrize_(model, plan)
    before = copy.deepcopy(model.state_dict())
    hpt.parametrize_(model, plan)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_small_biases_follow_the_law_of_their_weight() -> None:
    """Five numbers cannot tell 1 from m^-1/2, but torch draws them by their weight's fan_in."""
    for seed in range(20):
        model, plan = seeded(MLP, 64, seed=seed), plan_for(lambda w: seeded(MLP, w))
        before = model.last.bias.detach().clone()
        hpt.parametrize_(model, plan)
        torch.testing.assert_close(model.last.bias.detach(), 2 * before, rtol=1e-12, atol=0)


def test_values_loaded_from_a_checkpoint_can_be_left_alone() -> None:
    model, plan = seeded(MLP, 64), plan_for(lambda w: seeded(MLP, w))
    before = copy.deepcopy(model.state_dict())
    assert hpt.parametrize_(model, plan, init=False) == []
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(value: float) -> None:
    model, plan = seeded(MLP, 64), plan_for(lambda w: seeded(MLP, w))
    model.hidden.weight.data[0, 0] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hpt.UsageError, match=r"'hidden.weight' holds values that are not finite"):
        hpt.parametrize_(model, plan)
    assert torch.equal(before["last.weight"], model.last.weight)  # nothing was scaled before it was found


def test_a_meta_base_needs_its_stds() -> None:
    with torch.device("meta"):
        base = MLP(16)
    model = seeded(MLP, 64).float()
    plan = hpt.make_plan(model, base=base, example_inputs=(X.float(),))
    assert plan["hidden.weight"].lr_mult == 0.25 and plan["hidden.weight"].init_std is None
    with pytest.raises(hpt.UsageError, match=r"no initial std for 'first.weight': its base was on meta.*base_std="):
        hpt.parametrize_(model, plan)
    stds = measure_rms(seeded(MLP, 16))
    plan = hpt.make_plan(model, base=base, example_inputs=(X.float(),), base_std=stds)
    hpt.parametrize_(model, plan)
    assert measure_rms(model)["last.weight"] == pytest.approx(stds["last.weight"] / 4, rel=0.1)


def test_models_without_hooks_are_what_they_were() -> None:
    """Same class, same keys, no hooks; deepcopy and pickle work as before."""
    model, plan = seeded(MLP, 64), plan_for(lambda w: seeded(MLP, w))
    keys = list(model.state_dict())
    hpt.parametrize_(model, plan)
    assert type(model) is MLP and list(model.state_dict()) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    x = batches("mlp", 1)[0][0]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x))


class Timed(nn.Module):
    """A vector over the width that is a function of the index, as a state-space block's log(1..n), or is drawn."""

    def __init__(self, width: int, rates: torch.Tensor) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 3)
        self.rates = nn.Parameter(rates)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.inp(x)) * self.rates)


@pytest.mark.parametrize(("ordered", "kept"), [(True, True), (False, False)])
def test_a_vector_in_order_was_not_drawn_and_stays(ordered: bool, kept: bool) -> None:
    """The rms of log(1..n) grows with n, but entry i means the same at every width."""

    def build(width: int) -> nn.Module:
        values = torch.arange(1, width + 1).double().log() + 1
        return Timed(width, values if ordered else values[torch.randperm(width)]).double()

    torch.manual_seed(0)
    model, plan = build(64), plan_for(build)
    before = model.rates.detach().clone()
    hpt.parametrize_(model, plan)
    assert plan["rates"].role == "vector" and plan["rates"].init_mult == 1
    assert torch.equal(model.rates, before) == kept
