"""What mup 1.0.0 gets wrong without a word (seen by running it), one test each; every one passes here."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(torch.relu(self.inp(x)))))


def planned(model: nn.Module, base: nn.Module, inputs=(X,), **options) -> hpt.Plan:
    return hpt.make_plan(model, base=base, example_inputs=inputs, **options)


def settings(model: nn.Module, plan: hpt.Plan) -> dict[str, float]:
    """Parameter -> its group's learning rate."""
    groups = hpt.param_groups(model, plan, lr=1.0)
    return {name: g["lr"] for g in groups for name in g["hpt_names"]}


@pytest.fixture
def pair() -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    model = Net(128)
    plan = planned(model, Net(16))
    hpt.parametrize_(model, plan)
    return model, plan


# Metadata on tensors is lost when tensors are replaced; ours is keyed by name.


def test_deepcopy(pair):
    model, plan = pair
    assert settings(copy.deepcopy(model), plan) == settings(model, plan)
    assert settings(model, plan)["hidden.weight"] == 1 / 8


def test_to_empty(pair):
    model, plan = pair
    twin = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    twin.load_state_dict(model.state_dict())
    assert settings(twin, plan) == settings(model, plan)


def test_load_state_dict_assign(pair):
    model, plan = pair
    twin = Net(128)
    twin.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert settings(twin, plan) == settings(model, plan)


def test_mup_loses_it(pair):
    """The contrast, so that the three tests above are known to test something."""
    mup = pytest.importorskip("mup", reason="mup is not installed (pip install --no-deps mup)")
    model = Net(128)
    for name in ("out",):
        setattr(model, name, mup.MuReadout(128, 4))
    base = Net(16)
    base.out = mup.MuReadout(16, 4)
    mup.set_base_shapes(model, base)
    twin = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    assert not any(hasattr(p, "infshape") for p in twin.parameters())


# Layers that it does not know.


class ConvReadout(nn.Module):
    """A fully convolutional net: its head is a 1 x 1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(torch.relu(self.inp(x)))))


def test_a_conv2d_readout_is_a_readout():
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    outputs = []
    for width in (16, 64, 256):
        torch.manual_seed(0)
        model, base = ConvReadout(width), ConvReadout(16)
        plan = planned(model, base, (images,))
        assert (plan["out.weight"].role, plan["out.weight"].lr_mult) == ("readout", 16 / width) or width == 16
        hpt.parametrize_(model, plan)
        before = model.out(torch.relu(model.hidden(torch.relu(model.inp(images))))).detach()
        opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-3}})
        model(images).square().mean().backward()
        opt.step()
        outputs.append(float((model(images).detach() - before).square().mean().sqrt()))
    assert max(outputs) / min(outputs) < 1.6, outputs  # without the readout's 1/m it grows 16 times


class Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.up = nn.Conv2d(3, width, 3, padding=1), nn.ConvTranspose2d(width, width, 2, stride=2)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.up(torch.relu(self.inp(x)))))


def test_a_transposed_convolutions_bias_keeps_the_bases_scale():
    """torch draws it with n^-1/2, so at eight times the width it starts sqrt(8) too small."""
    images, model, base = torch.randn(2, 3, 4, 4), Decoder(512), Decoder(64)
    plan = planned(model, base, (images,))
    before = float(model.up.bias.detach().square().mean().sqrt())
    assert before == pytest.approx(float(base.up.bias.detach().square().mean().sqrt()) / 8**0.5, rel=0.2)
    hpt.parametrize_(model, plan)
    after = float(model.up.bias.detach().square().mean().sqrt())
    assert after == pytest.approx(float(base.up.bias.detach().square().mean().sqrt()), rel=0.2)
    assert after / before == pytest.approx(8**0.5)


class Experts(nn.Module):
    """Four experts in 3-D tensors, averaged: [expert, in, out] and [expert, out, in]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(16, width), nn.Linear(width, 4)
        self.up = nn.Parameter(torch.randn(4, width, 4 * width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(4, width, 4 * width) * (4 * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x)).expand(4, -1, -1)
        h = torch.einsum("ebo,eio->ebi", torch.relu(torch.bmm(h, self.up)), self.down)
        return self.out(h.mean(0))


class Dense(nn.Module):
    """The same with linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(16, width), nn.Linear(width, 4)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.down(torch.relu(self.up(torch.relu(self.inp(x))))))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_three_dimensional_experts_scale_as_linear_layers(optimizer):
    experts = planned(Experts(128), Experts(16), optimizer=optimizer)
    dense = planned(Dense(128), Dense(16), optimizer=optimizer)
    for name in ("up", "down"):
        own, twin = experts[name], dense[f"{name}.weight"]
        assert (own.role, own.lr_mult, own.init_mult) == (twin.role, twin.lr_mult, twin.init_mult)
        assert own.fan_in == twin.fan_in and own.fan_out == twin.fan_out
    assert experts["up"].lr_mult == (1.0 if optimizer is torch.optim.SGD else 1 / 8)


def test_hf_conv1d_is_read_in_by_out():
    """transformers' Conv1D stores [in, out]; where both grow, but not alike, the layouts differ."""
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed").Conv1D

    class Mlp(nn.Module):
        def __init__(self, inner: int, outer: int, turned: bool) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(16, inner), nn.Linear(outer, 4)
            self.mid = conv1d(outer, inner) if turned else nn.Linear(inner, outer)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.mid(torch.relu(self.inp(x)))))

    turned, plain = (planned(Mlp(128, 64, t), Mlp(16, 16, t))["mid.weight"] for t in (True, False))
    assert turned.lr_mult == plain.lr_mult == 1 / 8
    assert turned.init_mult == plain.init_mult and (turned.m_in, turned.m_out) == (8.0, 4.0)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(16, width), nn.Linear(width, 4)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        return self.out(self.attention(h, h, h, need_weights=False)[0])


def test_nn_multihead_attention_gets_one_over_d():
    """By absorption: the planned module computes what 1/d attention would, from the weights of the 1/sqrt(d) plan."""
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.manual_seed(0)
    model, base = Attention(256).double(), Attention(32).double()
    twin = copy.deepcopy(model)
    hpt.parametrize_(model, planned(model, base, (x,)))
    hpt.parametrize_(twin, planned(twin, base, (x,), options=hpt.Options(attention="1/sqrt(d)")))
    with torch.no_grad():
        twin.attention.in_proj_weight[:256] *= (8 / 64) ** 0.5  # head size 8 -> 64: logits x sqrt(d_base / d) more
    torch.testing.assert_close(model(x), twin(x))


# Learning rates and names.


def test_onecyclelr_with_a_scalar_is_an_error_and_with_a_list_is_right(pair):
    model, plan = pair
    for max_lr, works in ((lambda o: 1e-2, False), (hpt.max_lrs, True)):
        own = copy.deepcopy(model)
        opt = build_optimizers(own, plan, {torch.optim.AdamW: {"lr": 1e-2}})
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=max_lr(opt), total_steps=4)
        own(X).square().mean().backward()
        if not works:
            with pytest.raises(hpt.UsageError, match=r"OneCycleLR pass max_lr=hptransfer.max_lrs\(optimizer\)"):
                opt.step()
            continue
        for _ in range(3):
            opt.step()
            schedule.step()
            ratios = [g["lr"] / g["lr_mult"] for g in opt.param_groups]
            assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_module_prefixes_are_removed_whole():
    """str.strip('module.') would eat the ends of these names."""

    class Odd(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.model, self.lm, self.module_ed = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.module_ed(torch.relu(self.lm(torch.relu(self.model(x)))))

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = Odd(64)
    plan = planned(model, Odd(16))
    assert settings(Wrapper(model), plan) == settings(model, plan)
    assert set(settings(model, plan)) == set(dict(model.named_parameters()))


def test_frozen_parts_and_adapters_are_planned():
    class Frozen(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp, self.base = nn.Linear(16, width), nn.Linear(width, width)
            self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)
            self.out = nn.Linear(width, 4)
            nn.init.zeros_(self.up.weight)
            self.inp.requires_grad_(False), self.base.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.inp(x))
            return self.out(torch.relu(self.base(h) + self.up(self.down(h))))

    model = Frozen(128)
    plan = planned(model, Frozen(16))
    hpt.parametrize_(model, plan)
    lrs = settings(model, plan)
    assert set(lrs) == {"down.weight", "up.weight", "out.weight", "out.bias"}
    assert lrs["down.weight"] == 1 / 8 and lrs["up.weight"] == 1.0 and lrs["out.weight"] == 1 / 8
    assert np.isfinite(float(model(X).detach().square().mean()))
