"""Brute-force twins for curvature, quadratics, kernels and solvable models: dense, by loops, by Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel


def named(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters, detached, by name."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def flat(tree: dict[str, Tensor]) -> Tensor:
    """All tensors of a dict as one vector."""
    return torch.cat([t.reshape(-1) for t in tree.values()])


def unflat(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `flat`."""
    pieces = torch.split(vector, [t.numel() for t in like.values()])
    return {n: piece.view(t.shape) for (n, t), piece in zip(like.items(), pieces, strict=True)}


class _WithLoss(nn.Module):
    """The loss as a module's forward, so that functional_call can swap the parameters below it."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.inner = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.inner, batch)


def dense_hessian(model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any) -> Tensor:
    """The Hessian of the batch's loss entry by entry, by torch.autograd.functional on the flat parameter vector."""
    wrapped, like = _WithLoss(model, loss_fn), named(model)

    def loss(vector: Tensor) -> Tensor:
        return functional_call(wrapped, {f"inner.{n}": t for n, t in unflat(vector, like).items()}, (batch,))

    with sdpa_kernel(SDPBackend.MATH):
        functional: Any = torch.autograd.functional
        return functional.hessian(loss, flat(like))


def dense_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """d output / d parameters, (outputs.numel(), parameters)."""
    like = named(model)

    def outputs(vector: Tensor) -> Tensor:
        return functional_call(model, unflat(vector, like), (x,)).reshape(-1)

    return jacrev(outputs)(flat(like))


def dense_ggn(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """J' H_z J with all three factors formed."""
    z = model(x).detach()

    def loss(outputs: Tensor) -> Tensor:
        return criterion(outputs.view(z.shape), y)

    h = jacrev(jacrev(loss))(z.reshape(-1))
    j = dense_jacobian(model, x)
    return j.T @ h @ j


def largest_real_eigenvalue(matrix: Tensor) -> float:
    """Of a matrix that need not be symmetric (P^-1 H) but has a real spectrum."""
    linalg: Any = torch.linalg
    values: Tensor = linalg.eigvals(matrix)
    assert float(values.imag.abs().max()) < 1e-6 * float(values.abs().max())
    return float(values.real.max())


def simulate_mode(eta_lambda: float, step: Callable[[float, float, float], tuple[float, float]], steps: int) -> float:
    """|x| after `steps` of a momentum method on x^2 lambda/2, from x = 1, m = 0 (inf once beyond 1e12)."""
    x, m = 1.0, 0.0
    for _ in range(steps):
        x, m = step(x, m, eta_lambda)
        if abs(x) > 1e12:
            return float("inf")
    return abs(x) + abs(m)


def monte_carlo_losses(
    eigenvalues: np.ndarray,
    start: np.ndarray,
    noise_std: np.ndarray,
    lrs: Sequence[float],
    update: Callable[[np.ndarray, np.ndarray, np.ndarray, float, int], tuple[np.ndarray, np.ndarray]],
    *,
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """Mean final loss of noisy training on a diagonal quadratic, and its standard error, from simulated runs."""
    rng = np.random.default_rng(seed)
    x = np.tile(start, (samples, 1))
    m = np.zeros_like(x)
    for t, lr in enumerate(lrs):
        gradient = eigenvalues * x + noise_std * rng.standard_normal(x.shape)
        x, m = update(x, m, gradient, lr, t)
    losses = 0.5 * (eigenvalues * x**2).sum(axis=1)
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(samples))


def gaussian_expectation(function: Callable[[Tensor], Tensor], covariance: Tensor, *, samples: int, seed: int) -> float:
    """E function(z), z ~ N(0, covariance) of any dimension, by Monte Carlo with antithetic pairs."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, covariance.shape[0], generator=generator, dtype=torch.float64)
    linalg: Any = torch.linalg
    root: Tensor = linalg.cholesky(covariance)
    z = torch.cat([z, -z]) @ root.T
    return float(function(z).mean())


class NTKLinear(nn.Module):
    """A dense layer in NTK parametrization: standard normal parameters, scaled in the forward pass."""

    def __init__(self, fan_in: int, fan_out: int, weight_var: float = 1.0, bias_var: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(fan_out, dtype=torch.float64))
        self.scale, self.shift = (weight_var / fan_in) ** 0.5, bias_var**0.5

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.scale * self.weight, self.shift * self.bias)


class NTKConv(nn.Module):
    """A 1-d or 2-d convolution in NTK parametrization. padding: zeros on each side, or "circular"."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        size: int,
        *,
        dims: int = 2,
        stride: int = 1,
        padding: int | str = 0,
        weight_var: float = 1.0,
        bias_var: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, *[size] * dims, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(fan_out, dtype=torch.float64))
        self.scale, self.shift = (weight_var / (fan_in * size**dims)) ** 0.5, bias_var**0.5
        self.dims, self.stride, self.padding, self.around = dims, stride, padding, size // 2

    def forward(self, x: Tensor) -> Tensor:
        zeros = self.padding
        if zeros == "circular":
            x, zeros = nn.functional.pad(x, [self.around] * (2 * self.dims), mode="circular"), 0
        apply = nn.functional.conv1d if self.dims == 1 else nn.functional.conv2d
        return apply(x, self.scale * self.weight, self.shift * self.bias, stride=self.stride, padding=zeros)


class Residual(nn.Module):
    """shortcut(x) + scale * branch(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.branch, self.shortcut, self.scale = branch, shortcut or nn.Identity(), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.scale * self.branch(x)


class ChannelRMSNorm(nn.Module):
    """x / sqrt(mean of x^2 over channels), axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(dim=1, keepdim=True).sqrt()
