"""Roles read off the graph: kind and fans of every parameter of every common layer, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hptransfer as hpt
from hptransfer.core.roles import Role
from hptransfer.parametrization.options import Options
from tests.oracles.roles import coupled_sizes
from tests.support.versions import traces_writes

WIDTH, BASE, FIXED = 16, 4, 6


def roles(build: Callable[[int], nn.Module], inputs: Callable[[int], tuple], **options) -> dict[str, tuple]:
    """Parameter -> (role, fan_in, fan_out) of build(16) against build(4)."""
    plan = hpt.make_plan(
        build(WIDTH), base=build(BASE), example_inputs=inputs(WIDTH), base_example_inputs=inputs(BASE), **options
    )
    return {row.name: (row.role, row.fan_in, row.fan_out) for row in plan}


def features(*shape: int) -> Callable[[int], tuple]:
    """Inputs of the given shape, 0 standing for the width."""
    return lambda width: (torch.randn([size or width for size in shape]),)


class Wrap(nn.Module):
    """A layer, or parameters with a forward given as a function."""

    def __init__(self, forward: Callable, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, *args: Tensor) -> Tensor:
        return self.run(self, *args)


class Conv1D(nn.Module):
    """The layer of GPT-2: weight stored in x out, used through addmm."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(fan_in, fan_out)), nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)


class Experts(nn.Module):
    """Three experts in one 3-D tensor, mixed by a router."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.router = nn.Linear(width, 3, bias=False)
        self.up = nn.Parameter(torch.randn(3, width, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        every = (
            torch.bmm(x.expand(3, *x.shape), self.up) if self.how == "bmm" else torch.einsum("td,edf->etf", x, self.up)
        )
        return (every * gates.T[..., None]).sum(0)


A, H, R, V, S = "input", "hidden", "readout", "vector", "scalar"
n, f = WIDTH, FIXED
CASES: dict[str, tuple] = {
    "linear in": (lambda w: nn.Linear(f, w), features(2, f), {"weight": (A, f, n), "bias": (V, 1, n)}),
    "linear hidden": (lambda w: nn.Linear(w, 2 * w), features(2, 0), {"weight": (H, n, 2 * n), "bias": (V, 1, 2 * n)}),
    "linear out": (lambda w: nn.Linear(w, f), features(2, 0), {"weight": (R, n, f), "bias": (S, 1, f)}),
    "linear fixed": (lambda w: nn.Linear(f, f), features(2, f), {"weight": (S, f, f), "bias": (S, 1, f)}),
    "Conv1D layout": (lambda w: Conv1D(w, 3 * w), features(2, 0), {"weight": (H, n, 3 * n), "bias": (V, 1, 3 * n)}),
    "conv1d": (lambda w: nn.Conv1d(w, 2 * w, 5), features(2, 0, 8),
        {"weight": (H, 5 * n, 2 * n), "bias": (V, 1, 2 * n)}),
    "conv2d in": (lambda w: nn.Conv2d(3, w, 3), features(2, 3, 8, 8), {"weight": (A, 27, n), "bias": (V, 1, n)}),
    "conv2d out": (lambda w: nn.Conv2d(w, f, 1), features(2, 0, 4, 4), {"weight": (R, n, f), "bias": (S, 1, f)}),
    "conv3d": (lambda w: nn.Conv3d(w, w, 2, bias=False), features(2, 0, 3, 3, 3), {"weight": (H, 8 * n, n)}),
    "transposed": (lambda w: nn.ConvTranspose2d(w, 2 * w, 3, bias=False), features(2, 0, 4, 4),
        {"weight": (H, 9 * n, 2 * n)}),
    "transposed, grouped": (
        lambda w: nn.ConvTranspose1d(w, w, 3, groups=2, bias=False), features(2, 0, 8),
        {"weight": (H, 3 * n // 2, n // 2)}),
    "depthwise": (lambda w: nn.Conv2d(w, w, 3, groups=w), features(2, 0, 8, 8),
        {"weight": (A, 9, n), "bias": (V, 1, n)}),
    "grouped": (lambda w: nn.Conv2d(w, w, 3, groups=2, bias=False), features(2, 0, 8, 8),
        {"weight": (H, 9 * n // 2, n)}),
    "layer norm": (lambda w: nn.LayerNorm(w), features(2, 0), {"weight": (V, 1, n), "bias": (V, 1, n)}),
    "rms norm": (lambda w: nn.RMSNorm(w), features(2, 0), {"weight": (V, 1, n)}),
    "batch norm": (lambda w: nn.BatchNorm2d(w), features(2, 0, 4, 4), {"weight": (V, 1, n), "bias": (V, 1, n)}),
    "group norm": (lambda w: nn.GroupNorm(2, w), features(2, 0, 4, 4), {"weight": (V, 1, n), "bias": (V, 1, n)}),
    "instance norm": (lambda w: nn.InstanceNorm1d(w, affine=True), features(2, 0, 8),
        {"weight": (V, 1, n), "bias": (V, 1, n)}),
    "prelu": (lambda w: nn.PReLU(w), features(2, 0), {"weight": (V, 1, n)}),
    "embedding": (lambda w: nn.Embedding(f, w), lambda w: (torch.tensor([[0, 5]]),), {"weight": (A, 1, n)}),
    "embedding bag": (
        lambda w: nn.EmbeddingBag(f, w), lambda w: (torch.tensor([[0, 5]]),), {"weight": (A, 1, n)}),
    "bilinear": (
        lambda w: nn.Bilinear(w, w, f), lambda w: (torch.randn(2, w), torch.randn(2, w)),
        {"weight": (R, n * n, f), "bias": (S, 1, f)}),
    "einsum": (
        lambda w: Wrap(lambda m, x: torch.einsum("bi,io->bo", x, m.w), w=torch.randn(w, 2 * w)), features(2, 0),
        {"w": (H, n, 2 * n)}),
    "einsum, ellipsis, transposed": (
        lambda w: Wrap(lambda m, x: torch.einsum("...i,oi->...o", x, m.w), w=torch.randn(f, w)), features(2, 3, 0),
        {"w": (R, n, f)}),
    "einsum, heads": (
        lambda w: Wrap(lambda m, x: torch.einsum("bd,dhk->bhk", x, m.w), w=torch.randn(w, 2, w // 2)), features(2, 0),
        {"w": (H, n, n)}),
    "experts, bmm": (lambda w: Experts(w, "bmm"), features(5, 0), {"router.weight": (R, n, 3), "up": (H, n, 2 * n)}),
    "experts, einsum": (lambda w: Experts(w, "einsum"), features(5, 0),
        {"router.weight": (R, n, 3), "up": (H, n, 6 * n)}),
    "product and sum": (
        lambda w: Wrap(lambda m, x: (x * m.w).sum(-1), w=torch.randn(w)), features(2, 0), {"w": (R, n, 1)}),
    "product and mean": (
        lambda w: Wrap(lambda m, x: (x * m.w).mean(-1), w=torch.randn(w)), features(2, 0), {"w": (V, 1, n)}),
    "left factor": (
        lambda w: Wrap(lambda m, x: m.w @ x, w=torch.randn(f, w)), features(0, 2), {"w": (R, n, f)}),
    "class token": (
        lambda w: Wrap(lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1), token=torch.zeros(1, 1, w)),
        features(2, 3, 0), {"token": (V, 1, n)}),
    "learned queries": (
        lambda w: Wrap(lambda m, x: F.scaled_dot_product_attention(m.q(m.latents), x, x)[..., 0],
                       latents=torch.randn(1, 5, w), q=nn.Linear(w, w, bias=False)),
        features(1, 3, 0), {"latents": (V, 1, 5 * n), "q.weight": (H, n, n)}),
    "position table": (
        lambda w: Wrap(lambda m, x: x + m.table[: x.shape[1]], table=torch.randn(9, w)), features(2, 3, 0),
        {"table": (V, 1, 9 * n)}),
    "relative-position table": (
        lambda w: Wrap(lambda m, x: x + m.table[torch.tensor([[0, 1], [2, 0]])].permute(2, 0, 1),
                       table=torch.randn(3, w // 2)),
        lambda w: (torch.randn(1, w // 2, 2, 2),), {"table": (A, 1, n // 2)}),
    "lstm": (
        lambda w: nn.LSTM(f, w), features(3, 2, f),
        {"weight_ih_l0": (A, f, 4 * n), "weight_hh_l0": (H, n, 4 * n), "bias_ih_l0": (V, 1, 4 * n),
        "bias_hh_l0": (V, 1, 4 * n)}),
    "gru": (
        lambda w: nn.GRU(w, w, bias=False), features(3, 2, 0),
        {"weight_ih_l0": (H, n, 3 * n), "weight_hh_l0": (H, n, 3 * n)}),
    "rnn": (lambda w: nn.RNN(w, w, bias=False), features(3, 2, 0),
        {"weight_ih_l0": (H, n, n), "weight_hh_l0": (H, n, n)}),
    "lstm cell": (
        lambda w: nn.LSTMCell(f, w, bias=False), features(2, f),
        {"weight_ih": (A, f, 4 * n), "weight_hh": (H, n, 4 * n)}),
    "gru cell": (lambda w: nn.GRUCell(w, w, bias=False), features(2, 0),
        {"weight_ih": (H, n, 3 * n), "weight_hh": (H, n, 3 * n)}),
    "multi-head attention": (
        lambda w: Wrap(lambda m, x: m.a(x, x, x, need_weights=False)[0],
                       a=nn.MultiheadAttention(w, 2, batch_first=True)),
        features(2, 3, 0),
        {"a.in_proj_weight": (H, n, 3 * n), "a.in_proj_bias": (V, 1, 3 * n), "a.out_proj.weight": (H, n, n),
        "a.out_proj.bias": (V, 1, n)}),
    "weight norm": (
        lambda w: parametrizations.weight_norm(nn.Linear(w, 2 * w, bias=False)), features(2, 0),
        {"parametrizations.weight.original0": (V, 1, 2 * n), "parametrizations.weight.original1": (H, n, 2 * n)}),
    "spectral norm": (
        lambda w: parametrizations.spectral_norm(nn.Linear(w, w, bias=False)), features(2, 0),
        {"parametrizations.weight.original": (H, n, n)}),
    "shared layer": (
        lambda w: Wrap(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(w, w, bias=False)), features(2, 0),
        {"a.weight": (H, n, n)}),
    "layer scale": (
        lambda w: Wrap(lambda m, x: x + m.gamma * m.a(x), gamma=torch.ones(w), a=nn.Linear(w, w, bias=False)),
        features(2, 0), {"gamma": (V, 1, n), "a.weight": (H, n, n)}),
    "equalised rate": (
        lambda w: Wrap(lambda m, x: F.linear(x, m.w * w**-0.5), w=torch.randn(w, w)), features(2, 0), {"w": (H, n, n)}),
    "sliced and stacked": (
        lambda w: Wrap(lambda m, x: F.linear(x, torch.cat([m.w[: w // 2], m.w[w // 2 :]])), w=torch.randn(w, w)),
        features(2, 0), {"w": (H, n, n)}),
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=traces_writes if case == "spectral norm" else ()) for case in sorted(CASES)]
)
def test_roles_and_fans(case: str) -> None:
    build, inputs, expected = CASES[case]
    options = Options(unplaced="note")
    assert roles(build, inputs, options=options) == expected


@pytest.mark.parametrize(
    "case", ["linear hidden", "Conv1D layout", "conv1d", "conv3d", "transposed", "depthwise", "grouped", "bilinear",
             "transposed, grouped", "einsum, heads", "experts, einsum", "left factor", "conv2d out"],
)  # fmt: skip
def test_fans_are_what_an_output_depends_on(case: str) -> None:
    """fan_in is the number of entries of the weight that one output reads: by its Jacobian, entry for entry."""
    build, inputs, expected = CASES[case]
    name = next(k for k in expected if k.endswith(("weight", "w", "up")) and "router" not in k)
    layer, given = build(WIDTH).double(), [t.double() for t in inputs(WIDTH)]
    fan_in, _ = coupled_sizes(layer, name, *given)
    per_batch = 3 if "experts" in case else 1  # the mixture reads all three experts
    assert expected[name][1] == fan_in // per_batch


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int = 2, layers: int = 2, vocab: int = 9) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.wte(tokens)))


@pytest.mark.parametrize(
    ("vocab", "heads", "layers"), [(9, 2, 2), (WIDTH, 2, 2), (9, 2, 2), (2 * WIDTH, 4, 4)], ids=str
)
def test_sizes_that_coincide_do_not_confuse_roles(vocab: int, heads: int, layers: int) -> None:
    """A vocabulary as large as the width, or as many heads as layers: only what differs from the base is width."""
    found = roles(lambda w: Encoder(w, heads, layers, vocab), lambda w: (torch.tensor([[1, 2, 3]]),))
    assert found["wte.weight"] == ("input", 1, WIDTH)
    assert found["head.weight"] == ("readout", WIDTH, vocab)
    assert found["encoder.layers.1.linear1.weight"] == ("hidden", WIDTH, 2 * WIDTH)
    assert found["encoder.layers.0.self_attn.in_proj_weight"] == ("hidden", WIDTH, 3 * WIDTH)
    assert found["encoder.layers.0.norm1.weight"] == ("vector", 1, WIDTH)


def test_tied_weights_have_one_row_under_both_names() -> None:
    def build(width: int) -> nn.Module:
        model = Wrap(lambda m, t: m.head(m.norm(m.wte(t))), wte=nn.Embedding(9, width), norm=nn.LayerNorm(width))
        model.head = nn.Linear(width, 9, bias=False)
        model.head.weight = model.wte.weight
        return model

    plan = hpt.make_plan(build(16), base=build(4), example_inputs=(torch.tensor([[1, 2]]),))
    assert plan.aliases == {"head.weight": "wte.weight"} and plan["head.weight"] is plan["wte.weight"]
    assert (plan["wte.weight"].role, plan["wte.weight"].lr_mult) == ("input", 1.0)
    assert plan["norm.weight"].held == 0.25  # the readout's 1/m


@pytest.mark.parametrize(
    ("forward", "shown"),
    [
        (lambda m, x: m.w.cumsum(0).sum() + x, "cumsum"),
        (lambda m, x: F.linear(x, m.w @ m.w), "matmul"),
    ],
    ids=["unknown op", "product with itself"],
)
def test_an_op_that_is_not_understood_names_parameter_and_use_and_roles_settle_it(forward, shown: str) -> None:
    def build(width: int) -> nn.Module:
        return Wrap(forward, w=torch.randn(width, width))

    given = {"base": build(4), "example_inputs": (torch.randn(2, 16),), "base_example_inputs": (torch.randn(2, 4),)}
    with pytest.raises(hpt.UsageError, match=rf"(?s)role of parameter 'w' cannot be settled.*{shown}.*roles="):
        hpt.make_plan(build(16), **given)
    plan = hpt.make_plan(build(16), **given, roles={"w*": Role("hidden", 16, 16, 4, 4)})
    assert plan["w"].lr_mult == 0.25


def test_a_tied_autoencoder_reads_with_a_multiplier() -> None:
    """W encodes (a readout: n -> 3) and W^T decodes (an input weight: 3 -> n): the former's 1/m goes to its input."""

    def build(width: int) -> nn.Module:
        return Wrap(lambda m, x: F.linear(F.linear(m.a(x), m.w), m.w.T), a=nn.Linear(5, width), w=torch.randn(3, width))

    plan = hpt.make_plan(build(16), base=build(4), example_inputs=(torch.randn(2, 5),))
    assert (plan["w"].role, plan["w"].init_mult, plan["a.weight"].held) == ("input", 1.0, 0.25)


def test_a_low_rank_product_of_two_parameters_is_not_guessed() -> None:
    def build(width: int) -> nn.Module:
        return Wrap(lambda m, x: F.linear(x, m.b @ m.a), a=torch.randn(2, width), b=torch.randn(width, 2))

    with pytest.raises(hpt.UsageError, match="'b' cannot be settled"):
        roles(build, features(2, 0))


@pytest.mark.parametrize(
    ("norm", "build"),
    [
        ("rows", lambda w: parametrizations.weight_norm(nn.Linear(w, 3))),
        pytest.param("whole", lambda w: parametrizations.spectral_norm(nn.Linear(w, 3)), marks=traces_writes),
        pytest.param("whole", lambda w: parametrizations.spectral_norm(nn.Linear(3, w)), marks=traces_writes),
    ],
)
def test_a_normalised_weight_whose_scale_must_follow_the_width_is_refused(norm: str, build) -> None:
    inputs = features(2, 3) if build(WIDTH).in_features == 3 else features(2, 0)
    with pytest.raises(hpt.UsageError, match=r"divided by its own norm .* roles="):
        roles(build, inputs)


class Idle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.idle = nn.Linear(width, 3), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


def test_an_unused_parameter_is_refused_kept_or_frozen() -> None:
    with pytest.raises(hpt.UsageError, match=r"'idle.weight' is never used.*Options\(unused='keep'\)"):
        roles(Idle, features(2, 0))
    assert roles(Idle, features(2, 0), options=Options(unused="keep"))["idle.weight"][0] == "unused"

    def frozen(width: int) -> nn.Module:
        model = Idle(width)
        model.idle.requires_grad_(False)
        return model

    assert roles(frozen, features(2, 0))["idle.weight"][0] == "unused"


def test_uses_that_ask_for_different_rules_are_refused() -> None:
    def build(width: int) -> nn.Module:
        return Wrap(lambda m, x: F.linear(x, m.w) + m.w[0], w=torch.randn(width, width))

    with pytest.raises(
        hpt.UsageError, match=r"'w' has uses that ask for different rules: .*hidden.*vector|.*vector.*hidden"
    ):
        roles(build, features(2, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "hiden"}, "'hiden' is unknown; use one of input, hidden"),
        ({"kind": "hidden", "fan_in": 0}, "at least 1"),
    ],
)
def test_bad_roles(arguments, message: str) -> None:
    with pytest.raises(hpt.UsageError, match=message):
        Role(**arguments)


def test_an_annotation_that_matches_nothing_is_refused() -> None:
    with pytest.raises(hpt.UsageError, match="roles='wieght' matches no parameter"):
        roles(lambda w: nn.Linear(w, w), features(2, 0), roles={"wieght": Role("hidden", 16, 16, 4, 4)})
