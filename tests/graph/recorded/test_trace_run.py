"""Models that torch.export cannot trace: run and recorded, they give the graph and the plan that an export would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hptransfer.graph import trace as tracing
from hptransfer.graph.graph import Graph, module_path, shape
from hptransfer.graph.ops import op
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace
from tests.cases.models import MLP, PIXELS, Shape, Transformer, seeded
from tests.cases.traces import IMAGES, ROWS, TOKENS, plan_of


def calls(graph: Graph) -> list[tuple[str, tuple[int, ...], str]]:
    return [(op(node), shape(node), module_path(node)) for node in graph.nodes if node.op == "call_function"]


class Regions(nn.Module):
    """One layer under no_grad, autocast and both kinds of checkpointing; a constant in a tensor and one in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("seven", torch.tensor(7.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x) + 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.a(x)
        z = y * self.seven + z * torch.tensor(3.0)
        return checkpoint(self.a, z, use_reentrant=False)


class ConvBatchNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.hidden, self.last = nn.Conv2d(width, width, 3), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.hidden(F.relu(self.norm(self.first(x))))).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM keeps its weights in a list beside the registered ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(PIXELS, width, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TorchTransformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, width), nn.Linear(width, 17)
        self.body = nn.Transformer(width, 2, 1, 1, 2 * width, dropout=0.0, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.body(x, x))


def gpt(width: int) -> nn.Module:
    return Transformer(Shape(width, depth=2, tied=True, fused_qkv=True, norm="rms", embed_scale="buffer"))


def hf(model: str, config: str, **extra: Any) -> Callable[[int], nn.Module]:
    def build(width: int) -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "vocab_size": 17}
        sizes |= {"num_key_value_heads": 2, "num_hidden_layers": 1, "pad_token_id": 0, "use_cache": False}
        return getattr(transformers, model)(getattr(transformers, config)(**sizes, **extra))

    return build


TRACEABLE: Mapping[str, tuple[Callable[[int], nn.Module], Any]] = {
    "mlp": (MLP, (ROWS,)),
    "conv, batch norm": (ConvBatchNorm, (IMAGES,)),
    "lstm": (Recurrent, (ROWS[None],)),
    "nn.Transformer": (TorchTransformer, (TOKENS,)),
    "tied gpt": (gpt, (TOKENS,)),
    "llama": (hf("LlamaForCausalLM", "LlamaConfig"), {"input_ids": TOKENS}),
    "mixtral": (hf("MixtralForCausalLM", "MixtralConfig", num_local_experts=4), {"input_ids": TOKENS}),
}


@pytest.mark.parametrize("name", TRACEABLE)
def test_the_plan_is_the_exported_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = plan_of(*TRACEABLE[name])
    monkeypatch.setattr(tracing, "exported_program", lambda *args: 1 / 0)
    ran = plan_of(*TRACEABLE[name])
    assert ran.rows == exported.rows and ran.hooks == exported.hooks and ran.aliases == exported.aliases
    assert [note for note in ran.notes if "was run and recorded" not in note] == list(exported.notes)


@pytest.mark.parametrize("build", [lambda: gpt(8), lambda: Transformer(Shape(8, attention="eager"))])
def test_the_graph_is_the_exported_one(build: Callable[[], nn.Module]) -> None:
    model = build()
    ran, exported = recorded_graph(model, (TOKENS,), {}), trace(model, (TOKENS,))
    assert calls(ran) == calls(exported)
    assert list(ran.parameters) == list(exported.parameters) and ran.aliases == exported.aliases
    assert sorted(ran.values.values()) == sorted(exported.values.values())
    assert len(ran.inputs) == 1 and ran.ran and not exported.ran


def test_regions_are_inlined_and_repeated_modules_known() -> None:
    graph = recorded_graph(Regions(), (torch.randn(2, 4),), {})
    assert [kind for kind, _, _ in calls(graph)].count("linear") == 3
    assert graph.called_again == {"a"}
    assert {c.value for c in constants(graph)} == {7.0, 3.0}


def test_custom_functions_are_seen_through() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            return F.linear(x, weight) * 2

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return None, None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(Double.apply, x, self.weight, use_reentrant=True)

    graph = recorded_graph(Net(), (torch.randn(2, 4),), {})
    assert [kind for kind, _, _ in calls(graph) if kind != "detach"] == ["linear", "mul"]
    assert [op(user) for user in graph.parameters["weight"].users] == ["linear"]


def test_compiled_functions_and_modules_are_run_as_written() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.compile(nn.Linear(4, 4), backend="eager"), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.compile(self.b, backend="eager")(self.a(x))
            return x if x.sum() != 0 else -x

    graph = trace(Net(), (torch.randn(2, 4),))
    assert [kind for kind, _, _ in calls(graph)] == ["linear", "linear"]


def test_a_parameter_s_data_is_the_parameter() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.first(x), self.last.weight.data)

    graph = recorded_graph(Net(8), (ROWS,), {})
    assert [op(user) for user in graph.parameters["last.weight"].users] == ["detach"]


def test_seeded_models_in_double_precision_are_recorded_too() -> None:
    graph = recorded_graph(seeded(Transformer, Shape(8)), (TOKENS,), {})
    assert all(node.meta["val"].dtype == torch.float64 for node in graph.parameters.values())
