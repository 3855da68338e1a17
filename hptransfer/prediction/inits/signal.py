"""Signal propagation: how variance and correlation travel through depth, forecast and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.gaussian import (
    Activation,
    Scalar,
    activation,
    pair_moment,
    pair_slope_moment,
    second_moment,
    slope_moment,
)
from hptransfer.prediction.typed import submodules

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SignalForecast:
    """q: (depth + 1,) pre-activation variance at every layer, the first given; rho: (depth + 1,) correlation of two
    inputs.

    chi: (depth,) the factor on gradients' squared norm, layer by layer; chi_1: the slope of the correlation map at 1
    where the variance has settled: > 1 chaotic (nearby inputs part), < 1 ordered.
    """

    q: Array
    rho: Array
    chi: Array
    chi_1: float

    @property
    def depth_scale(self) -> float:
        """Layers over which a perturbation changes e-fold, 1/|log chi_1| (Schoenholz et al. 1611.01232, eq. 9); inf
        at 1."""
        return math.inf if self.chi_1 == 1 else 1 / abs(math.log(self.chi_1))

    @property
    def gradient_growth(self) -> float:
        """The factor on the gradient's squared norm from the last layer to the first."""
        return float(np.prod(self.chi))


def propagate(
    act: Scalar | nn.Module | Activation,
    *,
    depth: int,
    weight_var: float,
    bias_var: float = 0.0,
    q0: float = 1.0,
    rho0: float = 0.5,
    branch: float | None = None,
) -> SignalForecast:
    """The maps of wide layers iterated: q' = s_w^2 E phi^2 + s_b^2, c' = s_w^2 E phi(u) phi(v) + s_b^2.

    branch: None for a plain net; alpha for residual layers z' = z + alpha (W phi(z) + b), whose increments are
    alpha^2 of the above (Yang & Schoenholz 1712.08969). q0, rho0: variance and correlation of the first layer's
    pre-activations. Raises UsageError where depth < 1, a variance is negative, or |rho0| > 1.
    """
    if depth < 1 or weight_var < 0 or bias_var < 0 or q0 <= 0 or abs(rho0) > 1:
        raise UsageError(
            f"depth={depth}, weight_var={weight_var}, bias_var={bias_var}, q0={q0}, rho0={rho0}: need depth >= 1, "
            "variances >= 0, q0 > 0 and |rho0| <= 1."
        )
    prepared = activation(act)
    keep, add = (0.0, 1.0) if branch is None else (1.0, branch**2)
    q, c, variances, correlations = q0, rho0 * q0, [q0], [rho0]
    chis: list[float] = []
    for _ in range(depth):
        chis.append(keep + add * weight_var * slope_moment(prepared, q))
        c = keep * c + add * (weight_var * pair_moment(prepared, q, q, c) + bias_var)
        q = keep * q + add * (weight_var * second_moment(prepared, q) + bias_var)
        c = min(max(c, -q), q)
        variances.append(q)
        correlations.append(c / q if q > 0 else 1.0)
    at_end = keep + add * weight_var * slope_moment(prepared, q)
    return SignalForecast(np.array(variances), np.array(correlations), np.array(chis), at_end)


def fixed_correlation(
    act: Scalar | nn.Module | Activation, *, weight_var: float, bias_var: float, q: float, tolerance: float = 1e-10
) -> tuple[float, float]:
    """The stable fixed point rho* of the correlation map at variance q, and the map's slope there.

    In the ordered phase (chi_1 <= 1) it is 1; in the chaotic phase below 1, where two inputs end up equally unlike
    however near they began. Found by iterating the map from .5 with Aitken's acceleration.
    """
    prepared = activation(act)

    def step(rho: float) -> float:
        return min(1.0, (weight_var * pair_moment(prepared, q, q, rho * q) + bias_var) / q)

    rho = 0.5
    for _ in range(500):
        one = step(rho)
        two = step(one)
        bend = two - 2 * one + rho
        better = rho - (one - rho) ** 2 / bend if abs(bend) > 1e-14 else two
        better = better if -1 <= better <= 1 else two
        if abs(better - rho) < tolerance:
            rho = better
            break
        rho = better
    return rho, weight_var * pair_slope_moment(prepared, q, q, rho * q)


@dataclass(frozen=True)
class MeasuredSignal:
    """names: the layers in order of execution; q: (layers,) mean square of their outputs over units and inputs; rho:
    (layers,) mean cosine between the outputs for the pairs of inputs."""

    names: tuple[str, ...]
    q: Array
    rho: Array


def measure_signal(
    model: nn.Module,
    first: Tensor,
    second: Tensor,
    *,
    kinds: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv1d, nn.Conv2d),
) -> MeasuredSignal:
    """What the forecast is held against: outputs of every linear or convolution layer for two batches of inputs,
    paired.

    first, second: (pairs, ...), the model's inputs. Raises UsageError where no such layer runs exactly once per call.
    """
    names: list[str] = []
    outputs: list[Tensor] = []

    def keep(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        names.append(name)
        outputs.append(output.detach().double())

    layers = [(name, module) for name, module in submodules(model).items() if isinstance(module, tuple(kinds))]
    handles = [module.register_forward_hook(partial(keep, name)) for name, module in layers]
    try:
        with torch.no_grad():
            model(torch.cat([first, second]))
    finally:
        for handle in handles:
            handle.remove()
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"Layers seen: {names}. Each linear or convolution layer must run once per call, and one at least."
        )
    squares, cosines = zip(*[_statistics(o.flatten(1)) for o in outputs], strict=True)
    return MeasuredSignal(tuple(names), np.array(squares), np.array(cosines))


def _statistics(output: Tensor) -> tuple[float, float]:
    one, two = output.chunk(2)
    cosine = torch.cosine_similarity(one, two, dim=1)
    return float(output.square().mean()), float(cosine.mean())
