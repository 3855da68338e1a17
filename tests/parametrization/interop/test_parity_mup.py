"""The same training run as microsoft/mup 1.0.0, from the same effective initial function, in float64.

mup needs the model rewritten (MuReadout, 1/d attention); ours gets it as it is. mup keeps the readout 1/m as a forward
multiplier; ours absorbs it, so its readout weight is mup's over m.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hptransfer as hpt
from tests.cases.models import MLP, ConvNet, Shape, Transformer, batches, losses, seeded

mup = pytest.importorskip("mup", reason="mup is not installed (pip install --no-deps mup): no parity oracle")

BASE, STEPS, TINY = 8, 20, 1e-30


def builder(name: str, width: int, readout=nn.Linear, **options) -> nn.Module:
    if name == "mlp":
        return seeded(MLP, width, readout=readout)
    if name == "conv":
        return seeded(ConvNet, width, readout=readout)
    return seeded(Transformer, Shape(width), readout=readout, **options)


def theirs(name: str, width: int, *, rescale: bool = True) -> nn.Module:
    """mup's model: the readout is MuReadout, attention is 1/d with the base's own 1/sqrt(d) at the base."""
    d_base = BASE // 2
    options = {"scale": lambda d: d_base**0.5 / d} if name == "transformer" else {}
    base, delta, model = (builder(name, w, mup.MuReadout, **options) for w in (BASE, 2 * BASE, width))
    mup.set_base_shapes(model, base, delta=delta, rescale_params=rescale)
    return model.double()


def ours(name: str, width: int, optimizer, **plan_options) -> tuple[nn.Module, hpt.Plan]:
    model = builder(name, width)
    inputs = batches(name, 1)[0][0]
    return model, hpt.make_plan(
        model, base=builder(name, BASE), example_inputs=(inputs,), optimizer=optimizer, **plan_options
    )


def copy_function(ours: nn.Module, theirs: nn.Module, plan: hpt.Plan) -> None:
    """Our weights are theirs, in the absorbed gauge: every forward multiplier of mup's moves into the weight."""
    multiplied = {n: m.width_mult() for n, m in theirs.named_modules() if isinstance(m, mup.MuReadout)}
    source = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            owner = name.rpartition(".")[0]
            parameter.copy_(source[name] / (multiplied.get(owner, 1) if name.endswith("weight") else 1))
            parameter.mul_(plan[name].held)  # attention's d_base/d, which mup has in the logits


# name -> (torch's class and options, mup's constructor, learning rate)
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, lambda p, lr: mup.MuSGD(p, lr=lr), 0.1),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, lambda p, lr: mup.MuSGD(p, lr=lr, momentum=0.9), 0.05),
    "adam": (torch.optim.Adam, {"eps": TINY}, lambda p, lr: mup.MuAdam(p, lr=lr, eps=TINY), 2e-3),
    "adamw": (torch.optim.AdamW, {"eps": TINY}, lambda p, lr: mup.MuAdamW(p, lr=lr, eps=TINY, weight_decay=0), 2e-3),
}


@pytest.mark.filterwarnings("ignore::hptransfer.core.errors.HalfApplied")  # the weights are mup's, not a plan's
@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_losses_are_those_of_mup(name: str, optimizer: str, factor: int) -> None:
    cls, options, mup_optimizer, lr = OPTIMIZERS[optimizer]
    reference = theirs(name, factor * BASE)
    model, plan = ours(name, factor * BASE, cls, optimizer_options=options)
    copy_function(model, reference, plan)
    data = batches(name, STEPS)
    expected = losses(reference, mup_optimizer(list(reference.parameters()), lr), data)
    found = losses(model, cls(hpt.param_groups(model, plan, lr=lr), **options | {"lr": lr}), data)
    assert max(expected) - min(expected) > 0.01  # it trains
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_decay_of_hidden_matrices_is_that_of_mup_s_adamw(name: str) -> None:
    """MuAdamW keeps lr x wd of matrix-like weights, and of vector-like ones, whose lr it leaves: so do we."""
    reference = theirs(name, 4 * BASE)
    model, plan = ours(name, 4 * BASE, torch.optim.AdamW, optimizer_options={"eps": TINY})
    copy_function(model, reference, plan)
    data, lr, wd = batches(name, STEPS), 2e-3, 0.1
    expected = losses(reference, mup.MuAdamW(reference.parameters(), lr=lr, eps=TINY, weight_decay=wd), data)
    groups = hpt.param_groups(model, plan, lr=lr, weight_decay=wd, eps=TINY)
    torch.testing.assert_close(losses(model, torch.optim.AdamW(groups), data), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("factor", [2, 8])
def test_initial_scale_is_that_of_mup_s_rescaled_torch_init(name: str, factor: int) -> None:
    """From the same draw of torch's default init, parametrize_ and set_base_shapes(rescale_params=True) agree."""
    reference = theirs(name, factor * BASE)
    model, plan = ours(name, factor * BASE, torch.optim.Adam)
    hpt.parametrize_(model, plan)
    expected = builder(name, factor * BASE)
    copy_function(expected, reference, plan)
    for (n, found), (_, wanted) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0, msg=f"{n}: {found.std()} against {wanted.std()}")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_comparison_is_sensitive_to_the_rates(optimizer: str) -> None:
    """From the same function, one global rate instead of the plan's groups parts from mup by more than a percent."""
    cls, options, mup_optimizer, lr = OPTIMIZERS[optimizer]
    reference = theirs("transformer", 8 * BASE)
    model, plan = ours("transformer", 8 * BASE, cls, optimizer_options=options)
    copy_function(model, reference, plan)
    data = batches("transformer", STEPS)
    expected = losses(reference, mup_optimizer(list(reference.parameters()), lr), data)
    found = losses(model, cls(model.parameters(), lr=lr, **options), data)
    assert max(abs(a / b - 1) for a, b in zip(found, expected, strict=True)) > 1e-2
