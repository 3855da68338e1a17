"""Models that torch.export cannot trace: run and recorded, they give the graph and the plan that an export would."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from cases_models import CONTEXT, MLP, PIXELS, Shape, Transformer, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from versions import traces_writes

import hptransfer as hpt
from hptransfer.core import trace as tracing
from hptransfer.core import trace_copy
from hptransfer.core.constants import constants
from hptransfer.core.errors import UsageError
from hptransfer.core.graph import Graph, module_path, op, shape
from hptransfer.core.trace import trace
from hptransfer.core.trace_run import recorded_graph
from hptransfer.parametrization.oracle import verify_plan

TOKENS = torch.arange(2 * CONTEXT).view(2, CONTEXT) % 17
ROWS = torch.randn(6, PIXELS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("no export in this test")

    monkeypatch.setattr(tracing, "exported_program", refuse)


def calls(graph: Graph) -> list[tuple[str, tuple[int, ...], str]]:
    return [(op(node), shape(node), module_path(node)) for node in graph.nodes if node.op == "call_function"]


def plan_of(build: Callable[[int], nn.Module], inputs: Any, **options: Any) -> hpt.Plan:
    torch.manual_seed(0)
    base = build(8)
    return hpt.make_plan(build(32), base=base, example_inputs=inputs, **options)


# The same graph and the same plan as by export


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


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
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


# Control flow that depends on data


class Branching(nn.Module):
    """Two hidden layers; `free` writes the same computation without looking at the data."""

    def __init__(self, width: int, how: str, *, free: bool) -> None:
        super().__init__()
        self.how, self.free = how, free
        self.first, self.hidden, self.last = nn.Linear(PIXELS, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(torch.relu(self.first(x)))
        return self.last(x if self.free else getattr(self, self.how)(x))

    def branch(self, x: Tensor) -> Tensor:
        return x if x.square().sum() > 0 else -self.hidden(x)

    def item(self, x: Tensor) -> Tensor:
        return x if x.abs().max().item() < 1e9 else x.clamp(-1e9, 1e9)

    def numpy(self, x: Tensor) -> Tensor:
        order = torch.from_numpy(np.argsort(x.detach().numpy().sum(-1)))
        return x[order]

    def tolist(self, x: Tensor) -> Tensor:
        return torch.stack([x[i] for i in x.sum(-1).argsort().tolist()])

    def nonzero(self, x: Tensor) -> Tensor:
        return x[(x.sum(-1) > x.sum(-1).mean()).nonzero()[:, 0]]


@pytest.mark.parametrize("how", ["branch", "item", "numpy", "tolist", "nonzero"])
def test_control_flow_on_data_plans_as_the_code_without_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = plan_of(lambda width: Branching(width, how, free=True), (ROWS,))
    if how in {"tolist", "nonzero"}:  # some versions of torch.export can
        monkeypatch.setattr(tracing, "exported_program", lambda *args: 1 / 0)
    plan = plan_of(lambda width: Branching(width, how, free=False), (ROWS,))
    assert plan.rows == free.rows
    assert "Branching, so a copy of it was run and recorded" in plan.notes[0]


@pytest.mark.parametrize(
    "write",
    [
        lambda out, y: out.add_(y),
        lambda out, y: out[:1].copy_(y[:1]),
        lambda out, y: out.view(-1)[2:].mul_(y.view(-1)[2:]),
        lambda out, y: out.t().index_add_(0, torch.tensor([0]), y.t()[:1]),
    ],
)
@pytest.mark.parametrize("traced", [trace, lambda model, args: recorded_graph(model, args, {})])
def test_readers_of_a_tensor_and_its_views_depend_on_every_write(
    write: Callable[[Tensor, Tensor], Tensor], traced: Callable[..., Graph]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            out = x * 2
            view = out.view(-1)
            before = out + 0
            write(out, self.a(x))
            return before, view + 0, out + 0

    graph = traced(Net(), (torch.randn(3, 4),))
    made = set(graph.parameters.values())
    for node in graph.nodes:
        made |= {node} if any(parent in made for parent in node.all_input_nodes) else set()
    before, view, out = graph.nodes[-1].args[0]  # type: ignore[misc]
    assert before not in made and out in made
    assert (view in made) == (write.__code__.co_names[0] in {"add_"})


class ReadFactor(nn.Module):
    """x times a number that is read off the data: `through` Python or not."""

    def __init__(self, width: int, *, through: bool) -> None:
        super().__init__()
        self.through = through
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        largest = x.detach().abs().max()
        return self.last(x / (math.sqrt(largest.item()) if self.through else largest.sqrt()) * math.sqrt(x.shape[-1]))


def test_numbers_read_off_the_data_are_no_constants() -> None:
    plan = plan_of(lambda width: ReadFactor(width, through=True), (ROWS,))
    assert plan.rows == plan_of(lambda width: ReadFactor(width, through=False), (ROWS,)).rows
    assert any("factors read off the data" in note for note in plan.notes)
    assert [c.value for c in constants(recorded_graph(ReadFactor(9, through=True), (ROWS,), {}))] == [3.0]


def test_weights_that_do_not_suit_the_model_are_drawn_anew() -> None:
    runs: list[float] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            runs.append(float(self.a.weight.sum()))
            if len(runs) == 2:
                raise ValueError("not with these weights")
            return self.a(x) * float(self.a(x).abs().max())

    graph = recorded_graph(Net(), (torch.randn(2, 4),), {})
    assert len(set(runs)) == len(runs) == 4
    assert constants(graph) == []


def test_a_parameter_s_data_is_the_parameter() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.first(x), self.last.weight.data)

    graph = recorded_graph(Net(8), (ROWS,), {})
    assert [op(user) for user in graph.parameters["last.weight"].users] == ["detach"]


# On meta


def test_a_meta_model_is_given_values_on_the_cpu() -> None:
    build = lambda width: Branching(width, "branch", free=False)  # noqa: E731
    torch.manual_seed(0)
    base = build(8)
    real = hpt.make_plan(build(32), base=base, example_inputs=(ROWS,))
    with torch.device("meta"):
        target = build(32)
    plan = hpt.make_plan(target, base=base, example_inputs=(ROWS.to("meta"),))
    assert plan.rows == real.rows
    assert all(p.device.type == "meta" for p in target.parameters())


def test_a_model_too_large_to_copy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_copy, "COPY_LIMIT", 100)
    with pytest.raises(UsageError, match=r"could not be traced .*data-dependent.* take 0.0 GiB, and a model is copied"):
        trace(Branching(8, "branch", free=False), (ROWS,))


def test_a_number_read_off_a_meta_buffer_is_refused(no_export: None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * math.sqrt(self.factor.item())

    with torch.device("meta"):
        model = Net()
    with pytest.raises(UsageError, match="reads the value of buffer 'factor', which is on the meta device"):
        trace(model, (ROWS,))
    assert [c.value for c in constants(trace(Net(), (ROWS,)))] == [pytest.approx(3**0.5)]


# The model is left alone


class Stateful(nn.Module):
    """Changes everything that a forward pass can change, then fails where asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fail, self.seen = nn.BatchNorm1d(PIXELS), False, [0]
        self.drawn = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        self.drawn += random.random() + np.random.rand() + torch.rand(1)
        with torch.no_grad():
            self.norm.weight.mul_(2)
        x = x.mul_(self.drawn)
        if self.fail and x.sum() != 0:
            raise ValueError("asked to fail")
        return self.norm(x)


@traces_writes
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model, inputs = Stateful().eval(), ROWS.clone()
    model.norm.train()
    model.fail = fails
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    if fails:
        with pytest.raises(ValueError, match="asked to fail"):
            recorded_graph(model, (inputs,), {})
    else:
        recorded_graph(model, (inputs,), {})
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {n: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()} == hooks
    assert (model.training, model.norm.training, model.seen, float(model.drawn)) == (False, True, [0], 0.0)
    assert torch.equal(inputs, ROWS) and model.norm.weight.grad is None


def test_a_failed_export_leaves_no_trace_either(capfd: pytest.CaptureFixture[str]) -> None:
    model = Branching(8, "branch", free=False).eval()
    graph = trace(model, (ROWS,))
    assert graph.ran and not model.training
    assert capfd.readouterr() == ("", "")
    assert type(model(ROWS)) is Tensor


def test_attributes_set_by_the_forward_are_put_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.calls = nn.Linear(4, 4), 0
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.a(x)
            self.largest = torch.maximum(self.largest, self.last.detach().max())
            return self.last if self.last.sum() != 0 else x

    model = Net()
    graph = trace(model, (torch.randn(2, 4),))
    assert graph.ran and model.calls == 0 and not hasattr(model, "last") and model.largest == 0


def test_logits_written_into_a_band_in_place_are_attention_s() -> None:
    class Band(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(17, width), nn.Linear(width, 17)
            self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            product = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
            logits = torch.full_like(product, -torch.inf)
            logits[:, :, :2] = product[:, :, :2]
            logits[:, 2:, 2:] = product[:, 2:, 2:]
            return self.head(logits.softmax(-1) @ self.v(x)) if product.sum() != 0 else x

    plan = plan_of(Band, (TOKENS,))
    assert plan["k.weight"].lr_mult == pytest.approx(1 / 4 * (1 / 2) ** 0.5)
    assert any("logits x 0.5" in why for why in plan["q.weight"].why)
    assert len(plan.notes) == 1


# Errors


def test_both_reasons_and_the_annotation_are_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() != 0:
                raise KeyError("no such way")
            return self.a(x)

    with pytest.raises(
        UsageError, match=r"GuardOnDataDependent.*KeyError: 'no such way'.*roles=\{'name or glob': Role"
    ):
        trace(Net(), (torch.randn(2, 4),))


class Fork(nn.Module):
    """Multiplies by 1/2 in one branch and by the width in the other."""

    def __init__(self, width: int, *, left: bool, half: float = 0.5) -> None:
        super().__init__()
        self.left, self.half = left, half
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * self.half if (x.square().sum() > 0) == self.left else x.tanh() * x.shape[-1]
        return self.last(x * 3.0)


def test_other_branches_at_the_base_are_refused_where_constants_stand_in_them() -> None:
    base = Fork(8, left=False)
    with pytest.raises(UsageError, match="along different branches in the root module: their constants do not"):
        hpt.make_plan(Fork(32, left=True), base=base, example_inputs=(ROWS,))
    assert hpt.make_plan(Fork(32, left=True), base=Fork(8, left=True), example_inputs=(ROWS,)).rows


class Loop(nn.Module):
    """As many rounds of one constant as rows have a positive sum, then another constant."""

    def __init__(self, width: int, after: float, *, flip: bool) -> None:
        super().__init__()
        self.after, self.flip = after, flip
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        rounds = int((x.sum(-1) > 0).sum())
        x = self.first(x)
        for _ in range(len(x) - rounds if self.flip else rounds):
            x = x * 2.0
        return self.last(x * self.after)


def test_a_loop_run_more_often_must_not_shift_constants() -> None:
    inputs = (torch.tensor([[1.0] * PIXELS, [1.0] * PIXELS, [-1.0] * PIXELS]),)  # two rounds, or one
    with pytest.raises(UsageError, match="their constants do not correspond"):
        hpt.make_plan(Loop(32, 8.0, flip=False), base=Loop(8, 4.0, flip=True), example_inputs=inputs)
    torch.manual_seed(0)
    base = Loop(8, 2.0, flip=True)
    same = hpt.make_plan(Loop(32, 2.0, flip=False), base=base, example_inputs=inputs)
    assert same["first.weight"].init_mult == 1.0 and not same.hooks
    undone = hpt.make_plan(Loop(32, 8.0, flip=True), base=Loop(8, 4.0, flip=True), example_inputs=inputs)
    assert any("mul by 8 in the root module is 4 at the base" in why for row in undone for why in row.why)


def test_a_branch_that_base_or_target_alone_takes_is_refused_by_name() -> None:
    class Net(nn.Module):
        def __init__(self, width: int, left: bool) -> None:
            super().__init__()
            self.left, self.a, self.b = left, nn.Linear(PIXELS, width), nn.Linear(PIXELS, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if (x.square().sum() > 0) == self.left else self.b(x)

    with pytest.raises(UsageError, match=r"'a.weight' is used as .* of the base is not"):
        hpt.make_plan(Net(32, True), base=Net(8, False), example_inputs=(ROWS,))
    with pytest.raises(UsageError, match=r"'b.weight' is never used in the traced forward"):
        hpt.make_plan(Net(32, True), base=Net(8, True), example_inputs=(ROWS,))


# Roles alone


class Untraceable(MLP):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("cannot run here")


def test_roles_for_every_parameter_make_a_plan_without_a_trace() -> None:
    hidden, wide = hpt.Role("hidden", 32, 32, 8, 8), {"fan_out": 32, "base_fan_out": 8}
    roles = {
        "first.weight": hpt.Role("input", PIXELS, 32, PIXELS, 8),
        "hidden.weight": hidden,
        "last.weight": hpt.Role("readout", 32, 5, 8, 5),
        "last.bias": hpt.Role("scalar", 1, 5, 1, 5),
        "*.bias": hpt.Role("vector", **wide),
    }
    torch.manual_seed(0)
    base = Untraceable(8)
    plan = hpt.make_plan(Untraceable(32), base=base, example_inputs=(ROWS,), roles=roles)
    traced = hpt.make_plan(MLP(32), base=_as_mlp(base), example_inputs=(ROWS,))
    for row in traced:
        assert (plan[row.name].role, plan[row.name].lr_mult) == (row.role, row.lr_mult)
    assert plan.notes[0].startswith("no trace, every role is given") and "cannot run here" in plan.notes[0]
    with pytest.raises(UsageError, match="could not be traced"):
        hpt.make_plan(Untraceable(32), base=base, example_inputs=(ROWS,), roles={"first.*": hidden})


def _as_mlp(model: nn.Module) -> nn.Module:
    twin = MLP(8)
    twin.load_state_dict(model.state_dict())
    return twin


def test_seeded_models_in_double_precision_are_recorded_too() -> None:
    graph = recorded_graph(seeded(Transformer, Shape(8)), (TOKENS,), {})
    assert all(node.meta["val"].dtype == torch.float64 for node in graph.parameters.values())


# Unmodified models of transformers that torch.export cannot trace


def _longformer(width: int) -> nn.Module:
    from transformers import LongformerConfig, LongformerForMaskedLM

    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_hidden_layers": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    own = {"vocab_size": 40, "attention_window": 4, "max_position_embeddings": 34, "pad_token_id": 0}
    return LongformerForMaskedLM(LongformerConfig(**sizes, **dropout, **own))


def _switch(width: int) -> nn.Module:
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width, "num_heads": 4, "num_layers": 2}
    own = {"vocab_size": 40, "dropout_rate": 0.0, "num_experts": 4, "expert_capacity": 48, "router_jitter_noise": 0.0}
    sparse = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2}
    config = SwitchTransformersConfig(**sizes, **own, **sparse, decoder_start_token_id=0, use_cache=False)
    return SwitchTransformersForConditionalGeneration(config)


def _nllb_moe(width: int) -> nn.Module:
    from transformers import NllbMoeConfig, NllbMoeForConditionalGeneration

    both = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 2 * width, "sparse_step": 2}.items()
    }
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "moe_token_dropout": 0.0}
    layerdrop = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    own = {"vocab_size": 40, "d_model": width, "num_experts": 4, "expert_capacity": 48, "max_position_embeddings": 32}
    return NllbMoeForConditionalGeneration(NllbMoeConfig(**both, **dropout, **layerdrop, **own, use_cache=False))


def _text(global_attention: bool = False, pair: bool = False) -> dict[str, Tensor]:
    tokens = torch.randint(4, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    first = torch.zeros_like(tokens)
    first[:, 0] = 1
    more = {"decoder_input_ids": tokens.flip(0)} if pair else {}
    return {"input_ids": tokens, **more, **({"global_attention_mask": first} if global_attention else {})}


UNTRACEABLE: Mapping[str, tuple[Callable[[int], nn.Module], dict[str, Tensor]]] = {
    "longformer": (_longformer, _text(global_attention=True)),
    "switch": (_switch, _text(pair=True)),
    "nllb-moe": (_nllb_moe, _text(pair=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRACEABLE)
def test_untraceable_transformers_are_planned_whole(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    build, inputs = UNTRACEABLE[name]
    torch.manual_seed(0)
    base = build(32)
    plan = hpt.make_plan(build(64), base=base, example_inputs=inputs)
    assert "unused" not in {row.role for row in plan}
    experts = {row.name.split(".")[-2]: set() for row in plan if "expert_" in row.name}
    for row in plan:
        if "expert_" in row.name and row.name.endswith("weight"):
            experts[row.name.split(".")[-2]].add((row.role, row.init_mult, row.lr_mult))
    assert all(len(rows) == 1 for rows in experts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRACEABLE)
def test_the_oracle_agrees_on_untraceable_transformers(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    build, inputs = UNTRACEABLE[name]
    report = verify_plan(build, widths=(64, 128, 256), example_inputs=inputs, base=64)
    assert report.verdict == "PASS", report.reasons
    assert all("expert_" in unseen for unseen in report.unseen)
