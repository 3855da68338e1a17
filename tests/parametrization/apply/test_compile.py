"""torch.compile sees the same model with and without a plan: as many graphs, no breaks, no recompiles."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch's own

TOKENS = torch.arange(32).reshape(4, 8) * 7 % 11


class Block(nn.Module):
    """One attention block on token ids; a tied head with no norm before it, so that its multiplier needs a hook."""

    def __init__(self, width: int, tied: bool) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Embedding(11, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(torch.tanh(x + self.out(attended.transpose(1, 2).flatten(2))))


class Counter:
    """A compiler backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs: list[int] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]):
        self.graphs.append(len(list(module.graph.nodes)))
        return module.forward


def pair(tied: bool) -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    model = Block(64, tied)
    return model, hpt.make_plan(model, base=Block(16, tied), example_inputs=(TOKENS,))


def losses(model, params, steps: int = 4) -> list[float]:
    """Compiled forward and backward in training, then in eval."""
    opt = torch.optim.AdamW(params, lr=1e-2)
    found = []
    for t in range(steps):
        model.train(t < steps - 1)
        loss = F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        found.append(float(loss.detach()))
    return found


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("tied", [False, True], ids=["absorbed", "hook"])
def test_as_many_graphs_with_the_plan_as_without(tied):
    model, plan = pair(tied)
    assert bool(plan.hooks) == tied
    planned = copy.deepcopy(model)
    hpt.parametrize_(planned, plan)
    graphs = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for module, params in ((model, model.parameters()), (planned, hpt.param_groups(planned, plan, lr=1e-2))):
            torch._dynamo.reset()
            counter = Counter()
            losses(torch.compile(module, backend=counter, fullgraph=True), params)
            graphs.append(counter.graphs)
    plain, own = graphs
    assert len(own) == len(plain) == 1
    if not tied:
        assert own == plain  # absorbed: node for node the same graph


@pytest.mark.parametrize("tied", [False, True], ids=["absorbed", "hook"])
@pytest.mark.parametrize("before", [False, True], ids=["plan then compile", "compile then plan"])
def test_compiled_training_is_plain_training(tied, before):
    model, plan = pair(tied)
    twin = copy.deepcopy(model)
    hpt.parametrize_(twin, plan)
    plain = losses(twin, hpt.param_groups(twin, plan, lr=1e-2))
    if before:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        hpt.parametrize_(compiled, plan)  # before the first call
    else:
        hpt.parametrize_(model, plan)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert losses(compiled, hpt.param_groups(compiled, plan, lr=1e-2)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow  # runs a C++ compiler
def test_the_default_backend_takes_it_too():
    model, plan = pair(tied=True)
    twin = copy.deepcopy(model)
    for m in (model, twin):
        hpt.parametrize_(m, plan)
    plain = losses(twin, hpt.param_groups(twin, plan, lr=1e-2), 2)
    assert losses(torch.compile(model, fullgraph=True), hpt.param_groups(model, plan, lr=1e-2), 2) == pytest.approx(
        plain, rel=1e-4
    )


def test_a_compiled_optimizer_step_is_compiled_once_while_a_schedule_runs():
    """A tensor lr: as torch asks for; the guard on the multipliers neither breaks the graph nor specialises it."""
    model, plan = pair(tied=False)
    model.double()  # a key bias has no gradient but rounding noise, which Adam would blow up in float32
    hpt.parametrize_(model, plan)
    twin = copy.deepcopy(model)
    counter = Counter()
    ends = []
    for module, backend in ((twin, None), (model, counter)):
        opt = torch.optim.AdamW(hpt.param_groups(module, plan, lr=torch.tensor(1e-2)), lr=torch.tensor(1e-2))
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)
        step = opt.step if backend is None else torch.compile(opt.step, backend=backend, fullgraph=False)
        for _ in range(4):
            opt.zero_grad()
            F.cross_entropy(module(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten()).backward()
            step()
            schedule.step()
        ends.append([p.detach() for p in module.parameters()])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-6)  # lr tensors are float32
    assert len(counter.graphs) == len(set(counter.graphs)), counter.graphs  # no graph is compiled twice


def test_the_plain_step_stays_guarded():
    model, plan = pair(tied=False)
    opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": torch.tensor(1e-2)}})
    for group in opt.param_groups:
        group["lr"].fill_(1e-2)
    with pytest.raises(hpt.UsageError, match="something overwrote the plan's multipliers"):
        opt.step()


def test_a_plan_in_multiplier_form_compiles_fullgraph():
    model, plan = pair(tied=False)
    hpt.parametrize_(model, plan.as_multipliers())
    counter = Counter()
    losses(
        torch.compile(model, backend=counter, fullgraph=True), hpt.param_groups(model, plan.as_multipliers(), lr=1e-2)
    )
    assert len(counter.graphs) == 1
