"""A unit forward where weights are not used as they stand, and what its notes say: held against the model that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hptransfer as hpt
from hptransfer.graph.parameters.uses import parameter_uses
from hptransfer.graph.readings.outputs import output_uses
from hptransfer.graph.trace import trace
from tests.cases.models import seeded
from tests.support.versions import exports_filled_lists

UNIT = hpt.Options(forward="unit")
X = torch.randn(128, 8, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """Five layers of one form of weight: form(i) of layer i's parameters. seen: (input, weight as used)."""

    def __init__(self, width: int, form: str) -> None:
        super().__init__()
        sizes = [(8, width), (width, width), (width, width), (width, width), (width, 5)]
        self.form = FORMS[form]
        self.a = nn.ParameterList(torch.randn(b, a) for a, b in sizes)
        self.b = nn.ParameterList(torch.randn(b, a) / 3 for a, b in sizes[:4])
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen = []
        for i in range(4):
            weight = self.form(self.a[i], self.b[i])
            self.seen.append((x, weight))
            x = torch.relu(F.linear(x, weight))
        return F.linear(x, self.a[4])


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "equalized learning rate": lambda a, b: a * a.shape[1] ** -0.5 + 0 * b,
    "divided by a constant": lambda a, b: a / 7 + 0 * b,
    "sum of two": lambda a, b: a + b,
    "scaled sum of two": lambda a, b: 0.1 * (a - 2 * b),
    "cast": lambda a, b: (a + 0 * b).float().double(),
}


@exports_filled_lists
@pytest.mark.parametrize("form", sorted(FORMS))
def test_weights_are_unit_as_their_ops_see_them(form: str) -> None:
    """In the base as the plan makes it: fan_in E x^2 E w^2 = 1 of what each op reads, x made by the ones before."""
    base = seeded(Net, 24, form)
    plan = hpt.make_plan(base, base=seeded(Net, 24, form), example_inputs=(X,), options=UNIT)
    hpt.parametrize_(base, plan)
    with torch.no_grad():
        base(X)
    for x, weight in base.seen:
        square = weight.shape[1] * float(x.pow(2).mean() * weight.pow(2).mean())
        assert square == pytest.approx(1, rel=1e-6 if form == "cast" else 1e-9)


def notes_of(base: nn.Module, x: Tensor) -> dict[str, float]:
    plan = hpt.make_plan(base, base=base, example_inputs=(x,), options=UNIT)
    found = [re.search(r"output of (\S+?),? .*has rms (\S+) at the base", note) for note in plan.notes]
    return {match[1]: float(match[2]) for match in found if match is not None}


def test_a_normalised_weight_is_left_and_its_true_output_said() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 24, bias=False), nn.Linear(24, 5)
            self.mid = parametrizations.weight_norm(nn.Linear(24, 24, bias=False))
            self.next = nn.Linear(24, 24, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            mid = self.mid(torch.relu(self.first(x)))
            return self.last(torch.relu(self.next(torch.relu(mid))))

    base = seeded(Normed)
    plan = hpt.make_plan(base, base=seeded(Normed), example_inputs=(X,), options=UNIT)
    left = [row for row in plan if row.name.startswith("mid.")]
    assert len(left) == 2 and all(row.init_mult == 1 for row in left)
    said = notes_of(seeded(Normed), X)
    hpt.parametrize_(base, plan)
    with torch.no_grad():
        mid: Any = base.mid(torch.relu(base.first(X)))
    rms = float(mid.pow(2).mean().sqrt())
    assert said == {"mid.parametrizations.weight.original1": pytest.approx(rms, rel=5e-3)} and rms < 0.75
    assert 24 * float(torch.relu(mid).pow(2).mean() * base.next.weight.detach().pow(2).mean()) == pytest.approx(
        1, rel=1e-9
    )


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_notes_hold_the_rms_of_the_base_as_the_plan_makes_it(mean: float) -> None:
    """Weights of mean 1 add up; what is said of them is what the model gives. Those of mean 0 need no note."""

    def build() -> nn.Sequential:
        net = nn.Sequential(*(seeded(nn.Linear, *size, seed=i) for i, size in enumerate([(8, 64), (64, 64), (64, 5)])))
        net.insert(1, nn.ReLU())
        with torch.no_grad():
            net[2].weight.add_(mean)
        return net

    base, said = build(), notes_of(build(), X)
    hpt.parametrize_(base, hpt.make_plan(base, base=build(), example_inputs=(X,), options=UNIT))
    rms = float(base[:3](X).detach().pow(2).mean().sqrt())
    assert (said == {"2.weight": pytest.approx(rms, rel=5e-3)}) == (mean == 1.0) and (rms > 2) == (mean == 1.0)


@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (2, 1), (2, 3)])
def test_a_convolution_sees_its_borders(padding: int, stride: int) -> None:
    """The std is that of the mean, over positions, of the sum of squares in a window."""

    def build() -> nn.Module:
        return nn.Sequential(seeded(nn.Conv2d, 3, 6, 3, padding=padding, stride=stride), nn.Flatten(1))

    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    plan = hpt.make_plan(build(), base=build(), example_inputs=(x,), options=UNIT)
    square = float(F.unfold(x.pow(2), 3, padding=padding, stride=stride).sum(1).mean())
    assert plan["0.weight"].init_std == pytest.approx(square**-0.5, rel=1e-9)
    assert abs(square / (27 * float(x.pow(2).mean())) - 1) > 0.02  # not what the mean over the whole image gives


@exports_filled_lists
def test_the_base_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    export = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda model, *a, **k: calls.append(model) or export(model, *a, **k))
    model, base = seeded(Net, 32, "cast"), seeded(Net, 16, "cast")
    hpt.make_plan(model, base=base, example_inputs=(X,), options=UNIT)
    assert sorted(map(id, calls)) == sorted([id(model), id(base)])


def test_what_torch_export_cannot_trace_is_refused_with_its_reason() -> None:
    class Branches(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) > -1e9 else x

    model = Branches(seeded(nn.Linear, 8, 16), nn.ReLU(), seeded(nn.Linear, 16, 5))
    with pytest.raises(hpt.UsageError, match=r"cannot trace Branches \(\w+: Could not guard .*forward='own'") as caught:
        hpt.make_plan(model, base=model, example_inputs=(X,), options=UNIT)
    assert caught.value.__cause__ is not None


def test_a_model_of_the_mup_package_is_measured() -> None:
    mup = pytest.importorskip("mup")

    def build(width: int) -> nn.Module:
        def net(w: int) -> nn.Module:
            return nn.Sequential(nn.Linear(8, w), nn.ReLU(), mup.MuReadout(w, 5, bias=False)).double()

        model = net(width)
        mup.set_base_shapes(model, net(8), delta=net(12))
        return model

    torch.manual_seed(0)
    base = build(32)
    plan = hpt.make_plan(base, base=base, example_inputs=(X,), options=UNIT)
    assert plan["0.weight"].init_std == pytest.approx(float(8 * X.pow(2).mean()) ** -0.5)


def test_the_last_weight_of_a_residual_branch_makes_no_output() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 16)
            self.norm = nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.norm(x + self.down(torch.relu(self.up(x))))

    graph = trace(seeded(Encoder), (X,))
    assert output_uses(graph, parameter_uses(graph)) == {}
