"""Lanczos against dense eigenvalues, quadrature exactness, and spectral densities against their exact moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import eval_chebyu
from torch import Tensor

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.lanczos import extreme_eigenpair, lanczos, lanczos_quadrature, spectral_density
from hptransfer.prediction.curvature.operators import Operator, check_deterministic


def symmetric(size: int, spectrum: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * spectrum) @ q.T


POWER = torch.arange(1, 301, dtype=torch.float64) ** -1.2
SPECTRUM = torch.cat([POWER[:150], -0.5 * POWER[:150]])
DENSE = symmetric(300, SPECTRUM)
OPERATOR = Operator.from_dense(DENSE)


def test_full_lanczos_has_the_dense_spectrum() -> None:
    small = symmetric(30, torch.linspace(-1, 2, 30, dtype=torch.float64))
    tri = lanczos(Operator.from_dense(small), torch.ones(30, dtype=torch.float64), 30)
    assert np.allclose(tri.ritz()[0], torch.linalg.eigvalsh(small).numpy(), atol=1e-10)
    gram = tri.basis @ tri.basis.T
    assert torch.allclose(gram, torch.eye(30, dtype=torch.float64), atol=1e-13), "the basis lost orthogonality"


def test_lanczos_stops_where_the_krylov_space_ends() -> None:
    """Two distinct eigenvalues: two steps span everything that the start vector can reach."""
    matrix = symmetric(50, torch.cat([torch.ones(20), 3 * torch.ones(30)]).double())
    tri = lanczos(Operator.from_dense(matrix), torch.ones(50, dtype=torch.float64), 40)
    assert len(tri.diagonal) == 2
    assert tri.last == 0.0


@pytest.mark.parametrize("end", ["largest", "smallest"])
@pytest.mark.parametrize("basis_size", [40, 10])
def test_extreme_eigenpairs_lie_within_their_residual(end: str, basis_size: int) -> None:
    pair = extreme_eigenpair(OPERATOR, end=end, tolerance=1e-4, basis_size=basis_size, max_products=3000)
    exact = torch.linalg.eigvalsh(DENSE)
    assert pair.converged
    assert float((exact - pair.value).abs().min()) <= pair.residual * (1 + 1e-6) + 1e-12
    assert pair.value == pytest.approx(float(exact[-1 if end == "largest" else 0]), abs=1e-3)
    true_residual = (DENSE @ pair.vector - pair.value * pair.vector).norm()
    assert pair.residual == pytest.approx(float(true_residual), rel=1e-3, abs=1e-10)


def test_running_out_of_products_is_reported() -> None:
    pair = extreme_eigenpair(OPERATOR, tolerance=1e-12, max_products=5)
    assert not pair.converged and pair.products == 5
    assert pair.residual > 1e-12 * pair.value


def test_quadrature_is_exact_for_polynomials_up_to_twice_its_nodes() -> None:
    start = OPERATOR.random_vector(1)
    rule = lanczos_quadrature(OPERATOR, start, steps=4)
    power = start
    for degree in range(1, 8):
        power = DENSE @ power
        assert rule.integral(lambda x, k=degree: x**k) == pytest.approx(float(start @ power), rel=1e-11)
    assert rule.integral(lambda x: x**9) != pytest.approx(float(start @ (DENSE @ (DENSE @ power))), rel=1e-11)


def test_density_has_the_trace_within_its_error_and_integrates_to_one() -> None:
    density = spectral_density(OPERATOR, probes=16, steps=40)
    for function, exact in ((lambda x: x, DENSE.trace()), (lambda x: x**2, (DENSE @ DENSE).trace())):
        value, error = density.trace(function)
        assert abs(value - float(exact)) < 4 * error
    grid = np.linspace(-1.0, 1.5, 5001)
    assert np.trapezoid(density.density(grid, width=0.01), grid) == pytest.approx(1.0, abs=1e-6)
    value, error = density.count_above(0.1)
    assert abs(value - int((SPECTRUM > 0.1).sum())) < 4 * error + 1


def test_semicircle() -> None:
    """A GOE matrix has the semicircle density of radius 2: Chebyshev moments E U_k(x/2) = 0 for k >= 1 up to 1/size,
    and the smoothed densities agree."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(600, 600, generator=generator, dtype=torch.float64)
    density = spectral_density(Operator.from_dense((raw + raw.T) / np.sqrt(1200)), probes=16, steps=60)
    for order in range(1, 7):
        value, error = density.trace(lambda x, k=order: eval_chebyu(k, x / 2))
        assert abs(value) < 4 * error + 3
    grid = np.linspace(-3.5, 3.5, 1401)
    exact = np.sqrt(np.clip(4 - grid**2, 0, None)) / (2 * np.pi)
    bump = np.exp(-0.5 * (grid / 0.2) ** 2)
    smoothed = np.convolve(exact, bump / bump.sum(), mode="same")
    # about 100 eigenvalues lie under one bump, 16 probes: relative noise sqrt(2/1600) = 3.5%
    assert np.trapezoid(abs(density.density(grid, width=0.2) - smoothed), grid) < 0.06


def test_determinism_probe() -> None:
    check_deterministic(OPERATOR)
    noise = torch.Generator().manual_seed(0)
    shaky = Operator(3, (lambda v: v + 1e-3 * torch.randn(3, generator=noise, dtype=torch.float64),))
    with pytest.raises(UsageError, match="differ"):
        check_deterministic(shaky)
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(UsageError, match="not symmetric"):
        check_deterministic(Operator.from_dense(skew))
    with pytest.raises(UsageError, match="not finite"):
        check_deterministic(Operator(2, (lambda v: v / 0.0,)))


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="norm 0"):
        lanczos(OPERATOR, torch.zeros(300, dtype=torch.float64), 5)
    with pytest.raises(UsageError, match="choose 'largest'"):
        extreme_eigenpair(OPERATOR, end="both")


def test_lanczos_started_at_the_eigenvector_is_done_at_once() -> None:
    """One product: what a monitor asks for when the curvature has not moved since it last looked."""
    first = extreme_eigenpair(OPERATOR, tolerance=1e-8)
    again = extreme_eigenpair(OPERATOR, tolerance=1e-3, start=first.vector)
    assert again.products == 1 and again.converged
    assert again.value == pytest.approx(first.value, rel=1e-9)
