"""The proxy's stability limit against dense matrices, and its noise scale against the definition."""

import itertools

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.operators import gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init
from hptransfer.prediction.forecast.measured import noise_scale, stability_limit
from tests.cases.validation import batches, double, recipe
from tests.oracles.curvature import dense_hessian, largest_real_eigenvalue


def test_adams_limit_is_38_over_the_largest_eigenvalue_of_the_dense_p_inverse_h():
    found = stability_limit(double, double.base)
    torch.manual_seed(0)
    model = double.build(double.base)
    data = list(itertools.islice(double.batches(double.base, 0), 4))
    space = ParameterSpace.of(model)
    p = preconditioner_at_init(torch.optim.Adam, {}, space, gradients(model, double.loss, data))
    inverse = torch.stack([p.inverse(e) for e in torch.eye(space.size, dtype=torch.float64)], dim=1)
    dense = torch.stack([dense_hessian(model, double.loss, batch) for batch in data]).mean(dim=0)
    # 2 (1 + b1) / (1 - b1) = 38 (2207.14484, section 2); Lanczos stops at a residual of 1%
    assert found.value == pytest.approx(38 / largest_real_eigenvalue(inverse @ dense), rel=0.01)
    assert found.low is not None and 0 < found.low < found.value


def test_an_optimizer_without_a_known_preconditioner_is_refused():
    with pytest.raises(UsageError):
        stability_limit(recipe.replace(optimizer=torch.optim.LBFGS), recipe.base)


def test_the_noise_scale_is_positive_and_inside_its_interval():
    found = noise_scale(recipe, recipe.base)
    assert found.value > 0 and found.unit == "batches"
    assert found.contains(found.value) in (True, None)


def test_equal_batches_have_no_noise():
    def same(scale, seed):
        return itertools.repeat(next(batches(scale, 0)))

    found = noise_scale(recipe.replace(batches=same), recipe.base)
    assert found.value == pytest.approx(0, abs=1e-5)
