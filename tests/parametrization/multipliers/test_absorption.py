"""A model with forward multipliers and its absorbed twin train alike under any optimizer: abc-symmetry, brute force."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.graph.ops import op
from hptransfer.graph.readings.scale_flow import ScaleFlow
from hptransfer.graph.readings.streams import residual_streams
from hptransfer.graph.trace import trace
from hptransfer.parametrization.multipliers.placement import Multiplier, place
from hptransfer.parametrization.multipliers.shift import absorb
from tests.cases.models import Shape, Transformer, batches, losses, seeded
from tests.cases.products import is_logits, products

LOGITS, ATTENTION, BRANCH, STEPS = 0.25, 0.5, 0.6, 15

SHAPES = {
    "plain": Shape(8),
    "fused qkv": Shape(8, fused_qkv=True),
    "fused qkv, no bias": Shape(8, fused_qkv=True, bias=False),
    "gains on q and k": Shape(8, qk_norm=True),
    "fused qkv with gains": Shape(8, fused_qkv=True, qk_norm=True),
    "tied": Shape(8, tied=True),
    "tied, written-out norm": Shape(8, tied=True, norm="rms"),
    "post-norm": Shape(8, post_norm=True),
    "post-norm, tied": Shape(8, post_norm=True, tied=True),
    "parallel": Shape(8, parallel=True, fused_qkv=True),
    "eager attention": Shape(8, attention="eager"),
    "scaled queries": Shape(8, attention="scaled-q", fused_qkv=True),
    "two blocks": Shape(8, depth=2, tied=True, fused_qkv=True),
}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, 0.05),
    "momentum and decay": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, 0.02),
    "adam, large eps": (torch.optim.Adam, {"eps": 1e-3}, 3e-3),
    "adam, l2": (torch.optim.Adam, {"eps": 1e-3, "weight_decay": 0.1}, 3e-3),
    "adamw, decay": (torch.optim.AdamW, {"eps": 1e-4, "weight_decay": 0.1}, 3e-3),
}


def absorbed(model: nn.Module, cls, options, *, branch: float = BRANCH) -> hpt.Plan:
    """The identity plan of a model, with the multipliers of logits, attention and branches moved into its rows."""
    tokens = batches("transformer", 1)[0][0]
    plan = hpt.make_plan(model, base=model, example_inputs=(tokens,), optimizer=cls, optimizer_options=options)
    assert plan.is_identity
    graph = trace(model, (tokens,))
    head = next(n for n in reversed(graph.nodes) if op(n) == "linear")
    wanted = [
        *(Multiplier(s[:2], s[2:], math.sqrt(ATTENTION), "attention") for s in products(graph) if is_logits(s)),
        *(Multiplier((b.end,), (b.add,), branch, "branch") for b in residual_streams(graph).branches if branch != 1),
        Multiplier((head.args[0],), (head,), LOGITS, "logits"),
    ]
    placed = [one for multiplier in wanted for one in place(multiplier, ScaleFlow(graph))]
    rows = dict(plan.rows)
    for one in placed:
        for name, theta in one.factors.items():
            rows[name] = absorb(rows[name], theta, plan.optimizers[cls.__name__], one.why)
    return dataclasses.replace(plan, rows=rows, hooks=tuple(p.hook for p in placed if p.hook is not None))


def twins(shape: Shape, cls, options, *, branch: float = BRANCH) -> tuple[nn.Module, nn.Module, hpt.Plan]:
    """(model with explicit multipliers, the same function with them absorbed, the plan of the latter)."""
    explicit = seeded(Transformer, shape, logits=LOGITS, attention_factor=ATTENTION, branch=branch)
    with torch.no_grad():
        for n, p in explicit.named_parameters():  # gains and biases that are neither one nor zero
            if "norm" in n or n.endswith("bias"):
                p.add_(0.1 * torch.randn_like(p))
    twin = seeded(Transformer, shape)
    twin.load_state_dict(explicit.state_dict())
    plan = absorbed(twin, cls, options, branch=branch)
    hpt.parametrize_(twin, plan)
    return explicit, twin, plan


def assert_train_alike(explicit: nn.Module, twin: nn.Module, plan: hpt.Plan, cls, options, lr: float) -> None:
    data = batches("transformer", 1) * STEPS
    decay = options.get("weight_decay", 0.0)
    others = {k: v for k, v in options.items() if k not in {"weight_decay", "eps"}}
    expected = losses(explicit, cls(explicit.parameters(), lr=lr, **options), data)
    found = losses(twin, cls(hpt.param_groups(twin, plan, lr=lr, weight_decay=decay), lr=lr, **others), data)
    assert expected[0] - expected[-1] > 0.01  # it trains
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


QUICK = [*((shape, "adamw, decay") for shape in sorted(SHAPES)), *(("tied", opt) for opt in sorted(OPTIMIZERS)[1:])]
ALL = [(shape, optimizer) for shape in sorted(SHAPES) for optimizer in sorted(OPTIMIZERS)]


@pytest.mark.parametrize(
    ("shape", "optimizer"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in ALL],
)
def test_absorbed_twin_trains_as_the_model_with_multipliers(shape: str, optimizer: str) -> None:
    cls, options, lr = OPTIMIZERS[optimizer]
    explicit, twin, plan = twins(SHAPES[shape], cls, options)
    assert not plan.hooks  # the forward is untouched
    assert_train_alike(explicit, twin, plan, cls, options, lr)


@pytest.mark.parametrize("optimizer", ["momentum and decay", "adamw, decay"])
@pytest.mark.parametrize("norm", ["layer-plain", "rms-plain", "rms-1+w"])
def test_a_hook_does_it_where_no_parameter_can(norm: str, optimizer: str) -> None:
    cls, options, lr = OPTIMIZERS[optimizer]
    explicit, twin, plan = twins(Shape(8, norm=norm, tied=True), cls, options)
    assert [(h.module, h.where, h.factor) for h in plan.hooks] == [("norm", "output", LOGITS)]
    assert_train_alike(explicit, twin, plan, cls, options, lr)


def test_hooks_survive_deepcopy_pickle_and_compile(tmp_path) -> None:
    cls, options, _ = OPTIMIZERS["adamw, decay"]
    explicit, twin, _ = twins(Shape(8, norm="rms-plain", tied=True), cls, options)
    x = batches("transformer", 1)[0][0]
    expected = explicit(x)
    torch.save(twin, tmp_path / "model.pt")
    for copied in (copy.deepcopy(twin), torch.load(tmp_path / "model.pt", weights_only=False)):
        torch.testing.assert_close(copied(x), expected, rtol=1e-12, atol=1e-14)
    compiled = torch.compile(twin, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-12, atol=1e-14)


def test_twice_called_with_hooks_is_refused_before_anything_changes() -> None:
    cls, options, _ = OPTIMIZERS["sgd"]
    _, twin, plan = twins(Shape(8, norm="rms-plain", tied=True), cls, options)
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(hpt.UsageError, match="'norm' already carries this plan's multiplier: parametrize_ was called"):
        hpt.parametrize_(twin, plan)
    assert all(torch.equal(before[k], v) for k, v in twin.state_dict().items())


class Gate(nn.Module):
    """A module that takes keywords, for the pre-hook on an input."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, *, x: torch.Tensor, use: bool = True) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight)


class Tied(nn.Module):
    """A head tied to the embedding, behind no module of its own but its own input."""

    def __init__(self, width: int, twice: bool = False) -> None:
        super().__init__()
        self.wte, self.twice = nn.Embedding(17, width), twice
        self.hidden = nn.Linear(width, width)
        self.head = Gate(self.wte.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.hidden(self.wte(tokens)))
        return self.head(x=x) + (self.head(x=x * x) if self.twice else 0)


def test_a_pre_hook_finds_an_input_that_is_passed_by_keyword() -> None:
    model, tokens = seeded(Tied, 16), torch.arange(6)[None]
    plan = hpt.make_plan(model, base=seeded(Tied, 8), example_inputs=(tokens,))
    assert [(h.module, h.where, h.factor) for h in plan.hooks] == [("head", "input", 0.5)]
    before = model(tokens)
    hpt.parametrize_(model, plan, init=False)
    torch.testing.assert_close(model(tokens), before / 2)


def test_a_module_that_runs_twice_is_not_hooked() -> None:
    """A hook on it would multiply both calls; and a multiplier without a place is refused, or noted when asked."""
    models = seeded(Tied, 16, twice=True), seeded(Tied, 8, twice=True)
    given = {"base": models[1], "example_inputs": (torch.arange(6)[None],)}
    with pytest.raises(hpt.UsageError, match=r"has no place: tied readout wte.weight.*Options\(unplaced='note'\)"):
        hpt.make_plan(models[0], **given)
    plan = hpt.make_plan(models[0], **given, options=hpt.Options(unplaced="note"))
    assert not plan.hooks and sum(note.startswith("NOT APPLIED: tied readout") for note in plan.notes) == 2
