"""Optimizers beyond torch's, each by a step written out here: under its plan a layer moves alike at three widths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo

optim = torch.optim
WIDTHS, BASE = (32, 64, 128), 32
X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(1))).sin()


class Net(nn.Module):
    """A square, a widening and a narrowing hidden matrix between an input and a readout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.square = nn.Linear(16, width), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        h = torch.relu(self.square(h))
        return self.out(self.norm(h + self.down(torch.relu(self.up(h)))))


class Written(optim.Optimizer):
    """A step by the book: `update(state, gradient, weight, group)` is what lr multiplies, decay beside it."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, **options: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                update = self.update(self.state[p], p.grad, p, group)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
                self.after(self.state[p], p)

    def update(self, state: dict[str, Any], g: Tensor, w: Tensor, group: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def after(self, state: dict[str, Any], w: Tensor) -> None:
        """What is done to the weight at the end."""


def orthogonal(matrix: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u * (s > 1e-6 * s[0])) @ v


def momentum_of(state: dict[str, Any], g: Tensor, beta: float = 0.9) -> Tensor:
    return state.setdefault("m", torch.zeros_like(g)).lerp_(g, 1 - beta)


def adam_of(state: dict[str, Any], g: Tensor, name: str = "") -> Tensor:
    t = state[f"t{name}"] = state.get(f"t{name}", 0) + 1
    m = state.setdefault(f"m{name}", torch.zeros_like(g)).lerp_(g, 0.1)
    v = state.setdefault(f"v{name}", torch.zeros_like(g)).lerp_(g.square(), 0.05)
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-12)


class Scion(Written):
    """2502.07529: the spectral ball's step times (rows / columns)^1/2."""

    def update(self, state, g, w, group):
        return orthogonal(momentum_of(state, g)) * math.sqrt(w.shape[0] / w.shape[1])


class Dion(Written):
    """2504.05295 at full rank: U V^T of the momentum times (rows / columns)^1/2."""

    def update(self, state, g, w, group):
        return orthogonal(momentum_of(state, g)) * math.sqrt(w.shape[0] / w.shape[1])


class NorMuon(Written):
    """2510.05491, Algorithm 1: rows of the orthogonal step divided by a running rms, then rms .2 in all."""

    def update(self, state, g, w, group):
        step = orthogonal(momentum_of(state, g))
        rows = state.setdefault("rows", torch.zeros(w.shape[0], 1)).lerp_(step.square().mean(1, keepdim=True), 0.05)
        step = step / (rows.sqrt() + 1e-12)
        return step * (0.2 * math.sqrt(step.numel()) / step.norm())


class Shampoo(Written):
    """1802.09568, Algorithm 1 for a matrix: L^-1/4 G R^-1/4, both sides summed up from the start."""

    def update(self, state, g, w, group):
        sides = []
        for name, outer in (("l", g @ g.T), ("r", g.T @ g)):
            total = state.setdefault(name, torch.zeros_like(outer)).add_(outer)
            values, vectors = torch.linalg.eigh(total.double())
            kept = values > 1e-9 * values[-1]
            power = torch.where(kept, values.clamp_min(1e-300) ** -0.25, torch.zeros_like(values))
            sides.append(((vectors * power) @ vectors.T).float())
        return sides[0] @ g @ sides[1]


class MuonH(Written):
    """Muon on the Frobenius sphere (2606.16899; 2603.28743): relative size lr, the weight's norm put back."""

    def update(self, state, g, w, group):
        radius = state.setdefault("radius", w.norm().clone())
        step = self.direction(state, g)
        return step * (radius / step.norm())

    def direction(self, state: dict[str, Any], g: Tensor) -> Tensor:
        return orthogonal(momentum_of(state, g))

    def after(self, state, w):
        w.mul_(state["radius"] / w.norm())


class AdamH(MuonH):
    """Adam on the Frobenius sphere (2606.16899)."""

    def direction(self, state, g):
        return adam_of(state, g)


class SOAP(Written):
    """2409.11321: Adam in the eigenbasis of running G G^T and G^T G of past gradients; its first step only fills them.

    The bases are those of the first gradient; renewing them changes no size.
    """

    def update(self, state, g, w, group):
        if "bases" not in state:
            state["bases"] = [torch.linalg.eigh(outer.double())[1].float() for outer in (g @ g.T, g.T @ g)]
            return torch.zeros_like(g)
        left, right = state["bases"]
        return left @ adam_of(state, left.T @ g @ right) @ right.T


class AdamWScheduleFree(Written):
    """2405.15682, Algorithm 1 with beta = .9: z takes Adam's steps, the weight lies between z and their average."""

    def update(self, state, g, w, group):
        z, x = state.setdefault("z", w.clone()), state.setdefault("x", w.clone())
        t = state["t"] = state.get("t", 0) + 1
        v = state.setdefault("v", torch.zeros_like(g)).lerp_(g.square(), 0.05)
        z.sub_(g / ((v / (1 - 0.95**t)).sqrt() + 1e-12), alpha=group["lr"])
        x.lerp_(z, 1 / t)
        return (w - (0.1 * z + 0.9 * x)) / group["lr"]


for known in (Scion, Dion, NorMuon, Shampoo, MuonH, AdamH, AdamWScheduleFree):
    hpt.register_optimizer(known, like=known.__name__)
hpt.register_optimizer(SOAP, "sign")

HIDDEN = ("square.weight", "up.weight", "down.weight")


def moved(
    cls: type, width: int, seed: int, lr: float, steps: int, skip: int = 0, scheme: str = "mup"
) -> dict[str, float]:
    """Hidden matrix -> rms change of its output, its inputs fixed, over `steps` steps after `skip`."""
    torch.manual_seed(seed)
    base, model = Net(BASE), Net(width)
    plan = hpt.make_plan(
        model, base=base, example_inputs=(X,), optimizer={"hidden": cls, "rest": optim.AdamW}, scheme=scheme
    )
    hpt.parametrize_(model, plan)
    optimizer = hpt.build_optimizers(model, plan, {cls: {"lr": lr}, optim.AdamW: {"lr": 1e-3}})

    def train(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (model(X) - Y).square().mean().backward()
            optimizer.step()

    train(skip)
    inputs = {}
    hooks = [
        model.get_submodule(n[:-7]).register_forward_pre_hook(lambda _, a, n=n: inputs.update({n: a[0].detach()}))
        for n in HIDDEN
    ]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(X)
    for hook in hooks:
        hook.remove()
    train(steps)
    return {
        n: float((inputs[n] @ (model.get_parameter(n).detach() - before[n]).T).square().mean().sqrt()) for n in HIDDEN
    }


def exponents(cls: type, **choices: Any) -> dict[str, float]:
    """Exponent in the width, over three widths and four seeds."""
    found = [[moved(cls, width, seed, **choices) for seed in range(4)] for width in WIDTHS]
    logs = {n: [np.log2(np.mean([run[n] for run in runs])) for runs in found] for n in HIDDEN}
    return {n: float(np.polyfit(np.log2(WIDTHS), values, 1)[0]) for n, values in logs.items()}


@pytest.mark.parametrize("cls", [Scion, Dion, NorMuon, MuonH])
def test_hidden_layers_move_alike_at_every_width(cls) -> None:
    found = exponents(cls, lr=0.02, steps=3)
    assert max(map(abs, found.values())) < 0.2, found  # four seeds at widths 32 to 128 leave about .1


@pytest.fixture(scope="module")
def adam() -> dict[str, float]:
    """torch's Adam in the same experiment: a sign step is less aligned in a wider net, which takes some -.15."""
    return exponents(optim.Adam, lr=1e-3, steps=3)


@pytest.mark.parametrize(("cls", "lr"), [(AdamH, 0.02), (AdamWScheduleFree, 1e-3)])
def test_those_of_adam_s_kind_move_as_adam_does(cls, lr: float, adam) -> None:
    found = exponents(cls, lr=lr, steps=3)
    assert found == pytest.approx(adam, abs=0.1) and all(-0.25 < value < 0.1 for value in adam.values()), (found, adam)


@pytest.mark.parametrize("cls", [AdamH, AdamWScheduleFree])
def test_without_the_plan_they_do_not(cls) -> None:
    """Adam's step aligned adds the width up: n under a fixed rate, n^1/2 where it is relative to a weight n^-1/2."""
    found = exponents(cls, lr=1e-3, steps=1, scheme="sp")
    power = 0.5 if cls is AdamH else 1.0
    assert all(value > power - 0.3 for value in found.values()), found


def test_shampoo_s_first_step_is_orthogonal_and_its_later_ones_shrink_alike() -> None:
    """(G G^T)^-1/4 G (G^T G)^-1/4 = U V^T; sums of t gradients divide by t^1/2, at every width the same."""
    weight = nn.Parameter(torch.zeros(6, 4))
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    Shampoo([weight], lr=1.0).step()
    assert torch.linalg.svdvals(weight.detach()) == pytest.approx(torch.ones(4), rel=1e-3)
    found = exponents(Shampoo, lr=0.02, steps=3)
    assert max(map(abs, found.values())) < 0.2, found


def test_soap_lies_between_sign_and_spectral(adam) -> None:
    """Its entries are Adam's, but in a basis in which inputs have few large entries: under Adam's rule its layers move
    less at more width than Adam's, by less than the n^1/2 that would make it spectral. Declared, not guessed."""
    found = exponents(SOAP, lr=1e-3, steps=3, skip=2)
    behind = [found[n] - adam[n] for n in HIDDEN]
    assert all(-0.45 < value < -0.1 for value in behind), (found, adam)
    with pytest.raises(hpt.UsageError, match="lies between 'sign' and 'spectral'"):
        OptimizerInfo.of("SOAP")


def test_a_step_on_the_sphere_is_relative_to_the_weight() -> None:
    """A factor absorbed into a weight needs no other rate: the step grows with it (MuonH and AdamH)."""
    for name in ("MuonH", "AdamH"):
        info = OptimizerInfo.of(name)
        assert info.relative
    spectral, sphere = (
        hpt.make_plan(
            Net(64), base=Net(32), example_inputs=(X,), optimizer={"hidden": name, "rest": "AdamW"},
            options=hpt.Options(unplaced="note"),
        ).rows["up.weight"].lr_mult for name in ("Muon", "MuonH")
    )  # fmt: skip
    assert [spectral, sphere] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
def test_the_sphere_s_factor_is_that_of_a_hidden_weight(shape: tuple[int, int]) -> None:
    """lr |W|_F over the root of the rank, for a W of std columns^-1/2: by brute force."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape) / shape[1] ** 0.5)
    weight.grad, before = torch.randn(shape), weight.detach().clone()
    scale = float(before.norm()) / shape[0] ** 0.5  # a draw's own norm
    optimizer = MuonH([weight], lr=1e-4)
    optimizer.step()
    size = torch.linalg.matrix_norm(optimizer.update({"radius": before.norm()}, weight.grad, before, {}), 2)
    assert float(size) / scale == pytest.approx(OptimizerInfo.of("MuonH").own_factor(shape), rel=1e-4)
