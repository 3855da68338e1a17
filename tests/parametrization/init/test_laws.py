"""How often the model's own initial law is misjudged, by Monte Carlo through initial_factors; and exact cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.parametrization.init.initial import initial_factors
from hptransfer.parametrization.measure import kurtosis, rms
from hptransfer.parametrization.row import Row

M = 4  # the target is four times as wide as the base
KINDS = {"readout": (M, 1, 1 / M), "vector": (1, M, 1.0), "hidden": (M, M, M**-0.5)}  # m_in, m_out, the plan's ratio
# (kind, own law of the weight beside it, own law)
CASES = [("readout", None, 1.0), ("readout", None, M**-0.5), ("readout", None, 1 / M), ("vector", None, 1.0)]
CASES += [("vector", None, M**-0.5), ("vector", M**-0.5, 1.0), ("vector", M**-0.5, M**-0.5), ("vector", 1.0, 1.0)]


def values(n: int, kind: str, g: torch.Generator) -> Tensor:
    """n values of rms 1."""
    if kind == "normal":
        return torch.randn(n, generator=g, dtype=torch.float64)
    return math.sqrt(3) * (2 * torch.rand(n, generator=g, dtype=torch.float64) - 1)


class Model:
    """Rows and values of a target whose parameters follow given laws, with a base of as many layers."""

    def __init__(self, distribution: str, seed: int) -> None:
        self.rows: dict[str, Row] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.distribution, self.g = distribution, torch.Generator().manual_seed(seed)

    def add(self, name: str, kind: str, n: int, law: float, host: str = "") -> None:
        """n: entries of the base's parameter."""
        m_in, m_out, ratio = KINDS[kind]
        base = float(values(n, self.distribution, self.g).pow(2).mean().sqrt())
        own = nn.Parameter(law * values(int(n * m_in * m_out), self.distribution, self.g))
        numbers = {"init_std": base * ratio, "init_mult": ratio, "lr_mult": 1.0, "wd_mult": 1.0, "eps_mult": 1.0}
        shape = {"shape": tuple(own.shape), "base_shape": (n,), "m_in": m_in, "m_out": m_out}
        self.rows[name] = Row(name, role=kind, fan_in=M, fan_out=M, base=name, host=host, **numbers, **shape)
        self.parameters[name] = own

    def own_law(self, name: str) -> float:
        """The law that was found."""
        factors = initial_factors(self.parameters, hpt.Plan("mup", {"AdamW": OptimizerInfo.of("AdamW")}, self.rows, {}))
        return self.rows[name].init_mult / (factors[name][0] if name in factors else 1.0)


def misjudged(n: int, distribution: str, repeats: int, layers: int = 1) -> float:
    """Share of (law, draw) of which the law that is found is not the true one. n: entries of the base's tensor."""
    wrong = 0
    for at, (kind, host_law, law) in enumerate(CASES):
        for repeat in range(repeats):
            model = Model(distribution, seed=1000 * at + repeat)
            for layer in range(layers):
                if host_law is not None:
                    model.add(f"{layer}.weight", "hidden", n * n, host_law)
                host = f"{layer}.weight" if host_law is not None else ""
                model.add(f"{layer}.x", kind, n, law, host)
            wrong += not math.isclose(model.own_law("0.x"), law, rel_tol=1e-6)
    return wrong / repeats / len(CASES)


@pytest.mark.parametrize(
    ("n", "distribution", "most"),
    [
        *[(8, "uniform", 0.09), (8, "normal", 0.21), (16, "uniform", 0.03), (16, "normal", 0.09)],
        *[(32, "uniform", 0.015), (32, "normal", 0.03), (64, "uniform", 0.01), (64, "normal", 0.01)],
    ],
)
def test_a_single_small_tensor_is_seldom_misjudged(n: int, distribution: str, most: float) -> None:
    assert misjudged(n, distribution, repeats=100) <= most


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_layers_of_one_kind_are_judged_together(distribution: str) -> None:
    assert misjudged(8, distribution, repeats=40, layers=4) <= 0.04


@pytest.mark.parametrize("law", [1.0, M**-0.5])
def test_a_sibling_of_the_same_name_settles_what_few_values_leave_open(law: float) -> None:
    """Five values beside a weight of another law: biases elsewhere in the model tell which one biases follow."""
    wrong = {True: 0, False: 0}
    for with_sibling in wrong:
        for seed in range(60):
            model = Model("normal", seed)
            for k in range(3 if with_sibling else 0):
                model.add(f"body.{k}.bias", "readout", 200, law)
            model.add("head.bias", "readout", 5, law)
            wrong[with_sibling] += model.own_law("head.bias") != law
    assert wrong[True] <= 3 < 6 <= wrong[False], wrong


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
def test_constants_are_told_exactly_however_few(power: float) -> None:
    """At m = 1.02 the powers differ by a fifth of the standard error that as many random values would have."""

    def build(width: int) -> nn.Module:
        last = nn.Linear(width, 1, bias=False)
        nn.init.constant_(last.weight, 0.02 * width**power)
        return nn.Sequential(nn.Linear(8, width, bias=False), last).double()

    model = build(102)
    plan = hpt.make_plan(model, base=build(100), example_inputs=(torch.randn(4, 8).double(),))
    hpt.parametrize_(model, plan)
    found = dict(model.named_parameters())["1.weight"]
    torch.testing.assert_close(found, torch.full_like(found, 0.02 * 100**power * 100 / 102), rtol=1e-7, atol=0)


def test_a_law_that_is_none_of_them_is_measured_where_it_can_be() -> None:
    model = Model("normal", 0)
    model.add("x.weight", "readout", 4000, 0.7)
    assert model.own_law("x.weight") == pytest.approx(0.7, rel=0.05)


def test_kurtosis_of_known_distributions() -> None:
    g = torch.Generator().manual_seed(0)
    for kind, expected in (("normal", 3.0), ("uniform", 1.8)):
        x = values(10_000, kind, g)
        assert kurtosis(x, rms(x)) == pytest.approx(expected, abs=0.15)  # five standard errors of the normal's
    assert kurtosis(torch.full((7,), -0.3), 0.3) == 1.0
