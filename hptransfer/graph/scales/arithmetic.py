"""What an op computes with: its terms and their factors, its factors, its bounds, the size that it sums over."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from hptransfer.graph.graph import sequence, shape
from hptransfer.graph.operands import argument, operands_of
from hptransfer.graph.ops import facts

Term = object
"""A summand: a node, a number, or the pair of nodes whose product (or quotient) it is."""


def terms(node: fx.Node) -> list[tuple[Term, float]]:
    """The summands of an op and the constant factor on each; of a choice (where, maximum) or a list, its operands."""
    known, args = facts(node), list(node.args)
    if known.listed:
        return [(a, 1.0) for a in sequence(args[known.factors[0] if known.factors else 0])]
    if known.law == "contract":
        return [(args[0], _keyword(node, "beta")), (args[1], _keyword(node, "alpha"))]
    if known.mixes in {"product", "quotient"}:
        return [(args[0], 1.0), ((args[1], args[2]), _keyword(node, "value"))]
    if known.mixes == "between":
        weight = args[2] if len(args) > 2 and isinstance(args[2], (int, float)) else 0.5
        return [(args[0], 1.0 - weight), (args[1], float(weight))]
    if known.summand is not None:
        return [(args[0], 1.0), (args[known.summand], 1.0)]
    pair = list(args[1:3]) if len(args) > 2 and isinstance(args[0], fx.Node) and not known.adds else list(args[:2])
    alpha = _keyword(node, "alpha")
    if known.mixes == "reversed":
        return [(pair[0], -alpha), (pair[1], 1.0)]
    return [(pair[0], 1.0), *((a, -alpha if known.mixes == "minus" else alpha) for a in pair[1:])]


def _keyword(node: fx.Node, name: str) -> float:
    value = node.kwargs.get(name, 1.0)
    return float(value) if isinstance(value, (int, float)) else 1.0


def factors_of(node: fx.Node) -> list[object]:
    """The operands that an op multiplies with each other; [] for any other op. Of attention: queries and keys."""
    return operands_of(node) if facts(node).law in {"contract", "attention", "product", "join"} else []


def filled_with(node: fx.Node) -> float | None:
    """The number that a mask or a padding writes beside the values; None for an op that writes none."""
    known = facts(node)
    if known.fill is None:
        return None
    if known.fill == 3 and len(node.args) > 2 and node.args[2] != "constant":
        return None  # a padding with copies of the values
    value = node.args[known.fill] if len(node.args) > known.fill else node.kwargs.get("value")
    return 0.0 if value is None else float(value) if isinstance(value, (int, float)) else math.inf


def bounds(node: fx.Node) -> list[Any]:
    """The bounds of a clamp, those that are no number left out as if they bent."""
    given = [*node.args[1:3], *(node.kwargs.get(name) for name in ("min", "max"))]
    return [1.0 if isinstance(bound, fx.Node) else bound for bound in given]


def vector_order(node: fx.Node) -> float:
    """p of a p-norm; 0 for the largest entry, whose size does not grow with their number."""
    p = node.args[1] if len(node.args) > 1 else node.kwargs.get("ord", node.kwargs.get("p"))
    if p is None:
        return 2.0
    return float(p) if isinstance(p, (int, float)) and math.isfinite(p) and p > 0 else 0.0


def contracted_size(node: fx.Node) -> float:
    """How many products each entry of a contraction's result is the sum of."""
    known = facts(node)
    if known.listed:
        return _summed_letters(node)
    left, right = factors_of(node)[:2]
    if known.consumes == "tensordot":
        return math.prod(shape(left)[int(dim)] for dim in sequence(node.args[2]))
    if known.consumes == "conv":
        return math.prod(shape(right)[1:])
    return shape(left)[-1] if shape(left) else 1


def _summed_letters(node: fx.Node) -> float:
    return math.prod(_letters(node))


def _letters(node: fx.Node) -> list[int]:
    """Sizes of einsum's letters that its result lacks, each once."""
    inputs, _, output = str(node.args[0]).replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, factor in zip(inputs.split(","), sequence(node.args[1]), strict=True):
        letters = term.replace("...", "")
        sizes |= dict(zip(letters[::-1], shape(factor)[::-1], strict=False))
    return [size for letter, size in sizes.items() if letter not in output]


def summed_size(node: fx.Node) -> float:
    """How many entries each entry of a reduction's result is made of."""
    source = node.args[0] if node.args else None
    return math.prod(shape(source)) / max(1, math.prod(shape(node)))


def chosen(node: fx.Node) -> tuple[float, int]:
    """(share, size) of an axis along which some entries are chosen: k of E written into zeros, the one of a one-hot.

    Rows that are written, along the first of several axes, are examples on their way and no choice: share 1.
    """
    if facts(node).one_hot:
        return math.prod(shape(node.args[0])) / max(1, math.prod(shape(node))), shape(node)[-1]
    index, sizes = argument(node, "index"), shape(node)
    if isinstance(index, fx.Node) and len(shape(index)) == len(sizes):
        axis = int(argument(node, "dim", 0)) % len(sizes)
        share = shape(index)[axis] / max(1, sizes[axis]) if axis or len(sizes) == 1 else 1.0
        return share, sizes[axis]
    places = [shape(place) for place in sequence(argument(node, "indices")) if isinstance(place, fx.Node)]
    if len(places) == len(sizes) > 1 and any(len(place) > 1 for place in places):  # gates[rows, chosen] = shares
        return math.prod(torch.broadcast_shapes(*places)) / max(1, math.prod(sizes)), sizes[-1]
    return 1.0, 1


def summed_axes(node: fx.Node) -> list[int]:
    """The sizes of the axes that a contraction, a sum or a softmax adds up over."""
    known = facts(node)
    if known.law == "contract":
        return _letters(node) if known.listed else [int(contracted_size(node))]
    before, dims = shape(node.args[0]), argument(node, "dim")
    return [before[int(dim)] for dim in sequence(dims)] if dims is not None else list(before)


def rows_share(node: fx.Node) -> float:
    """What share of its first operand's rows an op adds something to."""
    written = argument(node, facts(node).summand)
    return math.prod(shape(written)) / max(1, math.prod(shape(node))) if isinstance(written, fx.Node) else 1.0


def accumulates(node: fx.Node) -> bool:
    """It adds entries to those of its first operand, in some rows."""
    return facts(node).accumulates or argument(node, "accumulate") is True


def softmax_size(node: fx.Node) -> float:
    """How many entries share the sum of one."""
    sizes, dim = shape(node), node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    return sizes[dim] if sizes and isinstance(dim, int) else 1


def own_scale(node: fx.Node) -> float:
    """The multiplier inside a fused attention: its argument, or d^-1/2."""
    scale = node.kwargs.get("scale", node.args[6] if len(node.args) > 6 else None)
    return float(scale) if isinstance(scale, (int, float)) else 1 / math.sqrt(contracted_size(node))


def turned_gain(node: fx.Node) -> float:
    """What a Fourier transform of n entries multiplies their rms by (Parseval): n^1/2 over 1, n^1/2 or n, as told."""
    given, divides = argument(node, "n_fft"), argument(node, "norm")
    size = float(given) if given is not None else _turned_size(node)
    if argument(node, "normalized") or divides == "ortho":
        return 1.0
    power = argument(node, "normalization")  # of the op that the others end in: 0, 1 or 2 times 1/2
    if power is None:
        power = 2 if facts(node).inverse != (divides == "forward") else 0
    return size ** ((1 - power) / 2)


def _turned_size(node: fx.Node) -> float:
    """Entries along the transformed axes; of a real signal, whose transform keeps one half, the signal's."""
    dims, before, after = argument(node, "dim"), shape(node.args[0]), shape(node)
    last = argument(node, "s", ()) is None and dims is None  # fftn without axes: all of them
    chosen = range(len(before)) if last else sequence(-1 if dims is None else dims)
    return math.prod(max(before[int(at)], after[int(at)]) for at in chosen)
