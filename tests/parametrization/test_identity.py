"""At the base's own size nothing changes, bit for bit: weights, groups and training are plain torch, for any scheme."""

from __future__ import annotations

import copy

import pytest
import torch

import hptransfer as hpt
from hptransfer.core.rules import SCHEMES
from tests.cases.models import MLP, ConvNet, Shape, Transformer, batches, losses, seeded

BUILDERS = {
    "mlp": lambda seed=0: seeded(MLP, 16, seed=seed),
    "conv": lambda seed=0: seeded(ConvNet, 8, seed=seed),
    "transformer": lambda seed=0: seeded(Transformer, Shape(16, depth=2, tied=True, embed_scale="buffer"), seed=seed),
}
OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-6}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
}
ABSORBED = sorted(name for name, scheme in SCHEMES.items() if not scheme.unit)


@pytest.mark.parametrize("scheme", ABSORBED)
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_scheme_is_the_identity_at_the_base(name: str, scheme: str) -> None:
    """Also when the target was drawn from another seed than the base: its own draw is kept."""
    model, base = BUILDERS[name](seed=1), BUILDERS[name](seed=0)
    before = copy.deepcopy(model.state_dict())
    plan = hpt.make_plan(model, base=base, example_inputs=(batches(name, 1)[0][0],), scheme=scheme)
    assert plan.is_identity and hpt.parametrize_(model, plan) == []
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    (group,) = hpt.param_groups(model, plan, lr=1e-3, weight_decay=0.1)
    assert (group["lr"], group["weight_decay"], group["eps"], group["lr_mult"]) == (1e-3, 0.1, 1e-8, 1.0)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_training_is_that_of_plain_torch_bit_for_bit(name: str, optimizer: str) -> None:
    cls, options = OPTIMIZERS[optimizer]
    plain, model = BUILDERS[name](), BUILDERS[name]()
    given = {"example_inputs": (batches(name, 1)[0][0],), "optimizer": cls, "optimizer_options": options}
    plan = hpt.make_plan(model, base=BUILDERS[name](), **given)
    hpt.parametrize_(model, plan)
    groups = hpt.param_groups(model, plan, lr=1e-2, weight_decay=options["weight_decay"])
    others = {k: v for k, v in options.items() if k not in {"weight_decay", "eps"}}
    data = batches(name, 10)
    expected = losses(plain, cls(plain.parameters(), lr=1e-2, **options), data)
    assert losses(model, cls(groups, lr=1e-2, **others), data) == expected
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("width", [8, 32])
def test_the_control_leaves_init_and_rates_at_any_width(width: int) -> None:
    model, x = seeded(MLP, width), batches("mlp", 1)[0][0]
    before = copy.deepcopy(model.state_dict())
    plan = hpt.make_plan(model, base=BUILDERS["mlp"](), example_inputs=(x,), scheme="sp")
    assert plan.is_identity and hpt.parametrize_(model, plan) == []
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert len(hpt.param_groups(model, plan, lr=1e-3)) == 1
