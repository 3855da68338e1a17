"""Per-layer init std for a given stack of layers, and the signal forecast through the weights it really has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.gaussian import Activation, activation, mean, pair_moment, second_moment

Weighted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Passive = (nn.Flatten, nn.Unflatten, nn.Identity)
BatchNorms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Feature:
    """What travels: second: mean square per unit; cross: mean product of two inputs' features; mean: over units.

    gaussian: whether units are Gaussian over the random weights (true after a weighted layer), as an activation
    needs.
    """

    second: float
    cross: float
    mean: float = 0.0
    gaussian: bool = False


@dataclass(frozen=True)
class LayerSignal:
    """One weighted layer's forecast: name; q, rho: its outputs' variance and correlation; weight_std, bias_std:
    used."""

    name: str
    q: float
    rho: float
    weight_std: float
    bias_std: float


def stack_init(
    model: nn.Module, *, q: float = 1.0, bias_std: float = 0.0, input_second_moment: float = 1.0
) -> dict[str, float]:
    """The std of every weight of a sequential stack that gives each layer's output variance `q`, by parameter name.

    std^2 = (q - bias_std^2)/(fan_in x second moment of the layer's input), the latter through the activation, norm
    or dropout that precedes it; fan_in = weight[0].numel(), so convolutions are meant away from zero-padded borders.
    bias_std is returned for biases. Raises UsageError for a layer whose effect on the second moment is not known
    (pooling, residual blocks): name and reason.
    """
    if not 0 <= bias_std**2 < q:
        raise UsageError(f"q={q}, bias_std={bias_std}: bias_std^2 must be below q.")

    def choose(layer: nn.Module, second: float) -> tuple[float, float]:
        return math.sqrt((q - bias_std**2) / (_fan_in(layer) * second)), bias_std

    stds: dict[str, float] = {}
    for signal, layer in _walk(model, Feature(input_second_moment, input_second_moment), choose):
        stds[f"{signal.name}.weight"] = signal.weight_std
        if isinstance(layer.bias, Tensor):
            stds[f"{signal.name}.bias"] = bias_std
    return stds


def forecast_stack(model: nn.Module, *, input_second_moment: float, input_correlation: float) -> list[LayerSignal]:
    """The signal forecast through a sequential stack with the weights' and biases' present root mean squares.

    Compare with signal.measure_signal: they agree up to the fluctuations of finite width, about width^-1/2 per layer.
    input_correlation: mean product of two inputs' entries over `input_second_moment`. Raises as stack_init.
    """
    begin = Feature(input_second_moment, input_second_moment * input_correlation)

    def present(layer: nn.Module, _second: float) -> tuple[float, float]:
        return _rms(layer.weight), _rms(layer.bias) if isinstance(layer.bias, Tensor) else 0.0

    return [signal for signal, _ in _walk(model, begin, present)]


def _walk(
    model: nn.Module, feature: Feature, stds: Callable[[nn.Module, float], tuple[float, float]]
) -> Iterator[tuple[LayerSignal, nn.Module]]:
    for name, layer in _in_order(model):
        if isinstance(layer, Weighted):
            weight_std, bias_std = stds(layer, feature.second)
            scale = _fan_in(layer) * weight_std**2
            q, c = scale * feature.second + bias_std**2, scale * feature.cross + bias_std**2
            feature = Feature(q, c, 0.0, True)
            yield LayerSignal(name, q, c / q if q > 0 else 1.0, weight_std, bias_std), layer
        else:
            feature = _through(name, layer, feature)


def _in_order(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            yield from _in_order(child, f"{prefix}{name}." if isinstance(child, nn.Sequential) else f"{prefix}{name}")
    else:
        yield prefix, module


def _through(name: str, layer: nn.Module, f: Feature) -> Feature:
    """The effect of a layer without weights to choose."""
    if isinstance(layer, Passive):
        return f
    if isinstance(layer, nn.Dropout):
        kept = 1 - layer.p if layer.training else 1.0
        return Feature(f.second / kept, f.cross, f.mean, f.gaussian and kept == 1.0)
    if isinstance(layer, (nn.LayerNorm, *BatchNorms)):
        spread = f.second - f.mean**2
        cross = math.nan if isinstance(layer, BatchNorms) else (f.cross - f.mean**2) / spread
        return Feature(1.0, cross, 0.0, f.gaussian)
    if isinstance(layer, nn.RMSNorm):
        root = math.sqrt(f.second)
        return Feature(1.0, f.cross / f.second, f.mean / root, f.gaussian)
    return _activated(name, layer, f)


def _activated(name: str, layer: nn.Module, f: Feature) -> Feature:
    try:
        act: Activation = activation(layer)
    except (UsageError, TypeError, RuntimeError, NotImplementedError) as error:
        raise UsageError(
            f"{name} ({type(layer).__name__}): its effect on the second moment is not known, so no init follows. "
            f"Known: linear and convolution layers, norms, dropout, flatten and elementwise activations. ({error})"
        ) from error
    if not f.gaussian:
        raise UsageError(f"{name} ({type(layer).__name__}): an activation must follow a linear or convolution layer.")
    cross = math.nan if math.isnan(f.cross) else pair_moment(act, f.second, f.second, f.cross)
    return Feature(second_moment(act, f.second), cross, mean(act, f.second), False)


def _fan_in(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight[0].numel()


def _rms(tensor: Tensor | nn.Module) -> float:
    assert isinstance(tensor, Tensor)
    return float(tensor.detach().double().square().mean().sqrt())
