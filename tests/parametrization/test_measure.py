"""What is measured of present values: rms, kurtosis and order, against numpy and the moments of known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hptransfer.parametrization.measure import is_ordered, kurtosis, measure_rms, rms

G = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_is_numpy_s(dtype: torch.dtype) -> None:
    values = torch.randn(7, 11, generator=G, dtype=torch.float64).to(dtype)
    exact = np.sqrt(np.mean(values.double().numpy() ** 2))
    assert rms(values) == pytest.approx(exact, rel=1e-6)
    assert rms(torch.empty(0)) == 0.0


def test_parameters_on_meta_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, device="meta"))
    assert measure_rms(model).keys() == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("values", "moment"),
    [
        (torch.randn(16000, generator=G, dtype=torch.float64), 3.0),
        (torch.rand(16000, generator=G, dtype=torch.float64) - 0.5, 1.8),
        (torch.full((16000,), 0.3, dtype=torch.float64), 1.0),
    ],
)
def test_kurtosis_of_a_normal_a_uniform_and_a_constant(values: torch.Tensor, moment: float) -> None:
    assert kurtosis(values, rms(values)) == pytest.approx(moment, rel=0.05)


def test_kurtosis_of_few_values_is_drawn_towards_the_normal_s_by_ten_of_them() -> None:
    values = torch.rand(20, generator=G, dtype=torch.float64) - 0.5
    own = float((values**4).mean() / (values**2).mean() ** 2)
    assert kurtosis(values, rms(values)) == pytest.approx((20 * own + 10 * 3) / 30)
    signs = torch.tensor([0.5, -0.5, 0.5])
    assert kurtosis(signs, rms(signs)) == 1.0  # a constant up to sign is none of few draws


@pytest.mark.parametrize(("numel", "measured"), [(2**14, True), (2**14 + 1, False), (0, False)])
def test_kurtosis_of_many_or_no_values_is_the_normal_s(numel: int, measured: bool) -> None:
    values = torch.rand(numel, generator=G) - 0.5
    assert (kurtosis(values, rms(values)) < 2) == measured
    assert kurtosis(torch.zeros(4), 0.0) == 3.0


def test_a_vector_of_eight_that_only_rises_or_falls_is_ordered() -> None:
    """A random vector of 8 is ordered with probability 2 / 8! = 1 / 20160."""
    rising = torch.arange(1.0, 9.0).log()
    assert is_ordered(rising) and is_ordered(-rising)
    assert not is_ordered(rising[:7]) and not is_ordered(rising.view(2, 4)) and not is_ordered(torch.tensor(1.0))
    swapped = rising.clone()
    swapped[3], swapped[4] = rising[4], rising[3]
    level = rising.clone()
    level[4] = level[3]
    assert not is_ordered(swapped) and not is_ordered(level) and not is_ordered(-level)
