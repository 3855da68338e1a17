"""The abc-symmetry: plans with and without forward multipliers train the same function."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt


class Block(nn.Module):
    """One transformer block on token ids, with a fused qkv projection and a tied head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Embedding(11, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(self.norm(x + self.down(F.gelu(self.up(self.norm2(x))))))


def trajectory(model: nn.Module, plan: hpt.Plan, optimizer: type[torch.optim.Optimizer], **options: float) -> Tensor:
    """Losses of 15 steps on one fixed batch, float64."""
    tokens = torch.arange(32).reshape(4, 8) * 7 % 11
    model = copy.deepcopy(model)
    hpt.parametrize_(model, plan)
    lr, decay = options.pop("lr"), options.pop("weight_decay", 0.0)
    opt = optimizer(hpt.param_groups(model, plan, lr=lr, weight_decay=decay), lr=lr, **options)  # type: ignore[call-arg]
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.detach())
    return torch.stack(losses)


OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
]


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    return Block(16).double(), Block(64).double(), (torch.zeros(2, 8, dtype=torch.long),)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
@pytest.mark.parametrize("scheme", ["mup", "completep", "ntp", "umup"])
def test_the_gauge_does_not_change_training(pair, optimizer, options, scheme):
    base, model, inputs = pair
    eps = {k: v for k, v in options.items() if k == "eps"}
    plan = hpt.make_plan(
        model, base=base, example_inputs=inputs, scheme=scheme, optimizer=optimizer, optimizer_options=eps
    )
    rest = {k: v for k, v in options.items() if k != "eps"}
    forms = [trajectory(model, form, optimizer, **rest) for form in (plan.absorb(), plan.as_multipliers(), plan)]
    # one trained function, three gauges: equal up to float64 rounding, accumulated over 15 steps
    torch.testing.assert_close(forms[1], forms[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(forms[2], forms[0], rtol=1e-9, atol=0)


def test_as_multipliers_has_one_learning_rate_and_absorb_undoes_it(pair):
    base, model, inputs = pair
    plan = hpt.make_plan(model, base=base, example_inputs=inputs)
    unfolded = plan.as_multipliers()
    assert {row.lr_mult for row in unfolded} == {1.0}
    assert any(row.fwd_mult != 1 for row in unfolded)
    for before, after in zip(plan, unfolded.absorb(), strict=True):
        for name in ("init_mult", "lr_mult", "wd_mult", "eps_mult", "fwd_mult"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12)


def test_umup_stores_unit_weights(pair):
    base, model, inputs = pair
    plan = hpt.make_plan(model, base=base, example_inputs=inputs, scheme="umup")
    hpt.parametrize_(model, plan)
    stored = dict(model.named_parameters())
    for name in ("qkv", "out", "up", "down"):
        values = stored[f"{name}.parametrizations.weight.original"]
        assert values.pow(2).mean().sqrt().item() == pytest.approx(1, abs=0.15)  # 1024+ samples: 4 x (2N)^-1/2 each way


def test_batch_and_tokens_multiply_every_parameter_alike():
    torch.manual_seed(0)
    base, model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 4))
    inputs = (torch.zeros(2, 8),)
    plain = hpt.make_plan(model, base=base, example_inputs=inputs)
    scaled = hpt.make_plan(
        model,
        base=base,
        example_inputs=inputs,
        scale=hpt.Scale(batch=64, tokens=8000),
        base_scale=hpt.Scale(batch=16, tokens=1000),
    )
    for before, after in zip(plain, scaled, strict=True):
        assert after.lr_mult / before.lr_mult == pytest.approx(2)  # k = 4: lr k^1/2
        assert after.eps_mult / before.eps_mult == pytest.approx(0.5)  # eps k^-1/2
        # tau = B / (lr wd D) kept: wd k / (lr ratio x r) = 4 / (2 x 8)
        assert after.wd_mult / before.wd_mult == pytest.approx(0.25)
    group = hpt.param_groups(model, scaled, lr=1e-3)[0]
    assert group["betas"] == pytest.approx((0.9**4, 0.999**4))  # the half-life in samples is kept


def test_tuned_factors_transfer_to_every_size():
    torch.manual_seed(0)
    base, model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 4))
    inputs, tuned = (torch.zeros(2, 8),), {"1.*": hpt.Tuned(lr=3, init=0.5)}
    plain, with_tuned = (
        hpt.make_plan(model, base=base, example_inputs=inputs, tuned=factors) for factors in ({}, tuned)
    )
    assert with_tuned["1.weight"].lr_mult == pytest.approx(3 * plain["1.weight"].lr_mult)
    assert with_tuned["1.weight"].init_mult == pytest.approx(0.5 * plain["1.weight"].init_mult)
    assert with_tuned["0.weight"] == plain["0.weight"]
    at_base = hpt.make_plan(base, base=base, example_inputs=inputs, tuned=tuned)
    before = base[1].weight.detach().clone()
    hpt.parametrize_(base, at_base)
    torch.testing.assert_close(base[1].weight.detach(), 0.5 * before, rtol=1e-6, atol=0)


def test_a_tuned_factor_must_be_positive():
    with pytest.raises(hpt.UsageError, match=r"Tuned\(lr=-1\)"):
        hpt.Tuned(lr=-1)
