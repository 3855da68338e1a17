"""How the axes of a parameter travel through reshapes: which dimension of a view holds which parameter axis."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from hptransfer.graph.graph import number, op, sequence, shape

Dims = tuple[frozenset[int], ...]
"""For each dimension of a tensor, the parameter axes it is made of."""

NONE: frozenset[int] = frozenset()

SAME = {
    "clone", "contiguous", "to", "_to_copy", "alias", "detach", "lift_fresh_copy", "slice", "narrow", "chunk",
    "split", "split_with_sizes", "tensor_split", "dropout", "type_as", "flip", "roll", "float", "half", "bfloat16",
    "neg", "requires_grad_", "lift_fresh", "repeat_interleave", "expand_as", "detach_",
}  # fmt: skip
RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "_reshape_alias"}
POINTWISE = {
    "exp", "softplus", "sigmoid", "tanh", "relu", "silu", "gelu", "softmax", "log_softmax", "log", "sqrt", "rsqrt",
    "pow", "abs", "clamp", "clamp_min", "clamp_max", "square", "reciprocal", "expm1", "log1p", "cos", "sin", "erf",
    "exp2", "round", "sign", "leaky_relu", "elu", "hardtanh", "logsigmoid", "_softmax", "clip",
    "clamp_", "clamp_min_", "clamp_max_",
}  # fmt: skip
"""Unary functions that keep a tensor's layout but not its scale."""


def through_view(node: fx.Node, source: fx.Node, dims: Dims) -> Dims | None:
    """The axes of `node`'s dimensions when it is a reshape of `source` with axes `dims`; None for any other op."""
    name, args = op(node), node.args
    if name in SAME:
        return _repeated(dims, node) if name in {"expand_as"} else dims
    if name in RESHAPES:
        return regroup(shape(source), shape(node), dims)
    if name in {"t", "numpy_T", "mT", "matrix_H", "adjoint"}:
        return _swap(dims, -1, -2) if len(dims) > 1 and name != "numpy_T" else tuple(reversed(dims))
    if name in {"transpose", "swapaxes", "swapdims"}:
        return _swap(dims, number(args[1]), number(args[2]))
    if name in {"permute", "movedim"}:
        order = sequence(args[1]) if name == "permute" else _moved(len(dims), args[1], args[2])
        return tuple(dims[int(i)] for i in order)
    if name in {"unsqueeze", "unsqueeze_"}:
        at = number(args[1]) % (len(dims) + 1)
        return (*dims[:at], NONE, *dims[at:])
    if name in {"squeeze", "squeeze_"}:
        return _squeezed(shape(source), dims, args[1:])
    if name in {"select", "unbind"}:
        at = number(args[1]) % len(dims) if len(args) > 1 else 0
        return (*dims[:at], *dims[at + 1 :])
    if name in {"expand", "repeat", "broadcast_to", "tile"}:
        return _repeated(dims, node)
    return None


def regroup(old: Sequence[int], new: Sequence[int], dims: Dims) -> Dims:
    """Axes after a reshape: dimensions are matched in groups of equal product, as in row-major order.

    A dimension that is split passes its axes to every part; dimensions that are merged unite theirs.
    """
    out: list[frozenset[int]] = [NONE] * len(new)
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left, right = (old[i] if i < len(old) else 1), (new[j] if j < len(new) else 1)
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                break
        axes = frozenset().union(*dims[start_i:i]) if i > start_i else NONE
        for k in range(start_j, j):
            out[k] = axes if new[k] != 1 or j - start_j == 1 else NONE
    return tuple(out)


def broadcast(dims: Dims, rank: int) -> Dims:
    """Axes after right-aligned broadcasting to `rank` dimensions."""
    return (*((NONE,) * max(0, rank - len(dims))), *dims)


def _swap(dims: Dims, i: int, j: int) -> Dims:
    out = list(dims)
    out[i], out[j] = out[j], out[i]
    return tuple(out)


def _squeezed(old: Sequence[int], dims: Dims, where: Sequence[object]) -> Dims:
    chosen = where[0] if where else None
    if chosen is None:
        return tuple(d for d, size in zip(dims, old, strict=True) if size != 1)
    at = {int(i) % len(dims) for i in sequence(chosen)}
    return tuple(d for k, d in enumerate(dims) if not (k in at and old[k] == 1))


def _repeated(dims: Dims, node: fx.Node) -> Dims:
    return broadcast(dims, len(shape(node)))


def _moved(rank: int, source: object, destination: object) -> list[int]:
    sources = [int(s) % rank for s in sequence(source)]
    targets = [int(d) % rank for d in sequence(destination)]
    order = [k for k in range(rank) if k not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return order
