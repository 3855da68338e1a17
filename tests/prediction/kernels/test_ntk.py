"""Infinite-width kernels: anchors, and sampled finite networks whose mean kernels and convergence they must
forecast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.curvature import sharpness
from hptransfer.prediction.kernels.empirical_ntk import (
    empirical_ntk,
    empirical_ntk_by_block,
    ntk_lambda_max,
    ntk_operator,
)
from hptransfer.prediction.kernels.ntk import (
    act,
    conv,
    dense,
    flatten,
    global_average_pool,
    infinite_width,
    residual,
    rms_norm,
)
from tests.oracles.curvature import ChannelRMSNorm, NTKConv, NTKLinear, Residual, dense_jacobian
from tests.support.reference import anchors


def test_relu_anchors() -> None:
    """rho and Theta after every hidden layer, s_w^2 = 2, diag(Theta) = layer + 1."""
    section = anchors("relu_nngp_rho_ntk_offdiag_and_normalised(diag=L+1)_per_layer")
    for key, rows in section.items():
        rho = float(key.split("=")[1])
        x = np.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]]) * np.sqrt(2)
        for depth, (nngp, ntk, normalised) in enumerate(rows, start=1):
            k = infinite_width([dense(), *[act("relu"), dense(2.0)] * depth], x)
            assert np.allclose(np.diag(k.nngp), 1.0) and np.allclose(np.diag(k.ntk), depth + 1)
            assert k.nngp[0, 1] == pytest.approx(nngp, abs=1e-7)
            assert k.ntk[0, 1] == pytest.approx(ntk, abs=1e-7)
            assert k.ntk[0, 1] / (depth + 1) == pytest.approx(normalised, abs=1e-7)


def erf() -> nn.Module:
    class Erf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(x)

    return Erf()


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        NTKLinear(5, width, 1.5, 0.1), erf(), NTKLinear(width, width, 2.0, 0.2), nn.GELU(), NTKLinear(width, 1, 1.0)
    )


def conv_flat(width: int) -> nn.Module:
    return nn.Sequential(
        NTKConv(2, width, 3, padding=1, weight_var=2.0, bias_var=0.1),
        nn.ReLU(),
        NTKConv(width, width, 2, stride=2, weight_var=2.0),
        nn.GELU(),
        nn.Flatten(),
        NTKLinear(width * 4, 1, 1.3, 0.1),
    )


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(dim=2)


def conv_pool(width: int) -> nn.Module:
    return nn.Sequential(
        NTKConv(2, width, 3, padding="circular", weight_var=2.0),
        nn.ReLU(),
        NTKConv(width, width, 3, padding=1, weight_var=2.0, bias_var=0.1),
        erf(),
        Pool(),
        NTKLinear(width, 1, 1.5),
    )


def conv_1d(width: int) -> nn.Module:
    return nn.Sequential(NTKConv(2, width, 3, dims=1, weight_var=2.0), Pool(), nn.Tanh(), NTKLinear(width, 1, 1.5))


def resnet(width: int) -> nn.Module:
    def block() -> nn.Module:
        inner = nn.Sequential(
            ChannelRMSNorm(),
            NTKConv(width, width, 3, padding=1, weight_var=2.0),
            nn.ReLU(),
            NTKConv(width, width, 3, padding=1, weight_var=1.0),
        )
        return Residual(inner, scale=0.7)

    return nn.Sequential(NTKConv(2, width, 3, padding=1), block(), block(), nn.ReLU(), Pool(), NTKLinear(width, 1, 2.0))


BLOCK = residual(rms_norm(), conv(3, padding=1, weight_var=2.0), act("relu"), conv(3, padding=1), scale=0.7)
IMAGES, LINES, ROWS = (2, 4, 4), (2, 6), (5,)
CASES: dict[str, tuple[Callable[[int], nn.Module], list, tuple[int, ...]]] = {
    "dense": (mlp, [dense(1.5, 0.1), act("erf"), dense(2.0, 0.2), act("gelu"), dense()], ROWS),
    "conv, vectorised": (
        conv_flat,
        [
            conv(3, padding=1, weight_var=2.0, bias_var=0.1),
            act("relu"),
            conv(2, stride=2, weight_var=2.0),
            act("gelu"),
            flatten(),
            dense(1.3, 0.1),
        ],
        IMAGES,
    ),
    "conv, pooled": (
        conv_pool,
        [
            conv(3, padding="circular", weight_var=2.0),
            act("relu"),
            conv(3, padding=1, weight_var=2.0, bias_var=0.1),
            act("erf"),
            global_average_pool(),
            dense(1.5),
        ],
        IMAGES,
    ),
    "1-d conv, pooled before a tanh": (
        conv_1d,
        [conv(3, weight_var=2.0), global_average_pool(), act(torch.tanh), dense(1.5)],
        LINES,
    ),
    "residual with norms": (
        resnet,
        [conv(3, padding=1), BLOCK, BLOCK, act("relu"), global_average_pool(), dense(2.0)],
        IMAGES,
    ),
}


def inputs(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def sampled(build: Callable[[int], nn.Module], x: Tensor, width: int, seeds: int) -> Tensor:
    """Empirical kernels of freshly initialised networks, (seeds, n, n)."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(empirical_ntk(build(width), x))
    return torch.stack(found)


@pytest.mark.parametrize("name", CASES)
def test_finite_networks_have_the_kernels_in_the_mean(name: str) -> None:
    """24 networks of width 192: NTK entries within 4 standard errors plus the 1/width correction (3%), and output
    covariances (NNGP) of 24 x 192-fold independent readouts within 5 standard errors of a covariance estimate."""
    build, layers, shape = CASES[name]
    x = inputs(shape)
    exact = infinite_width(layers, x.numpy())
    kernel = sampled(build, x, 192, 24)
    mean, error = kernel.mean(dim=0).numpy(), (kernel.std(dim=0) / 24**0.5).numpy()
    assert (abs(mean - exact.ntk) < 4 * error + 0.03 * abs(exact.ntk).max()).all()
    outputs = []
    for seed in range(400):
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs.append(build(48)(x)[:, 0])
    stacked = torch.stack(outputs).numpy()
    covariance = stacked.T @ stacked / len(stacked)
    # var of a covariance estimate of m Gaussian samples: (K_ii K_jj + K_ij^2)/m; width 48 adds its 1/width ~ 5%
    diagonal = np.diag(exact.nngp)
    spread = np.sqrt((np.outer(diagonal, diagonal) + exact.nngp**2) / len(stacked))
    assert (abs(covariance - exact.nngp) < 4 * spread + 0.05 * diagonal.max()).all()


@pytest.mark.parametrize(
    ("name", "widths", "seeds"),
    [
        ("dense", (32, 64, 128, 256, 512), 64),
        ("conv, vectorised", (16, 32, 64, 128, 256), 64),
        ("residual with norms", (16, 32, 64, 128), 32),
    ],
)
def test_the_empirical_kernel_converges_at_rate_one_half(name: str, widths: tuple[int, ...], seeds: int) -> None:
    """Relative Frobenius distance of single networks to the infinite kernel, root mean square over seeds, against
    width: the log-log slope is -1/2. Its error is measured by jackknife over seeds (.03 to .06); 2.5 of it are
    allowed, and .02 for the kernel's 1/width bias, which adds (1/width)^2 to the mean square."""
    build, layers, shape = CASES[name]
    x = inputs(shape)
    exact = torch.as_tensor(infinite_width(layers, x.numpy()).ntk)
    drawn = [sampled(build, x, width, seeds) for width in widths]
    errors = np.array([[float((k - exact).norm() / exact.norm()) for k in kernel] for kernel in drawn])

    def slope(columns: np.ndarray) -> float:
        return float(np.polyfit(np.log(widths), np.log(np.sqrt((columns**2).mean(axis=1))), 1)[0])

    folds = np.array([slope(np.delete(errors, k, axis=1)) for k in range(seeds)])
    spread = float(np.sqrt((seeds - 1) / seeds * ((folds - folds.mean()) ** 2).sum()))
    assert spread < 0.08
    assert abs(slope(errors) + 0.5) < 2.5 * spread + 0.02


def test_the_empirical_kernel_is_the_product_of_dense_jacobians() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()
    x, y = inputs((4,), 5), inputs((4,), 4) + 1
    jx, jy = (dense_jacobian(model, v).reshape(len(v), 3, -1) for v in (x, y))
    full = torch.einsum("ikp,jlp->ijkl", jx, jy)
    assert torch.allclose(empirical_ntk(model, x, y, mean_outputs=False, chunk=2), full, atol=1e-12)
    mean = torch.einsum("ijkk->ij", full) / 3
    assert torch.allclose(empirical_ntk(model, x, y), mean, atol=1e-12)
    blocks = empirical_ntk_by_block(model, x, y, chunk=3)
    assert set(blocks) == {n for n, _ in model.named_parameters()}
    assert torch.allclose(torch.stack(list(blocks.values())).sum(dim=0), mean, atol=1e-12)
    only = empirical_ntk(model, x, params=["3.bias"])
    assert torch.allclose(only, torch.ones(5, 5, dtype=torch.float64)), "each output's own bias has derivative 1"


def test_lambda_max_by_products_equals_the_dense_one_and_the_gauss_newton_sharpness() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = inputs((4,), 6), torch.randn(6, 3).double()
    dense_kernel = empirical_ntk(model, x, mean_outputs=False).permute(0, 2, 1, 3).reshape(18, 18)
    operator = ntk_operator(model, x)
    v = operator.random_vector(0)
    assert torch.allclose(operator(v), dense_kernel @ v, atol=1e-12)
    top = ntk_lambda_max(model, x, tolerance=1e-8)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(dense_kernel)[-1]), rel=1e-10)
    half_mse = lambda m, b: (m(b[0]) - b[1]).square().mean() / 2  # noqa: E731
    bent = sharpness(model, half_mse, [(x, y)], matrix="ggn", tolerance=1e-8)
    assert bent.value == pytest.approx(top.value / (6 * 3), rel=1e-9)


def test_attention_has_an_empirical_kernel_too() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 1).double())
    x = inputs((3, 8), 4)
    kernel = empirical_ntk(model, x)
    top = ntk_lambda_max(model, x, tolerance=1e-6)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(kernel)[-1]), rel=1e-8)


def test_stacks_of_blocks_are_handled_in_pieces() -> None:
    layers, x = CASES["residual with norms"][1], inputs(IMAGES, 5).numpy()
    whole, pieces = infinite_width(layers, x), infinite_width(layers, x, x[:2], rows=2)
    assert np.allclose(whole.ntk[:, :2], pieces.ntk) and np.allclose(whole.nngp[:, :2], pieces.nngp)
    assert np.allclose(whole.self1, np.diag(whole.nngp))
    assert float(np.linalg.eigvalsh(whole.ntk)[0]) > 0


def test_flatten_and_pooling_agree_on_one_position() -> None:
    x = inputs((3, 1, 1), 4).numpy()
    body = [conv(1, weight_var=2.0), act("relu")]
    one, two = (infinite_width([*body, readout, dense()], x) for readout in (flatten(), global_average_pool()))
    plain = infinite_width([dense(2.0), act("relu"), dense()], x[:, :, 0, 0])
    assert np.allclose(one.ntk, two.ntk) and np.allclose(one.ntk, plain.ntk)


def test_refusals() -> None:
    image, row = inputs(IMAGES).numpy(), inputs(ROWS).numpy()
    with pytest.raises(UsageError, match="meets positions"):
        infinite_width([conv(3), dense()], image)
    with pytest.raises(UsageError, match="positions left"):
        infinite_width([conv(3)], image)
    with pytest.raises(UsageError, match="needs inputs of shape"):
        infinite_width([conv(3)], row)
    with pytest.raises(UsageError, match="must end in dense"):
        infinite_width([residual(dense(), act("relu"))], row)
    for bad in ([act("relu"), dense()], [dense(), act("relu"), act("erf")]):
        with pytest.raises(UsageError, match="needs Gaussian units"):
            infinite_width(bad, row)
    with pytest.raises(UsageError, match="needs Gaussian units"):
        infinite_width([conv(3), flatten(), act("relu"), dense()], image)
    with pytest.raises(UsageError, match="differ in shape"):
        infinite_width([residual(conv(3)), flatten(), dense()], image)
    with pytest.raises(UsageError, match="wider than its input"):
        infinite_width([conv(7), flatten(), dense()], image)
    with pytest.raises(UsageError, match="'circular'"):
        infinite_width([conv(3, padding="same"), flatten()], image)
    with pytest.raises(UsageError, match="need \\(n, features"):
        infinite_width([dense()], row, image)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    with pytest.raises(UsageError, match=r"model\.eval"):
        empirical_ntk(model, inputs(ROWS))
    assert empirical_ntk(model.eval(), inputs(ROWS)).shape == (3, 3)
    with pytest.raises(UsageError, match="chunk >= 1"):
        empirical_ntk(model, inputs(ROWS), chunk=0)
    with pytest.raises(UsageError, match="one tensor of outputs"):
        empirical_ntk(Pair(nn.Linear(5, 2).double()), inputs(ROWS))
    with pytest.raises(UsageError, match="one tensor of outputs"):
        ntk_operator(Pair(nn.Linear(5, 2).double()), inputs(ROWS))


class Pair(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x
