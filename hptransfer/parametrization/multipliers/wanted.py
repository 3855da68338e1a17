"""Forward multipliers that a plan asks for: the factors that the forward lacks, and the tied readout's 1/m."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import Scheme
from hptransfer.graph.graph import Graph, module_path, users
from hptransfer.graph.operands import gained
from hptransfer.graph.ops import law, op
from hptransfer.graph.parameters.uses import Use
from hptransfer.graph.readings.constants import Constant, constants
from hptransfer.graph.scales.analysis import Analysis
from hptransfer.graph.scales.arithmetic import contracted_size, factors_of
from hptransfer.graph.scales.missing import Missing, missing_factors
from hptransfer.graph.scales.pairs import Pairs, node_pairs
from hptransfer.graph.scales.parallel import Parallel
from hptransfer.graph.scales.sizes import Sizes
from hptransfer.parametrization.functions import Lost
from hptransfer.parametrization.multipliers.depth import Depth
from hptransfer.parametrization.multipliers.placement import Multiplier

Values = Mapping[str, float | tuple[float, float]]
"""Buffer name or glob -> its value in the target, or (in the target, in the base)."""
Changed = dict[fx.Node, tuple[float, float]]
"""Multiplication by a constant -> its value in the target and in the base."""


@dataclass(frozen=True)
class Lacking:
    """multipliers: what the target's forward lacks; notes: what no factor can mend; larger: weight of a lost scale ->
    how many times larger that leaves its output, where a norm behind it does not mind.
    """

    multipliers: tuple[Multiplier, ...]
    notes: tuple[str, ...]
    larger: Mapping[str, float]


def lacking_multipliers(
    target: Graph,
    base: Graph,
    uses: Iterable[Use],
    scheme: Scheme,
    depth: Depth,
    *,
    given: Values,
    lost: Mapping[fx.Node, Lost] | None = None,
    parallel: Parallel | None = None,
) -> Lacking:
    """The factors by which the target's activations differ from order one, and the branches' L^-alpha.

    uses: of all parameters; given: values of buffers that cannot be read; lost: ops with a weight of a scale that its
    own norm sets; parallel: sums that have more terms than the base's.
    Raises UsageError where a constant is held in a buffer on the meta device and is not given, or where an op that is
    not known stands between a parameter and an output.
    """
    pairs = node_pairs(target, base)
    sums = Parallel() if parallel is None else parallel
    skip = frozenset(node for node in depth.own_constants if not sums.divides(node))
    changed = changed_constants(target, base, pairs, skip=skip, given=given)
    sizes = Sizes.of(
        target,
        base,
        uses,
        pairs=pairs,
        alignment=1.0 if scheme.attention == "1/d" else 0.5,
        constants={node: ours / theirs for node, (ours, theirs) in changed.items()},
        depth=depth.branches,
        lost={node: one.ratio for node, one in (lost or {}).items()},
        parallel=sums.sums,
    )
    lacking, analysis = missing_factors(sizes)
    _refuse_unknown(analysis)
    _refuse_open(analysis, depth)
    by_code = _by_code(sizes)
    words = _words_of_lost(lost or {}, lacking, sizes, by_code)
    worded = [_multiplier(one, _why(one, sizes, scheme, depth, changed)) for one in lacking]
    worded = [replace(one, why=words.get(k, one.why)) for k, one in enumerate(worded)]
    multipliers, notes = _together(worded, lacking, depth), _notes(analysis, lacking)
    return Lacking(tuple(multipliers), tuple(dict.fromkeys(notes)), _larger(lost or {}, by_code))


def _words_of_lost(
    lost: Mapping[fx.Node, Lost], lacking: Sequence[Missing], sizes: Sizes, by_code: Mapping[fx.Node, float]
) -> dict[int, str]:
    """Position of a factor -> why, for those that the forward would not lack if weights had the scale of their rule.

    Raises UsageError where a bias stands beside an output of another scale.
    """
    off = {node: one for node, one in lost.items() if not math.isclose(one.ratio, 1.0)}
    if not off:
        return {}
    analysis = Analysis(sizes)
    for node, one in off.items():
        if analysis.scales[node].deviates and len(gained(node)) > 1:
            raise UsageError(one.remedy)
    ruled = replace(sizes, lost={node: 1.0 / by_code[node] if node in off else 1.0 for node in lost})
    without = {(one.node, one.kind, round(one.factor, 6)) for one in missing_factors(ruled)[0]}
    extra = [k for k, one in enumerate(lacking) if (one.node, one.kind, round(one.factor, 6)) not in without]
    return dict.fromkeys(extra, next(iter(off.values())).why)


def _larger(lost: Mapping[fx.Node, Lost], by_code: Mapping[fx.Node, float]) -> dict[str, float]:
    ratios = {one.name: one.ratio * by_code[node] for node, one in lost.items()}
    return {name: ratio for name, ratio in ratios.items() if not math.isclose(ratio, 1.0)}


def _by_code(sizes: Sizes) -> dict[fx.Node, float]:
    """Op with a weight of a lost scale -> the code's constants on that weight, target / base."""
    if not sizes.lost:
        return {}
    analysis = Analysis(replace(sizes, lost=dict.fromkeys(sizes.lost, 1.0)))
    sides = {node: [a for a in factors_of(node) if a in sizes.weights_side] for node in sizes.lost}
    return {node: math.prod(analysis.of(a).ratio for a in side) for node, side in sides.items()}


def _refuse_unknown(analysis: Analysis) -> None:
    if analysis.unknown:
        node = analysis.unknown[0]
        raise UsageError(
            f"What the op {op(node)!r} in {module_path(node) or 'the root module'} does to scales is not known, and it "
            f"stands between a parameter and an output. Say which known op it acts like: "
            f"hptransfer.register_op({op(node)!r}, like='relu'), or 'rms_norm', 'matmul', ...; see "
            f"hptransfer.graph.ops."
        )


def _refuse_open(analysis: Analysis, depth: Depth) -> None:
    """Every branch must have been met where it is added: a depth rule is not lost without a word."""
    for _, add in depth.branches.keys() - analysis.closed:
        raise UsageError(
            f"{op(add)} in {module_path(add) or 'the root module'} closes a residual branch, but it is not known how "
            f"it adds the branch to its stream, so that the branch's 1/L has no place. Write it as x + f(x)."
        )


def _multiplier(one: Missing, why: str) -> Multiplier:
    """Its parts are the same factor further on, so they have the same reason."""
    parts = tuple(Multiplier(part.targets, part.consumers, part.factor, why) for part in one.parts)
    return Multiplier(one.targets, one.consumers, one.factor, why, parts)


def _why(one: Missing, sizes: Sizes, scheme: Scheme, depth: Depth, changed: Changed) -> str:
    node, where = one.node, module_path(one.node) or "the root module"
    total = one.factor ** len(one.targets)
    if one.kind == "product":
        read = _grown(one, sizes)
        what = f"(d {read}; 2203.03466 def. 4.1), split evenly over q and k"
        return f"attention in {where}: logits x {total:.4g} so that q.k is scaled by {scheme.attention} {what}"
    if (one.targets[0], node) in depth.why:
        return depth.why[one.targets[0], node]
    if one.kind == "constant":
        ours, theirs = changed[node]
        return f"{op(node)} by {ours:.4g} in {where} is {theirs:.4g} at the base"
    reads = "needs entries of order one" if one.kind == "edge" else "makes entries that follow a size that grows"
    return f"{op(node)} in {where} {reads}: x {total:.4g}"


def _grown(one: Missing, sizes: Sizes) -> str:
    product = one.consumers[0]
    twin = sizes.pairs.get(product)
    known = law(product) in {"contract", "attention"} and twin is not None
    return f"{contracted_size(twin):g} -> {contracted_size(product):g}" if known and twin is not None else "grows"


def _together(multipliers: Sequence[Multiplier], lacking: Sequence[Missing], depth: Depth) -> list[Multiplier]:
    """One module's products go together: they may share a factor (logits against positions) or weights (a layer called
    again). So do all branches: their factors may stand in one parameter, a scalar per layer.
    """
    groups: dict[object, list[Multiplier]] = {}
    for multiplier, one in zip(multipliers, lacking, strict=True):
        shared: object = one
        if one.kind == "product":
            shared = module_path(one.node), len(one.targets), round(one.factor, 9)
        elif (one.targets[0], one.node) in depth.why:
            shared = round(one.factor, 9)
        groups.setdefault(shared, []).append(multiplier)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Multiplier]) -> Multiplier:
    if len(group) == 1:
        return group[0]
    targets, consumers = (
        dict.fromkeys(n for part in group for n in getattr(part, which)) for which in ("targets", "consumers")
    )
    return replace(group[0], targets=tuple(targets), consumers=tuple(consumers), parts=tuple(group))


def _notes(analysis: Analysis, lacking: Sequence[Missing]) -> Iterable[str]:
    """What grows or shrinks and is left so."""
    for one in lacking:
        readers = [reader for part in one.parts for reader in part.consumers]
        if one.kind == "product" and readers and not any(_weighs(reader) for reader in readers):
            yield (
                f"in {module_path(one.node) or 'the root module'} two activations are multiplied over an axis that "
                f"grows: x {one.factor ** len(one.targets):.4g} keeps what training makes of the product at order one; "
                f"at the start, where they are independent, it is smaller in a wider model"
            )
    for node in _products_under_norms(analysis):
        yield (
            f"in {module_path(node) or 'the root module'} two activations are multiplied over an axis that grows "
            f"and a norm reads the product: at the start it grows by m^1/2, once trained by m, so that features "
            f"behind the norm turn faster in a wider model"
        )


def _products_under_norms(analysis: Analysis) -> Iterable[fx.Node]:
    """Products over a growing axis whose scale goes on, through sums and views, to a norm that does not mind it."""
    for node, growth in analysis.growth.items():
        deviates = _multiplies_two(node, analysis) and analysis.scales[node].deviates
        if deviates and not math.isclose(growth, 1.0) and _meets_norm(node, analysis):
            yield node


def _multiplies_two(node: fx.Node, analysis: Analysis) -> bool:
    """True for a contraction of two activations, or a sum of their products; a square is a norm's own."""
    source = analysis.summed_over(node) if law(node) == "sum" else node
    factors = {a for a in source.all_input_nodes if a in analysis.from_inputs}
    return law(source) in {"contract", "product"} and len(factors) > 1


def _meets_norm(node: fx.Node, analysis: Analysis) -> bool:
    """True where the scale ends at an op of another, be it a norm or the product with 1 / |x| of one written out."""
    pending, seen = [node], {node}
    while pending:
        fresh = [user for user in users(pending.pop()) if user not in seen]
        seen.update(fresh)
        if any(not analysis.scales[n].deviates and _takes_scale(n, analysis) for n in fresh):
            return True
        pending += [user for user in fresh if analysis.scales[user].deviates]
    return False


def _takes_scale(node: fx.Node, analysis: Analysis) -> bool:
    """True for a norm, and for an activation times, or over, another: what 1 / |x| of a norm written out ends in."""
    factors = {a for a in node.all_input_nodes if a in analysis.from_inputs}
    return law(node) == "normalise" or (law(node) in {"product", "quotient"} and len(factors) > 1)


def _weighs(node: fx.Node) -> bool:
    """What reads logits: a softmax, or a function like it, behind masks and biases."""
    for _ in range(_STEPS):
        if law(node) in {"softmax", "bend", "attention"}:
            return True
        if law(node) not in {"join", "write", "view", "product", "quotient"} or not users(node):
            return False
        node = users(node)[0]
    return False


_STEPS = 64


def tied_readout_multipliers(uses: Mapping[str, list[Use]], factors: Mapping[str, float]) -> list[Multiplier]:
    """A tied head reads the embedding's own weight: the readout's 1/m goes to its input.

    uses: parameter -> its uses as a readout; factors: parameter -> 1/m.
    """
    return [
        Multiplier((use.operand,), (use.node,), factors[name], f"tied readout {name}: its input x {factors[name]:.4g}")
        for name, own in uses.items()
        for use in own
        if use.operand is not None and not math.isclose(factors[name], 1.0)
    ]


def changed_constants(target: Graph, base: Graph, pairs: Pairs, *, skip: frozenset[fx.Node], given: Values) -> Changed:
    """Multiplication by a constant of the code -> its value here and at the base, where they differ.

    skip: multiplications that are left alone. given: values of buffers that cannot be read.
    """
    at_base = {site.node: site for site in constants(base)}
    changed: Changed = {}
    for site in constants(target):
        twin = at_base.get(pairs[site.node]) if site.node in pairs else None
        if twin is None or site.node in skip:
            continue
        ours, theirs = _valued(site, twin, given)
        if ours * theirs > 0 and not math.isclose(ours, theirs, rel_tol=1e-6):
            changed[site.node] = ours, theirs
    return changed


def _valued(site: Constant, twin: Constant, given: Values) -> tuple[float, float]:
    """Both values, the given ones where a buffer hides them."""
    name = site.unread or twin.unread
    values = next((v for pattern, v in given.items() if fnmatch.fnmatchcase(name, pattern)), None)
    known = values if isinstance(values, tuple) else (values, None)
    ours = site.value if site.value is not None else known[0]
    theirs = twin.value if twin.value is not None else known[1]
    if ours is None or theirs is None:
        at_base = "" if theirs is None else f"; at the base it is {theirs:.4g}"
        raise UsageError(
            f"{site.module or 'The model'} multiplies by the buffer {name!r}, which is on the meta device, so its "
            f"value cannot be read{at_base}. If it depends on the size (as a square root of the width does), the plan "
            f"must undo that: pass constants={{{name!r}: value}}, or (value, value at the base) where both are on meta."
        )
    return float(ours), float(theirs)
