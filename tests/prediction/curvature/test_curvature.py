"""Curvature by matrix-vector products against dense matrices in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.curvature import sharpness, sharpness_by_block
from hptransfer.prediction.curvature.operators import check_deterministic, ggn_operator, gradients, hessian_operator
from hptransfer.prediction.curvature.parameters import ParameterSpace
from tests.oracles.curvature import dense_ggn, dense_hessian


class Attention(nn.Module):
    """One causal head with a tied embedding, through scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        return self.norm(x) @ self.embed.weight.T


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = model(batch[0])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))


def mlp_case(seed: int = 0) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, [(torch.randn(8, 5).double(), torch.randint(3, (8,))) for _ in range(4)]


def conv_case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(27, 3)).double()
    return model, [(torch.randn(6, 1, 5, 5).double(), torch.randint(3, (6,))) for _ in range(2)]


def attention_case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(2)
    return Attention().double(), [(torch.randint(7, (3, 5)), torch.randint(7, (3, 5))) for _ in range(2)]


CASES = {"mlp": mlp_case, "conv with batch norm": conv_case, "tied attention": attention_case}


def dense_mean(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    total = torch.stack([dense_hessian(model, cross_entropy, b) for b in batches]).mean(dim=0)
    for n, b in model.named_buffers():
        b.copy_(buffers[n])
    return total


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_hessian_products_and_sharpness_equal_the_dense_matrix(case) -> None:
    model, batches = case()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    dense = dense_mean(model, batches)
    operator = hessian_operator(model, cross_entropy, batches)
    check_deterministic(operator)
    v = operator.random_vector(3)
    assert torch.allclose(operator(v), dense @ v, atol=1e-11)
    found = sharpness(model, cross_entropy, batches, tolerance=1e-8)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9)
    assert sum(found.per_batch) / len(batches) == pytest.approx(found.value, rel=1e-9)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items()), "the model was changed"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("case", [mlp_case, attention_case], ids=["mlp", "tied attention"])
def test_central_differences_agree_with_double_backward(case) -> None:
    model, batches = case()
    exact = hessian_operator(model, cross_entropy, batches)
    differences = hessian_operator(model, cross_entropy, batches, method="central-difference")
    before = [p.clone() for p in model.parameters()]
    v = exact.random_vector(0)
    # the relative error of the best step is ~ eps^(2/3) = 4e-11, times third derivatives of order |theta|^2
    assert (exact(v) - differences(v)).norm() < 1e-7 * exact(v).norm()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gauss_newton_equals_the_three_dense_factors() -> None:
    model, batches = mlp_case()
    dense = torch.stack([dense_ggn(model, F.cross_entropy, x, y) for x, y in batches]).mean(dim=0)
    operator = ggn_operator(model, cross_entropy, batches)
    v = operator.random_vector(5)
    assert torch.allclose(operator(v), dense @ v, atol=1e-12)
    assert sharpness(model, cross_entropy, batches, matrix="ggn", tolerance=1e-8).value == pytest.approx(
        float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9
    )


def test_gauss_newton_of_a_linear_model_is_its_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    batch = (torch.randn(9, 4).double(), torch.randint(3, (9,)))
    v = torch.randn(15).double()
    hessian = hessian_operator(model, cross_entropy, [batch])
    assert torch.allclose(hessian(v), ggn_operator(model, cross_entropy, [batch])(v), atol=1e-13)


class ComputesItsLoss(nn.Module):
    """In the manner of transformers: returns a dict with the loss and the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = self.head(torch.tanh(self.body(x)))
        return {"loss": F.cross_entropy(logits, y), "logits": logits}


def test_gauss_newton_splits_inside_a_model_that_computes_its_own_loss() -> None:
    plain, batches = mlp_case()
    model = ComputesItsLoss().double()
    model.body.load_state_dict(plain[0].state_dict())
    model.head.load_state_dict(plain[2].state_dict())
    inside = ggn_operator(model, lambda m, b: m(*b)["loss"], batches, outputs="head")
    v = inside.random_vector(0)
    assert torch.allclose(inside(v), ggn_operator(plain, cross_entropy, batches)(v), atol=1e-13)


def test_gauss_newton_refuses_a_loss_that_goes_past_the_outputs() -> None:
    model, batches = mlp_case()

    def penalised(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(m, batch) + sum(p.square().sum() for p in m.parameters())

    with pytest.raises(UsageError, match="past the network's outputs"):
        ggn_operator(model, penalised, batches)(torch.ones(ParameterSpace.of(model).size).double())
    with pytest.raises(UsageError, match="called 2 times"):
        twice = ggn_operator(model, lambda m, b: cross_entropy(m, b) + cross_entropy(m, b), batches)
        twice(torch.ones(twice.size).double())
    with pytest.raises(UsageError, match="no such submodule"):
        ggn_operator(model, cross_entropy, batches, outputs="lm_head")


def test_dropout_is_refused_unless_its_masks_are_held() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    batches = mlp_case()[1]
    with pytest.raises(UsageError, match="dropout"):
        sharpness(model, cross_entropy, batches)
    state = torch.get_rng_state()
    held = [sharpness(model, cross_entropy, batches, seed=1).value for _ in range(2)]
    assert held[0] == held[1]
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state moved"
    assert sharpness(model.eval(), cross_entropy, batches).value > 0


def test_a_compiled_model_is_measured_eagerly() -> None:
    model, batches = mlp_case()
    plain = sharpness(model, cross_entropy, batches).value
    model.compile(backend="aot_eager")
    assert sharpness(model, cross_entropy, batches).value == pytest.approx(plain)


def test_blocks_bound_the_whole_matrix() -> None:
    model, batches = mlp_case()
    whole = sharpness(model, cross_entropy, batches, matrix="ggn", tolerance=1e-6).value
    blocks = sharpness_by_block(model, cross_entropy, batches, matrix="ggn", tolerance=1e-6)
    values = [b.value for b in blocks.values()]
    assert set(blocks) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert max(values) <= whole * (1 + 1e-6) <= sum(values) * (1 + 1e-5)
    start, dense = 30 + 6, torch.stack([dense_ggn(model, F.cross_entropy, x, y) for x, y in batches]).mean(dim=0)
    corner = dense[start : start + 18, start : start + 18]
    assert blocks["2.weight"].value == pytest.approx(float(torch.linalg.eigvalsh(corner)[-1]), rel=1e-6)


def test_batch_error_covers_the_draw_of_batches() -> None:
    """lambda_max over 6 batches of a pool of 120, against the whole pool's: z-scores are of order one, and the bias
    (the top eigenvalue of a mean of few matrices is too large) has the predicted sign and at most the predicted
    size."""
    model, _ = mlp_case()
    torch.manual_seed(7)
    pool = [(torch.randn(4, 5).double(), torch.randint(3, (4,))) for _ in range(120)]
    truth = sharpness(model, cross_entropy, pool, tolerance=1e-4).value
    draws = [sharpness(model, cross_entropy, pool[6 * k : 6 * k + 6], tolerance=1e-4) for k in range(20)]
    excess = torch.tensor([d.value - truth for d in draws])
    error = torch.tensor([d.batch_error for d in draws])
    bias = torch.tensor([d.batch_bias for d in draws])
    inside = [d.interval[0] <= truth <= d.interval[1] for d in draws]
    assert sum(inside) >= 16, "a 95% interval missed more than a fifth of 20 draws"
    assert -2 * float(error.mean()) / math.sqrt(20) < float(excess.mean())
    assert float(excess.mean()) < float(bias.mean()) + 2 * float(error.mean()) / math.sqrt(20)
    one = sharpness(model, cross_entropy, pool[:1])
    assert math.isinf(one.batch_error) and math.isinf(one.batch_bias)


def test_gradients_are_those_of_backward() -> None:
    model, batches = mlp_case()
    rows = gradients(model, cross_entropy, batches)
    cross_entropy(model, batches[2]).backward()
    assert torch.equal(rows[2], torch.cat([p.grad.reshape(-1) for p in model.parameters()]))


def test_bad_input_is_named() -> None:
    model, batches = mlp_case()
    with pytest.raises(UsageError, match="at least one batch"):
        sharpness(model, cross_entropy, [])
    with pytest.raises(UsageError, match="choose one of"):
        sharpness(model, cross_entropy, batches, matrix="fisher")
    with pytest.raises(UsageError, match="No trainable parameter is named"):
        sharpness(model, cross_entropy, batches, params=["head.weight"])
    with pytest.raises(UsageError, match="must be one number"):
        sharpness(model, lambda m, b: m(b[0]), batches)


class Once(torch.autograd.Function):
    """Doubles its input, and may be differentiated once only, as many fused kernels may."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * slope


@pytest.mark.parametrize("place", ["whole loss", "a residual branch"])
def test_a_kernel_without_a_second_derivative_is_refused_where_it_once_read_as_no_curvature(place: str) -> None:
    model, batches = mlp_case()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        made = model(batch[0])
        return F.cross_entropy(Once.apply(made) + (made if place == "a residual branch" else 0), batch[1])

    def written_out(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy((3 if place == "a residual branch" else 2) * model(batch[0]), batch[1])

    with pytest.raises(UsageError, match="once_differentiable"):
        sharpness(model, loss, batches)
    space = ParameterSpace.of(model)
    operator = hessian_operator(model, loss, batches, space=space, method="central-difference")
    vector = operator.random_vector(0)
    exact = hessian_operator(model, written_out, batches, space=space)(vector)
    torch.testing.assert_close(operator(vector), exact, rtol=1e-4, atol=1e-6)
