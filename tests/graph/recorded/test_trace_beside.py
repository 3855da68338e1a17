"""Entries of a ModuleList that the example inputs did not reach: traced beside their like, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.graph.readings.streams import residual_streams
from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT

TOKENS = torch.arange(2 * CONTEXT).view(2, CONTEXT) % 17


def plan_of(build: Callable[[int], nn.Module], inputs: tuple[Tensor, ...], **options: str) -> hpt.Plan:
    torch.manual_seed(0)
    base = build(8)
    return hpt.make_plan(build(32), base=base, example_inputs=inputs, **options)  # type: ignore[arg-type]


class Experts(nn.Module):
    """A residual block of routed experts. routed: only those that tokens chose run; else all, masked."""

    def __init__(self, width: int, *, routed: bool, count: int = 4, named: bool = False) -> None:
        super().__init__()
        self.routed = routed
        self.embed, self.norm = nn.Embedding(17, width), nn.LayerNorm(width)
        self.router, self.head = nn.Linear(width, count, bias=False), nn.Linear(width, 17, bias=False)
        experts = [nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(count)]
        named_experts = {f"expert_{i}": expert for i, expert in enumerate(experts)}
        self.experts = nn.ModuleDict(named_experts) if named else nn.ModuleList(experts)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).flatten(0, 1)
        y = self.norm(x)
        weights, chosen = self.router(y).softmax(-1).max(-1)
        modules = list(self.experts.values() if isinstance(self.experts, nn.ModuleDict) else self.experts)
        out = torch.zeros_like(x)
        for i, expert in enumerate(modules):
            rows = (chosen == i).nonzero()[:, 0] if self.routed else torch.arange(x.shape[0])
            if self.routed and not len(rows):
                continue
            own = weights[rows] if self.routed else torch.where(chosen == i, weights, 0.0)
            out.index_add_(0, rows, expert(y[rows] if self.routed else y) * own[:, None])
        return self.head(x + out)


@pytest.mark.parametrize("named", [False, True])
def test_experts_that_no_token_reached_get_their_siblings_rows(named: bool) -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)  # one token reaches one expert of four
    plan = plan_of(lambda width: Experts(width, routed=True, named=named), (one,))
    rows = {name: (r.role, r.init_mult, r.lr_mult, r.eps_mult) for name, r in plan.rows.items()}
    for layer in ("0.weight", "0.bias", "2.weight", "2.bias"):
        own = {row for name, row in rows.items() if "experts" in name and name.endswith(layer)}
        assert len(own) == 1 and {role for role, *_ in own} == {"hidden" if "weight" in layer else "vector"}
    assert any("3 modules that the example inputs did not reach" in note for note in plan.notes)


def test_routed_experts_plan_as_experts_that_all_run() -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    routed = plan_of(lambda width: Experts(width, routed=True), (one,), scheme="completep")
    assert routed.rows == plan_of(lambda width: Experts(width, routed=False), (TOKENS,), scheme="completep").rows


def test_what_was_written_in_place_is_read_afterwards() -> None:
    graph = recorded_graph(Experts(8, routed=True), (TOKENS,), {})
    (branch,) = residual_streams(graph).branches
    assert {f"experts.{i}.2.weight" for i in range(4)} <= branch.parameters


class Skipping(nn.Module):
    """Residual layers, one of which the data skips."""

    def __init__(self, width: int, *, inside: bool) -> None:
        super().__init__()
        self.inside, self.embed, self.head = inside, nn.Embedding(17, width), nn.Linear(width, 17)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for i, layer in enumerate(self.layers):
            if i != 1 or x.sum() > 1e9:
                x = x + torch.relu(layer(x)) if self.inside else torch.relu(layer(x))
        return self.head(x)


def test_a_skipped_residual_layer_is_refused_since_depth_counts() -> None:
    with pytest.raises(UsageError, match=r"layer 'layers.1' did not run, .* turn layer dropping off"):
        trace(Skipping(8, inside=True), (TOKENS,))
    plan = plan_of(lambda width: Skipping(width, inside=False), (TOKENS,))
    assert plan["layers.1.weight"].lr_mult == plan["layers.0.weight"].lr_mult == 1 / 4


class Projections(nn.Module):
    """Query, key and value in one list; the value is not reached."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, width), nn.Linear(width, 17)
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k = self.projections[0](x), self.projections[1](x)
        v = self.projections[2](x) if x.sum() > 1e9 else x
        return self.head((q @ k.transpose(-1, -2) / math.sqrt(x.shape[-1])).softmax(-1) @ v)


def test_an_entry_whose_siblings_stand_in_different_places_is_refused_by_name() -> None:
    shown = r"'projections.2' did not run, .*'projections.0' \(matmul 0\) and 'projections.1' \(matmul 1\)"
    with pytest.raises(UsageError, match=shown):
        trace(Projections(8), (TOKENS,))


class Cut(nn.Module):
    """Only expert 0 runs, and the code's way afterwards depends on what it returned: values must stay its own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.extra = nn.Linear(4, 4)
        for expert, size in zip(self.experts, (0.0, 1.0, 1.0), strict=True):
            nn.init.zeros_(expert.weight)  # type: ignore[arg-type]
            nn.init.constant_(expert.bias, size)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.experts[0](x)
        return y if float(y.abs().sum()) == 0 else self.extra(y)


def test_the_values_are_those_of_the_entry_that_was_reached() -> None:
    graph = recorded_graph(Cut(), (torch.zeros(2, 4),), {})
    used = {name for name, node in graph.parameters.items() if node.users}
    assert used == {f"experts.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}


def test_notes_of_unreached_entries_come_in_the_model_s_order() -> None:
    graph = trace(Experts(8, routed=True, count=9), (torch.zeros(1, 1, dtype=torch.int64),))
    (note,) = [note for note in graph.notes if "did not reach" in note]
    (twin,) = {part.split(" beside ")[1] for part in note.split(": ")[1].split(", ")}
    unreached = [f"experts.{i}" for i in range(9) if f"experts.{i}" != twin]
    assert note.split(": ")[1] == ", ".join(f"{path} beside {twin}" for path in unreached[:3])
