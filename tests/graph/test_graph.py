"""Tracing an unmodified model: nothing runs, regions are inlined, names and values are what the model says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import module_path, shape, template
from hptransfer.graph.ops import op
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, Shape, Transformer, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)


def ops(model: nn.Module, *inputs: Tensor) -> list[str]:
    return [op(node) for node in trace(model, inputs).nodes if node.op == "call_function"]


def test_a_meta_model_gives_the_graph_of_the_real_one() -> None:
    real = trace(seeded(Transformer, Shape(8)), (TOKENS,))
    with torch.device("meta"):
        meta = trace(Transformer(Shape(8)), (TOKENS,))
    assert [(op(a), shape(a)) for a in real.nodes] == [(op(b), shape(b)) for b in meta.nodes]
    assert list(real.parameters) == list(meta.parameters)


def test_the_model_is_left_as_it_was() -> None:
    model = seeded(Transformer, Shape(8)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.norm.train()
    modes = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        trace(model, (TOKENS,))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Regions(nn.Module):
    """The same layer under no_grad, autocast and checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x) + 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.a(x)
        return y + z + checkpoint(self.a, x, use_reentrant=False)


def test_sub_regions_are_inlined_and_repeated_modules_known() -> None:
    graph = trace(Regions(), (torch.randn(2, 4),))
    assert [op(n) for n in graph.nodes if n.op == "call_function"].count("linear") == 3
    assert graph.called_again == {"a"}
    assert trace(nn.Sequential(nn.Linear(4, 4)), (torch.randn(2, 4),)).called_again == frozenset()


def test_tied_parameters_stand_under_their_first_name() -> None:
    graph = trace(seeded(Transformer, Shape(8, tied=True)), (TOKENS,))
    assert graph.aliases == {"head.weight": "wte.weight"}
    assert "wte.weight" in graph.parameters and "head.weight" not in graph.parameters


def test_module_paths_are_the_model_s_own() -> None:
    graph = trace(seeded(Transformer, Shape(8, depth=2)), (TOKENS,))
    assert {module_path(n) for n in graph.nodes if op(n) == "gelu"} == {"blocks.0", "blocks.1"}
    assert {module_path(n) for n in graph.nodes if op(n) == "embedding"} == {"wte"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("layers.3.mlp.down.weight", "layers.*.mlp.down.weight"), ("conv1.weight", "conv1.weight"), ("0.1.w2", "*.*.w2")],
)
def test_templates_take_out_indices_only(name: str, shown: str) -> None:
    assert template(name) == shown


def test_inputs_named_like_buffers_are_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b_mask", torch.ones(4))

        def forward(self, b_x: Tensor, c_y: Tensor) -> Tensor:
            return b_x * c_y * self.b_mask

    graph = trace(Net(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert sorted(node.name for node in graph.inputs) == ["b_x", "c_y"]


class Scaled(nn.Module):
    """One multiplication by sqrt(7), kept in many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a = nn.Linear(4, 4, bias=False)
        self.register_buffer("kept", torch.tensor(7.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return {
            "float": lambda: x * math.sqrt(7),
            "division": lambda: x / 7**-0.5,
            "right factor": lambda: math.sqrt(7) * x,
            "tensor in forward": lambda: x * torch.tensor(7**0.5),
            "cast": lambda: x * torch.tensor(7**0.5).to(x.dtype),
            "full": lambda: x / torch.full([], 7**-0.5, dtype=x.dtype, device=x.device),
            "computed": lambda: x * torch.sqrt(torch.tensor(7.0)),
            "buffer": lambda: x * self.kept.sqrt(),
            "on the weight": lambda: nn.functional.linear(x, self.a.weight * 7**0.5),
        }[self.how]()


HOW = ["float", "division", "right factor", "tensor in forward", "cast", "full", "computed", "buffer", "on the weight"]


@pytest.mark.parametrize("how", HOW)
def test_a_constant_is_found_wherever_it_is_kept(how: str) -> None:
    (found,) = constants(trace(Scaled(how), (torch.randn(2, 4),)))
    assert found.value == pytest.approx(7**0.5) and not found.unread


@pytest.mark.parametrize("how", [h for h in HOW if h != "buffer"])
def test_on_meta_everything_but_buffers_is_found(how: str) -> None:
    with torch.device("meta"):
        model = Scaled(how)
    (found,) = constants(trace(model, (torch.randn(2, 4),)))
    assert found.value == pytest.approx(7**0.5)


def test_a_buffer_on_meta_is_named() -> None:
    with torch.device("meta"):
        model = Scaled("buffer")
    (found,) = constants(trace(model, (torch.randn(2, 4),)))
    assert (found.value, found.unread) == (None, "kept")


def test_random_factors_and_constants_among_themselves_are_no_constants() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            angles = torch.arange(4) / 4 * 2.0
            return x * torch.rand(()) + angles

    assert constants(trace(Net(), (torch.randn(2, 4),))) == []


def test_what_cannot_be_traced_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match=r"^Linear could not be traced with these example inputs \("):
        trace(nn.Linear(4, 4), (torch.randn(2, 5),))
