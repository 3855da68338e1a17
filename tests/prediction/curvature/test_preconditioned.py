"""P against what torch's optimizers really do, and lambda_max(P^-1 H) against dense matrices and real divergence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature import preconditioned
from hptransfer.prediction.curvature.curvature import sharpness, sharpness_by_block
from hptransfer.prediction.curvature.norm_sharpness import NormGeometry, norm_sharpness
from hptransfer.prediction.curvature.operators import Operator, ggn_operator, gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init, preconditioner_from_state
from tests.oracles.curvature import dense_hessian, largest_real_eigenvalue


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return model, [(torch.randn(16, 4).double(), torch.randn(16, 2).double()) for _ in range(3)]


def dense_inverse(p: preconditioned.Preconditioner) -> Tensor:
    """P^-1 as a matrix, column by column."""
    return torch.stack([p.inverse(e) for e in torch.eye(p.space.size, dtype=torch.float64)], dim=1)


MATRICES = ("0.weight", "2.weight")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Muon])
def test_preconditioned_sharpness_equals_the_dense_one(optimizer: type[torch.optim.Optimizer]) -> None:
    model, batches = case()
    space = ParameterSpace.of(model)
    mult = {"2.weight": 0.25, "0.bias": 3.0}
    p = preconditioner_at_init(optimizer, {}, space, gradients(model, mse, batches), lr_mult=mult)
    dense = torch.stack([dense_hessian(model, mse, b) for b in batches]).mean(dim=0)
    found = sharpness(model, mse, batches, preconditioner=p, tolerance=1e-7, max_products=500)
    assert found.converged
    assert found.value == pytest.approx(largest_real_eigenvalue(dense_inverse(p) @ dense), rel=1e-7)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {"betas": (0.0, 0.9)}),
        (torch.optim.Adam, {"betas": (0.0, 0.9), "amsgrad": True}),
        (torch.optim.AdamW, {"betas": (0.0, 0.99), "weight_decay": 0.0, "eps": 1e-3}),
        (torch.optim.RMSprop, {"alpha": 0.9}),
        (torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
        (torch.optim.Adagrad, {}),
        (torch.optim.SGD, {}),
    ],
)
def test_the_step_without_momentum_is_minus_lr_p_inverse_gradient(
    optimizer: type[torch.optim.Optimizer], options: dict
) -> None:
    """After some steps of state, torch's next step equals -lr P^-1 g with P read from the state, per group's LR."""
    model, batches = case()
    space = ParameterSpace.of(model)
    groups = [{"params": list(model[0].parameters()), "lr": 2e-3}, {"params": list(model[2].parameters()), "lr": 5e-4}]
    opt = optimizer(groups, lr=1e-3, **options)
    for step in range(5):
        before = space.flatten(space.tensors)
        g = gradients(model, mse, batches[:1])[0]
        opt.zero_grad()
        mse(model, batches[0]).backward()
        opt.step()
        moved = space.flatten(space.tensors) - before
        if step == 4:
            p = preconditioner_from_state(opt, space, lr=2e-3)
            assert torch.allclose(moved, -2e-3 * p.inverse(g), rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_muons_step_is_minus_lr_p_inverse_momentum(adjust: str | None) -> None:
    model, batches = case()
    space = ParameterSpace.of(model, MATRICES)
    opt = torch.optim.Muon(space.tensors, lr=0.1, weight_decay=0.0, nesterov=False, adjust_lr_fn=adjust)
    mse(model, batches[0]).backward()
    before = space.flatten(space.tensors)
    opt.step()
    moved = space.flatten(space.tensors) - before
    p = preconditioner_from_state(opt, space)
    momentum = space.flatten([opt.state[t]["momentum_buffer"] for t in space.tensors])
    expected = -0.1 * p.inverse(momentum)
    # torch runs Newton-Schulz in bfloat16 (8 bits), five rounds of it: a few percent
    assert (moved - expected).norm() < 0.05 * expected.norm()


def test_muon_and_adamw_side_by_side() -> None:
    model, batches = case()
    space = ParameterSpace.of(model)
    matrices = [t for n, t in zip(space.names, space.tensors, strict=True) if n in MATRICES]
    vectors = [t for n, t in zip(space.names, space.tensors, strict=True) if n not in MATRICES]
    several = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(vectors, lr=0.01)]
    mse(model, batches[0]).backward()
    for opt in several:
        opt.step()
    p = preconditioner_from_state(several, space)
    dense = dense_inverse(p)
    assert torch.allclose(dense, dense.T, atol=1e-9 * float(dense.abs().max()))
    assert float(torch.linalg.eigvalsh(dense)[0]) > 0
    assert sharpness(model, mse, batches, preconditioner=p).value > 0


@pytest.mark.parametrize(("factor", "settles"), [(0.97, True), (1.03, False)])
def test_adam_with_frozen_p_diverges_at_38_over_lambda(factor: float, settles: bool) -> None:
    """EMA momentum .9 with P fixed, on a linear model: stable below 38/lambda_max(P^-1 H), not above."""
    torch.manual_seed(0)
    model, batch = nn.Linear(5, 1).double(), (torch.randn(30, 5).double(), torch.randn(30, 1).double())
    space = ParameterSpace.of(model)
    p = preconditioner_at_init(torch.optim.Adam, {}, space, gradients(model, mse, [batch]))
    lr = factor * sharpness(model, mse, [batch], preconditioner=p, tolerance=1e-9).max_lr(38.0)
    m = torch.zeros(space.size, dtype=torch.float64)
    start = mse(model, batch).item()
    for _ in range(1500):
        m = 0.9 * m + 0.1 * gradients(model, mse, [batch])[0]
        space.assign(space.flatten(space.tensors) - lr * p.inverse(m))
    assert (mse(model, batch).item() < start) == settles


def test_p_by_block_and_refusals() -> None:
    model, batches = case()
    by_block = sharpness_by_block(
        model,
        mse,
        batches,
        matrix="ggn",
        blocks={"first": ("0.weight", "0.bias"), "last": ("2.weight", "2.bias")},
        preconditioner_for=lambda s: preconditioner_at_init(
            torch.optim.Adam, {}, s, gradients(model, mse, batches, space=s)
        ),
    )
    assert set(by_block) == {"first", "last"} and all(b.value > 0 for b in by_block.values())
    space = ParameterSpace.of(model)
    with pytest.raises(UsageError, match="Take at least one optimizer step"):
        preconditioner_from_state(torch.optim.Adam(model.parameters()), space)
    with pytest.raises(UsageError, match="in none of the optimizers"):
        preconditioner_from_state(torch.optim.SGD(model[0].parameters(), lr=1.0), space)
    with pytest.raises(UsageError, match="No preconditioner is known for LBFGS"):
        preconditioner_at_init(torch.optim.LBFGS, {}, space, torch.zeros(1, space.size))
    with pytest.raises(UsageError, match="singular"):
        preconditioned.elementwise(space, torch.zeros(space.size, dtype=torch.float64), eps=0.0)


def test_norm_sharpness_of_the_euclidean_ball_is_lambda_max() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False).double()
    space = ParameterSpace.of(model)
    raw = torch.randn(6, 6, dtype=torch.float64)
    geometry = NormGeometry(space, {"weight": "euclid"}, {})
    found = norm_sharpness(Operator.from_dense(raw @ raw.T), geometry, raw[0], iterations=2000, tolerance=1e-12)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(raw @ raw.T)[-1]), rel=1e-6)


def test_norm_sharpness_of_the_sign_ball_equals_exhaustive_search() -> None:
    """A convex form is largest at a corner of the cube: all 2^10 corners against the power method."""
    torch.manual_seed(1)
    space = ParameterSpace.of(nn.Linear(10, 1, bias=False).double())
    raw = torch.randn(10, 4, dtype=torch.float64)
    matrix = raw @ raw.T
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 10)
    best = float(((corners @ matrix) * corners).sum(dim=1).max())
    found = norm_sharpness(Operator.from_dense(matrix), NormGeometry.sign(space), raw[:, 0], starts=8, tolerance=0.0)
    assert found.value == pytest.approx(best, rel=1e-12)
    assert found.dual_gradient == pytest.approx(float(raw[:, 0].abs().sum()))
    assert found.stable_lr == pytest.approx(2 * found.dual_gradient / best)


def test_norm_sharpness_of_the_spectral_ball() -> None:
    """H = I kron C on 2x2 matrices: d'Hd = tr(C' D D') is largest at an orthogonal D, tr C, by rotation search; and
    no random point of the ball beats the power method on a network's Gauss-Newton matrix."""
    space = ParameterSpace.of(nn.Linear(2, 2, bias=False).double())
    c = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    operator = Operator.from_dense(torch.kron(c, torch.eye(2, dtype=torch.float64)))
    geometry = NormGeometry.muon(space)
    found = norm_sharpness(operator, geometry, torch.ones(4, dtype=torch.float64))
    assert found.value == pytest.approx(3.0, rel=1e-9)
    model, batches = case()
    whole = ParameterSpace.of(model)
    ggn, ball = ggn_operator(model, mse, batches), NormGeometry.muon(whole, {"0.weight": 2.0})
    found = norm_sharpness(ggn, ball, gradients(model, mse, batches).mean(dim=0), starts=6)
    rivals = [ball.steepest(ggn.random_vector(100 + k)) for k in range(300)]
    assert found.value >= max(float(d @ ggn(d)) for d in rivals)
    spectral = torch.linalg.matrix_norm(whole.named(found.direction)["0.weight"], ord=2)
    assert float(spectral) == pytest.approx(2.0)


def test_a_normalised_step_below_stable_lr_lowers_the_quadratic() -> None:
    model, batches = case()
    space = ParameterSpace.of(model)
    ggn, g = ggn_operator(model, mse, batches), gradients(model, mse, batches).mean(dim=0)
    ball = NormGeometry.muon(space)
    found = norm_sharpness(ggn, ball, g, starts=6)
    step = -0.999 * found.stable_lr * ball.steepest(g)
    assert float(g @ step + 0.5 * step @ ggn(step)) < 0


def test_geometry_refusals() -> None:
    space = ParameterSpace.of(nn.Linear(2, 2).double())
    with pytest.raises(UsageError, match="bias"):
        NormGeometry(space, {"weight": "spectral", "bias": "spectral"}, {})
    with pytest.raises(UsageError, match="unknown parameters"):
        NormGeometry.sign(space, {"head": 1.0})
