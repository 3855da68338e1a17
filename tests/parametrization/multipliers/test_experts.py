"""More experts: every spelling of a mixture asks for the same, and copies of one expert train as that expert alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.parametrization.row import Row

WIDTH, VOCABULARY = 16, 24


class Mixture(nn.Module):
    """k of `experts` alike two-layer networks for every token; their shares sum to one where `normed`."""

    def __init__(self, experts: int, active: int, hidden: int, *, normed: bool = True) -> None:
        super().__init__()
        self.active, self.normed = active, normed
        self.router = nn.Linear(WIDTH, experts, bias=False)

    def routed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(shares, experts) of every token, [..., active]."""
        shares, chosen = self.router(x).softmax(-1).topk(self.active, -1)
        return shares / shares.sum(-1, keepdim=True) if self.normed else shares, chosen

    def gates(self, x: Tensor) -> Tensor:
        """The shares at their experts' places, zero elsewhere."""
        shares, chosen = self.routed(x)
        return torch.zeros(*x.shape[:-1], self.router.out_features).scatter(-1, chosen, shares)


class Stacked(Mixture):
    """Three-dimensional weights."""

    def __init__(self, experts: int, active: int, hidden: int, **choices: bool) -> None:
        super().__init__(experts, active, hidden, **choices)
        self.up = nn.Parameter(torch.randn(experts, WIDTH, hidden) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, WIDTH) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.gelu(torch.einsum("btn,enh->bteh", x, self.up))
        return torch.einsum("bte,bten->btn", self.gates(x), torch.einsum("bteh,ehn->bten", inside, self.down))


class Contracted(Stacked):
    """The shares on what the last weight reads, which contracts the experts' axis as well."""

    def forward(self, x: Tensor) -> Tensor:
        inside = F.gelu(torch.einsum("btn,enh->bteh", x, self.up)) * self.gates(x)[..., None]
        return torch.einsum("bteh,ehn->btn", inside, self.down)


class Masked(Stacked):
    """A softmax over the chosen scores, the others at minus infinity."""

    def gates(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        largest, chosen = scores.topk(self.active, -1)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, largest).softmax(-1)


class Written(Stacked):
    """gates[rows, chosen] = shares."""

    def gates(self, x: Tensor) -> Tensor:
        shares, chosen = self.routed(x.reshape(-1, WIDTH))
        gates = torch.zeros(len(shares), self.router.out_features)
        gates[torch.arange(len(shares))[:, None], chosen] = shares
        return gates.reshape(*x.shape[:-1], -1)


class GatedInputs(Stacked):
    """What the experts read is multiplied, as in Llama 4: zero goes in, and comes out, where one was not chosen."""

    def forward(self, x: Tensor) -> Tensor:
        rows, experts = x.reshape(-1, WIDTH), len(self.up)
        scores = self.router(rows)
        largest, chosen = scores.topk(self.active, -1)
        gates = torch.full_like(scores, -torch.inf).scatter(1, chosen, largest).transpose(0, 1).sigmoid()
        read = (rows.repeat(experts, 1) * gates.reshape(-1, 1)).view(experts, -1, WIDTH)
        made = torch.bmm(F.gelu(torch.bmm(read, self.up)), self.down)
        return made.reshape(experts, -1, WIDTH).sum(0).reshape(x.shape)


def expert(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, hidden, bias=False), nn.GELU(), nn.Linear(hidden, WIDTH, bias=False))


class Listed(Mixture):
    """A loop over modules, each on every token."""

    def __init__(self, experts: int, active: int, hidden: int, **choices: bool) -> None:
        super().__init__(experts, active, hidden, **choices)
        self.experts = nn.ModuleList(expert(hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates(x)
        return sum(gates[..., e, None] * layer(x) for e, layer in enumerate(self.experts))  # type: ignore[return-value]


class OneHot(Listed):
    """Gates by one-hot encodings, the outputs stacked."""

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.routed(x)
        gates = (F.one_hot(chosen, self.router.out_features) * shares[..., None]).sum(-2)
        return (torch.stack([layer(x) for layer in self.experts], -2) * gates[..., None]).sum(-2)


class Dispatched(Listed):
    """Every expert takes the tokens that were routed to it, and adds to their rows."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        shares, chosen = self.routed(rows)
        total = torch.zeros_like(rows)
        for e, layer in enumerate(self.experts):
            row, slot = torch.where(chosen == e)
            total.index_add_(0, row, layer(rows[row]) * shares[row, slot, None])
        return total.reshape(x.shape)


SPELLINGS = (Stacked, Contracted, Listed, OneHot, Dispatched)


class Net(nn.Module):
    """Tokens -> logits, one mixture on a residual stream."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.LayerNorm(WIDTH)
        self.mixture, self.head = mixture, nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.mixture(self.norm(x)))


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(0))


def effect(plan: hpt.Plan, *names: str) -> tuple[float, float]:
    """(init, lr) of the first row named so; what hooks multiply the mixture's output by is put into that weight."""
    row: Row = next(plan.rows[name] for name in names if name in plan.rows)
    hooked = 1.0
    for hook in plan.hooks:
        assert hook.module == "mixture", hook
        hooked *= hook.factor
    return round(row.init_mult * hooked, 6), round(row.lr_mult * hooked**2, 6)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("normed", "experts", "active", "factor"),
    [
        (True, 8, 2, 1.0),  # the shares sum to one, however many there are
        (False, 8, 2, 2.0),  # k of E softmax entries sum to k/E of what they did: 2/8 against 2/4
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((True, 8, 4, 1.0), (True, 4, 4, 1.0), (False, 8, 4, 1.0), (False, 4, 4, 0.5))
        ),
    ],
)
def test_every_spelling_of_a_mixture_asks_for_the_same_factor_and_rates(spelling, normed, experts, active, factor):
    torch.manual_seed(0)
    target, base = (Net(spelling(e, k, 24, normed=normed)) for e, k in ((experts, active), (4, 2)))
    plan = hpt.make_plan(target, base=base, example_inputs=(tokens(),), optimizer=torch.optim.SGD)
    more = experts / 4  # every expert gets so much less of the gradient
    assert effect(plan, "mixture.down", "mixture.experts.1.2.weight") == (factor, more * factor**2)
    assert plan.rows.get("mixture.up", plan.rows.get("mixture.experts.1.0.weight")).lr_mult == more
    assert plan.rows["mixture.router.weight"].lr_mult == more


@pytest.mark.parametrize("spelling", [GatedInputs, pytest.param(Masked, marks=pytest.mark.slow), Written])
def test_further_spellings_of_twice_as_many_experts_ask_for_the_same(spelling):
    torch.manual_seed(0)
    target, base = (Net(spelling(count, 2, 24)) for count in (8, 4))
    plan = hpt.make_plan(target, base=base, example_inputs=(tokens(),), optimizer=torch.optim.SGD)
    rows = [plan.rows[f"mixture.{name}"] for name in ("up", "down", "router.weight")]
    assert [(row.init_mult, row.lr_mult) for row in rows] == [(1.0, 2.0)] * 3 and not plan.hooks


class Copies(nn.Module):
    """The same expert several times over: their mean, or their sum."""

    def __init__(self, count: int, *, mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, first = nn.Linear(6, WIDTH, bias=False), expert(24)
        self.experts = nn.ModuleList(copy.deepcopy(first) for _ in range(count))
        self.head, self.mean = nn.Linear(WIDTH, 4, bias=False), mean

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        total: Tensor = sum(layer(x) for layer in self.experts)  # type: ignore[assignment]
        return self.head(x + (total / len(self.experts) if self.mean else total))


def trained(count: int, optimizer: type[torch.optim.Optimizer], *, mean: bool, **options: float) -> Tensor:
    """Outputs after ten steps under the plan against a base of two copies, in float64."""
    model, base = Copies(count, mean=mean).double(), Copies(2, mean=mean).double()
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(32, n, generator=draw, dtype=torch.float64) for n in (6, 4))
    plan = hpt.make_plan(model, base=base, example_inputs=(x,), optimizer=optimizer)
    hpt.parametrize_(model, plan)
    grouped = {key: value for key, value in options.items() if key != "momentum"}
    stepping = optimizer(hpt.param_groups(model, plan, **grouped), **options)
    for _ in range(10):
        stepping.zero_grad()
        F.mse_loss(model(x), y).backward()
        stepping.step()
    return model(x).detach()


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.01, "eps": 1e-2, "weight_decay": 0.1}),  # an eps that matters
        (torch.optim.RMSprop, {"lr": 0.003, "eps": 1e-2}),
    ],
)
def test_eight_copies_of_one_expert_train_as_two_do(optimizer, options, mean):
    two, eight = (trained(count, optimizer, mean=mean, **options) for count in (2, 8))
    torch.testing.assert_close(eight, two, rtol=1e-9, atol=1e-11)


def test_layers_and_skips_are_no_parallel_terms():
    class Skips(nn.Module):
        """Every layer reads the sum of all that came before it, and all are read at the end."""

        def __init__(self, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            kept = [x]
            for layer in self.layers:
                kept.append(torch.relu(layer(sum(kept))))
            return self.head(kept[-1])

    plan = hpt.make_plan(Skips(6), base=Skips(3), example_inputs=(torch.randn(4, WIDTH),), optimizer=torch.optim.SGD)
    assert {(row.init_mult, row.lr_mult) for row in plan.rows.values()} == {(1.0, 1.0)} and not plan.hooks


class Heads(nn.Module):
    """Attention whose heads are modules of their own, of a fixed size: side by side, or each with its own way out."""

    def __init__(self, width: int, *, added: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (
            nn.ModuleList(nn.Linear(width, 8, bias=False) for _ in range(width // 8)) for _ in range(3)
        )
        ways_out = nn.ModuleList(nn.Linear(8, width, bias=False) for _ in range(width // 8))
        self.out = ways_out if added else nn.Linear(width, width, bias=False)
        self.embed, self.head, self.added = nn.Linear(6, width), nn.Linear(width, 3), added

    def forward(self, x: Tensor) -> Tensor:
        x, read = self.embed(x), []
        for q, k, v in zip(self.q, self.k, self.v, strict=True):
            read.append((q(x) @ k(x).transpose(-1, -2) / 8**0.5).softmax(-1) @ v(x))
        joined = sum(o(h) for o, h in zip(self.out, read, strict=True)) if self.added else self.out(torch.cat(read, -1))
        return self.head(x + joined)


@pytest.mark.parametrize("added", [True, False])
def test_heads_that_are_modules_of_their_own_are_hidden_as_those_of_one_matrix_are(added):
    inputs = (torch.randn(2, 5, 6),)
    plan = hpt.make_plan(Heads(32, added=added), base=Heads(16, added=added), example_inputs=inputs)
    for part in "qkv":
        row = plan.rows[f"{part}.1.weight"]
        assert (row.role, row.init_mult, row.lr_mult, row.eps_mult) == ("hidden", 0.5**0.5, 0.5, 0.5)
    out = plan.rows["out.1.weight" if added else "out.weight"]
    assert out.lr_mult == 0.5  # of a sum of twice as many, or with twice the fan_in
