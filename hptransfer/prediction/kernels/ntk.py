"""Infinite-width kernels: NNGP and NTK of dense, convolution and residual networks, composed layer by layer.

Every layer is a function from Kernel to Kernel. Parameters are in NTK parametrization: a weight is N(0, 1) times
sqrt(weight_var/fan_in), a bias N(0, 1) times sqrt(bias_var). A weighted layer maps K -> weight_var K + bias_var and
Theta -> weight_var Theta + (new K); an activation maps K -> E phi(u) phi(v) and Theta -> Theta E phi'(u) phi'(v)
(Jacot et al. 1806.07572; Arora et al. 1904.11955, sec. 3-4 for convolutions; Yang 2006.14548). Tested against
sampled finite networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.dual import Dual, dual_of
from hptransfer.prediction.kernels.gaussian import Activation, Scalar

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """Covariances of one layer's units between inputs x1 and x2, and the tangent kernel so far.

    nngp, ntk: (n1, n2, *p); self1: (n1, *p), self2: (n2, *p), each input with itself. p is empty after a readout;
    before it the spatial positions, paired with themselves, or (full) all pairs of positions, (*positions,
    *positions). linear: the last layer was a weighted one, whose fresh weights make units uncorrelated with all
    before; gaussian: units are Gaussian over the weights, as an activation needs.
    """

    nngp: Array
    ntk: Array
    self1: Array
    self2: Array
    spatial: int = 0
    full: bool = False
    linear: bool = False
    gaussian: bool = False


Layer = Callable[[Kernel], Kernel]


def infinite_width(layers: Sequence[Layer], x1: ArrayLike, x2: ArrayLike | None = None, *, rows: int = 64) -> Kernel:
    """NNGP and NTK, (n1, n2), of the network `layers` on inputs x1 (n1, features) or (n1, channels, *positions).

    x2: default x1. rows: inputs of x1 handled at once, to bound memory where global_average_pool needs all pairs of
    positions. Raises UsageError where shapes disagree, or the last layer leaves positions.
    """
    one = np.asarray(x1, dtype=np.float64)
    two = one if x2 is None else np.asarray(x2, dtype=np.float64)
    if one.ndim < 2 or one.shape[1:] != two.shape[1:]:
        raise UsageError(
            f"Inputs of shapes {one.shape} and {two.shape}: need (n, features) or (n, channels, *positions)."
        )
    full = any(getattr(layer, "needs_pairs", False) for layer in layers)
    parts = [serial(*layers)(_input_kernel(one[k : k + rows], two, full)) for k in range(0, len(one), rows)]
    if parts[0].spatial:
        raise UsageError(
            "The network ends with positions left. Add flatten() or global_average_pool() before the readout."
        )
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("nngp", "ntk", "self1")}
    return replace(parts[-1], **joined)


def serial(*layers: Layer) -> Layer:
    """The layers one after the other."""

    def apply(kernel: Kernel) -> Kernel:
        for layer in layers:
            kernel = layer(kernel)
        return kernel

    apply.needs_pairs = any(getattr(layer, "needs_pairs", False) for layer in layers)  # type: ignore[attr-defined]
    return apply


def dense(weight_var: float = 1.0, bias_var: float = 0.0) -> Layer:
    """A dense layer of infinitely many units (or of independent outputs). Raises UsageError before a readout."""

    def apply(k: Kernel) -> Kernel:
        if k.spatial:
            raise UsageError("dense() meets positions. Put flatten() or global_average_pool() before it.")
        return _weighted(k, weight_var, bias_var)

    return apply


def conv(
    size: int,
    *,
    stride: int = 1,
    padding: int | str = 0,
    weight_var: float = 1.0,
    bias_var: float = 0.0,
) -> Layer:
    """A convolution over 1 or more spatial axes with cubic filters, fan_in = channels x size^axes.

    padding: zeros on each side, or "circular" (size // 2 wrapped around). K -> mean over the filter's offsets o of
    K(p + o, p' + o).
    """

    def apply(k: Kernel) -> Kernel:
        if not k.spatial:
            raise UsageError("conv() needs inputs of shape (n, channels, *positions).")
        groups = 2 if k.full else 1

        def patches(values: Array, leading: int) -> Array:
            return _patch_mean(values, leading, k.spatial, groups, size, stride, padding)

        averaged = replace(
            k, nngp=patches(k.nngp, 2), ntk=patches(k.ntk, 2), self1=patches(k.self1, 1), self2=patches(k.self2, 1)
        )
        return _weighted(averaged, weight_var, bias_var)

    return apply


def act(phi: str | Scalar | nn.Module | Activation | Dual) -> Layer:
    """An activation: "relu", "erf" and "gelu" in closed form, any other elementwise torch callable by quadrature."""
    dual = phi if isinstance(phi, Dual) else dual_of(phi)

    def apply(k: Kernel) -> Kernel:
        if not k.gaussian:
            raise UsageError(
                "act() needs Gaussian units: put dense() or conv() (then pooling, norms or sums) before it."
            )
        v1, v2 = _variances(k.self1, 1, k), _variances(k.self2, 1, k)
        first, slopes = dual.pair(*_aligned(v1[:, None], k.nngp, v2[None], k))
        own1, own2 = (dual.pair(*_aligned(v, own, v, k))[0] for v, own in ((v1, k.self1), (v2, k.self2)))
        return replace(k, nngp=first, ntk=k.ntk * slopes, self1=own1, self2=own2, linear=False, gaussian=False)

    return apply


def rms_norm() -> Layer:
    """x / sqrt(mean of x^2 over channels), at every position; after a weighted layer also LayerNorm over channels.

    K and Theta are divided by the product of both standard deviations; the normaliser's own derivative is of order
    1/width.
    """

    def apply(k: Kernel) -> Kernel:
        s1, s2 = np.sqrt(_variances(k.self1, 1, k)), np.sqrt(_variances(k.self2, 1, k))
        left, _, right = _aligned(s1[:, None], k.nngp, s2[None], k)
        (a1, _, b1), (a2, _, b2) = _aligned(s1, k.self1, s1, k), _aligned(s2, k.self2, s2, k)
        own1, own2 = k.self1 / (a1 * b1), k.self2 / (a2 * b2)
        return replace(k, nngp=k.nngp / (left * right), ntk=k.ntk / (left * right), self1=own1, self2=own2)

    return apply


def residual(*branch: Layer, shortcut: Sequence[Layer] = (), scale: float = 1.0) -> Layer:
    """shortcut(x) + scale * branch(x), shortcut = identity by default.

    Kernels add, because the fresh weights at the branch's end make both summands uncorrelated, also in their
    derivatives by earlier parameters; so the branch (or a shortcut with layers) must end in dense or conv. Raises
    UsageError where it does not, or where shapes differ.
    """
    inner, around = serial(*branch), serial(*shortcut)

    def apply(k: Kernel) -> Kernel:
        a, b = around(k), inner(k)
        if not (b.linear or (shortcut and a.linear)):
            raise UsageError("A residual branch must end in dense() or conv(), to be uncorrelated with the shortcut.")
        if a.nngp.shape != b.nngp.shape:
            raise UsageError(
                f"Branch and shortcut differ in shape: {b.nngp.shape} and {a.nngp.shape}. Add a shortcut conv."
            )
        summed = {n: getattr(a, n) + scale**2 * getattr(b, n) for n in ("nngp", "ntk", "self1", "self2")}
        return replace(a, **summed, linear=False, gaussian=a.gaussian and b.gaussian)

    apply.needs_pairs = any(getattr(f, "needs_pairs", False) for f in (inner, around))  # type: ignore[attr-defined]
    return apply


def flatten() -> Layer:
    """Positions vectorised: the next dense layer has weights of its own per position, so K is the mean over equal
    positions."""

    def apply(k: Kernel) -> Kernel:
        def reduce(values: Array, leading: int) -> Array:
            same = _variances(values, leading, k)
            return same.mean(axis=tuple(range(leading, same.ndim)))

        return replace(_without_positions(k, reduce), gaussian=False)

    return apply


def global_average_pool() -> Layer:
    """The mean over positions of every channel: K is the mean over all pairs of positions."""

    def apply(k: Kernel) -> Kernel:
        if k.spatial and not k.full:
            raise UsageError(
                "global_average_pool() needs all pairs of positions; give it to infinite_width(layers, ...)."
            )
        return _without_positions(k, lambda v, leading: v.mean(axis=tuple(range(leading, v.ndim))))

    apply.needs_pairs = True  # type: ignore[attr-defined]
    return apply


def _input_kernel(x1: Array, x2: Array, full: bool) -> Kernel:
    spatial, channels = x1.ndim - 2, x1.shape[1]
    a, b = (x.reshape(len(x), channels, -1) for x in (x1, x2))
    places, pairs = x1.shape[2:], "pq" if full and spatial else "p"
    other = pairs[-1]
    shape = places * (2 if pairs == "pq" else 1)
    cross = np.einsum(f"icp,jc{other}->ij{pairs}", a, b, optimize=True) / channels
    own = [np.einsum(f"icp,ic{other}->i{pairs}", v, v, optimize=True) / channels for v in (a, b)]
    nngp = cross.reshape(len(a), len(b), *shape)
    selves = [o.reshape(len(o), *shape) for o in own]
    return Kernel(nngp, np.zeros_like(nngp), selves[0], selves[1], spatial, pairs == "pq")


def _weighted(k: Kernel, weight_var: float, bias_var: float) -> Kernel:
    nngp = weight_var * k.nngp + bias_var
    selves = [weight_var * own + bias_var for own in (k.self1, k.self2)]
    return replace(
        k, nngp=nngp, ntk=weight_var * k.ntk + nngp, self1=selves[0], self2=selves[1], linear=True, gaussian=True
    )


def _variances(values: Array, leading: int, k: Kernel) -> Array:
    """Equal positions only: (lead, *positions) from (lead, *positions, *positions)."""
    if not k.full:
        return values
    places = values.shape[leading : leading + k.spatial]
    count = int(np.prod(places))
    square = values.reshape(*values.shape[:leading], count, count)
    return np.diagonal(square, axis1=-2, axis2=-1).reshape(*values.shape[:leading], *places)


def _aligned(v1: Array, cross: Array, v2: Array, k: Kernel) -> tuple[Array, Array, Array]:
    """(k11, k12, k22) of one shape: the first variance at position p, the second at p' where all pairs are kept."""
    if k.full:
        v1 = v1.reshape(*v1.shape, *[1] * k.spatial)
        lead = v2.ndim - k.spatial
        v2 = v2.reshape(*v2.shape[:lead], *[1] * k.spatial, *v2.shape[lead:])
    k11, k22 = np.broadcast_to(v1, cross.shape), np.broadcast_to(v2, cross.shape)
    return k11, cross, k22


def _without_positions(k: Kernel, reduce: Callable[[Array, int], Array]) -> Kernel:
    if not k.spatial:
        return k
    cross = {"nngp": reduce(k.nngp, 2), "ntk": reduce(k.ntk, 2)}
    return replace(k, **cross, self1=reduce(k.self1, 1), self2=reduce(k.self2, 1), spatial=0, full=False, linear=False)


def _patch_mean(
    values: Array, leading: int, spatial: int, groups: int, size: int, stride: int, padding: int | str
) -> Array:
    """Mean over filter offsets, the same offset in both groups of position axes."""
    around = size // 2 if padding == "circular" else padding
    if not isinstance(around, int) or around < 0 or size < 1 or stride < 1:
        raise UsageError(
            f"conv(size={size}, stride={stride}, padding={padding!r}): sizes >= 1, padding >= 0 or 'circular'."
        )
    widths = [(0, 0)] * leading + [(around, around)] * (spatial * groups)
    padded = np.pad(values, widths, mode="wrap" if padding == "circular" else "constant")
    outputs = [(length - size) // stride + 1 for length in padded.shape[leading : leading + spatial]]
    if min(outputs) < 1:
        raise UsageError(f"conv(size={size}) is wider than its input of {values.shape[leading : leading + spatial]}.")
    total = np.zeros((*values.shape[:leading], *outputs * groups))
    for offset in product(range(size), repeat=spatial):
        window = [slice(o, o + stride * (n - 1) + 1, stride) for o, n in zip(offset, outputs, strict=True)]
        total += padded[(..., *window * groups)]
    return total / size**spatial
