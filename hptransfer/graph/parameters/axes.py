"""How the axes of a parameter travel through reshapes: which dimension of a view holds which parameter axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import fx

from hptransfer.graph.graph import number, sequence, shape
from hptransfer.graph.ops import facts

Dims = tuple[frozenset[int], ...]
"""For each dimension of a tensor, the parameter axes it is made of."""

NONE: frozenset[int] = frozenset()


def through_view(node: fx.Node, source: fx.Node, dims: Dims) -> Dims | None:
    """The axes of `node`'s dimensions when it is a reshape of `source` with axes `dims`; None for any other op."""
    known = facts(node)
    travel = _TRAVEL.get(known.layout) if known.law == "view" else None
    return None if travel is None else travel(node, source, dims)


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


def _same(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return dims


def _reshaped(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return regroup(shape(source), shape(node), dims)


def _reversed(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return tuple(reversed(dims))


def _last_swapped(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return _swap(dims, -1, -2) if len(dims) > 1 else dims


def _swapped(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return _swap(dims, number(node.args[1]), number(node.args[2]))


def _permuted(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return tuple(dims[int(i)] for i in sequence(node.args[1]))


def _moved(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    sources, targets = ([int(d) % len(dims) for d in sequence(where)] for where in node.args[1:3])
    order = [k for k in range(len(dims)) if k not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return tuple(dims[i] for i in order)


def _inserted(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    at = number(node.args[1]) % (len(dims) + 1)
    return (*dims[:at], NONE, *dims[at:])


def _squeezed(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    old = shape(source)
    if len(node.args) < 2:
        return tuple(d for d, size in zip(dims, old, strict=True) if size != 1)
    at = {int(i) % len(dims) for i in sequence(node.args[1])}
    return tuple(d for k, d in enumerate(dims) if not (k in at and old[k] == 1))


def _dropped(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    at = number(node.args[1]) % len(dims) if len(node.args) > 1 else 0
    return (*dims[:at], *dims[at + 1 :])


def _repeated(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return broadcast(dims, len(shape(node)))


def _placed(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    """Broadcast, with the places of the old dimensions given."""
    out = [NONE] * len(shape(node))
    for axes, at in zip(dims, sequence(node.args[2]), strict=True):
        out[number(at)] = axes
    return tuple(out)


def _paired(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    """The last dimension's two entries become one complex entry."""
    return dims[:-1]


def _unpaired(node: fx.Node, source: fx.Node, dims: Dims) -> Dims:
    return (*dims, NONE)


def _swap(dims: Dims, i: int, j: int) -> Dims:
    out = list(dims)
    out[i], out[j] = out[j], out[i]
    return tuple(out)


_TRAVEL: Mapping[str, Callable[[fx.Node, fx.Node, Dims], Dims]] = {
    "same": _same, "reshape": _reshaped, "swap last": _last_swapped, "reverse": _reversed, "swap": _swapped,
    "permute": _permuted, "move": _moved, "insert": _inserted, "squeeze": _squeezed, "drop": _dropped,
    "hide": _dropped, "pick": _same, "repeat": _repeated, "place": _placed, "pair": _paired, "unpair": _unpaired,
}  # fmt: skip
"""Layout -> the axes behind an op of that layout, from (op, its source, the source's axes)."""
