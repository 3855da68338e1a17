"""Hold what real optimizer steps, and steps that have lined up with attention, change: nothing grows with the width.

An output may lie below the law, since at a random init not everything has lined up yet, and a readout may start small;
never above it. Attention logits are judged from both sides: their instrument (logits.py) is aligned by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

from hptransfer.checks.coord.probe import OUTPUT
from hptransfer.checks.oracle.logits import Site
from hptransfer.checks.oracle.measure import Array
from hptransfer.checks.oracle.promises import Promise
from hptransfer.checks.oracle.report import Check, OracleRow, Quantity
from hptransfer.checks.oracle.walk import Walk
from hptransfer.core.statistics import Slope, log_slope
from hptransfer.graph.graph import template

GROWS = 0.2
"""An exponent above this is growth."""
NOISE = 1e-5
"""A change below this fraction of what it changes is rounding."""
Walks = Sequence[Mapping[int, Walk]]
"""Per seed: size -> walk."""


def output_rows(
    walks: Walks,
    promise: Promise,
    held: Callable[[str], float],
    tolerance: float,
    jumping: Collection[str] = (),
) -> list[OracleRow]:
    """A row per module (layer indices taken out): the size of its output, and how much two steps change it.

    held: module -> exponent of a factor > 1 that the plan put on its output. jumping: modules whose change says nothing
    of the step that made it (see Measurements.jumping); their size is judged only.
    """
    widths = tuple(walks[0])
    everywhere = [n for n in walks[0][widths[0]].size if all(n in walk.size for run in walks for walk in run.values())]
    rows: list[OracleRow] = []
    for names in _by_template(everywhere):
        grows = log_exponent(widths, [walks[0][w].entries[names[0]] for w in widths]) > GROWS
        allowed = (promise.features if grows else promise.objective) + promise.unaligned
        above = max(0.0, held(names[0]))
        sizes = _runs(walks, names, lambda walk: walk.size)
        changes = _runs(walks, names, lambda w: {n: v for n, v in w.change.items() if v > NOISE * w.size[n]})
        judge = partial(_at_most, widths, tolerance)
        smooth = changes if not set(names) & set(jumping) else None
        checks = [judge("size", above, sizes), judge("change", allowed + above, smooth)]
        rows.append(row_of(_shown(names), names, "output", checks))
    return rows


def logit_rows(
    sites: Sequence[Mapping[int, Sequence[Site]]], promise: Promise, tolerance: float, *, quadratic: bool
) -> list[OracleRow]:
    """A row per softmax: what a step that has lined up changes its logits by, in powers of the head dimension.

    sites: per seed, width -> every softmax in order; quadratic: the step is proportional to the gradient, so the
    logits' scale counts twice, and so does what the model passes back beyond the instrument's.
    """
    widths, rows = tuple(sites[0]), list[OracleRow]()
    counts = {len(found) for run in sites for found in run.values()}
    if len(counts) > 1:
        return []  # a softmax per head, expert or pixel: they do not correspond
    for i in range(counts.pop()):
        effects = np.array([[run[w][i].effect for w in widths] for run in sites])
        heads = [sites[0][w][i].contracted for w in widths]
        if min(heads) <= 0 or not bool((effects > 0).all()):
            continue
        scale = promise.logits * log_exponent(widths, heads)
        claim = promise.features + (2 * scale - promise.backward if quadratic else scale + promise.unaligned)
        check = settled("change", claim, log_slope(widths, effects), tolerance)
        rows.append(row_of(f"attention {i}", (f"attention {i}",), "logits", (check,)))
    return rows


def settled(quantity: Quantity, claim: float, measured: Slope, tolerance: float, floor: float = 0.0) -> Check:
    """ok: the exponent lies within the tolerance; None where its interval only reaches into it.

    floor: how much lower (<= 0) than claimed it may be beyond the tolerance.
    """
    low, high = claim + floor - tolerance, claim + tolerance
    ok: bool | None = low <= measured.value <= high
    if not ok and measured.high >= low and measured.low <= high:
        ok = None
    return Check(quantity, claim, measured.value, measured.low, measured.high, ok)


def _at_most(
    sizes: Sequence[int], tolerance: float, quantity: Quantity, claim: float, values: Array | None
) -> Check | None:
    return None if values is None else settled(quantity, claim, log_slope(sizes, values), tolerance, -math.inf)


def row_of(name: str, names: Sequence[str], role: str, checks: Sequence[Check | None]) -> OracleRow:
    """A row of the checks that could be made, and what fails in words."""
    seen = tuple(check for check in checks if check is not None)
    why = [f"{c.quantity} {c.measured:+.2f} where {c.plan:+.2f} is promised" for c in seen if c.ok is False]
    return OracleRow(name, tuple(names), role, seen, "; ".join(why))


def log_exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of `values` in the sizes, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _runs(walks: Walks, names: Sequence[str], of: Callable[[Walk], Mapping[str, float]]) -> Array | None:
    """[names x seeds, widths], without those where something is missing or zero."""
    found = [[of(walk).get(name, 0.0) for walk in run.values()] for name in names for run in walks]
    kept = [row for row in found if min(row) > 0]
    return np.array(kept) if kept else None


def _shown(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else template(names[0])


def _by_template(names: Sequence[str]) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name if name == OUTPUT else template(name), []).append(name)
    return [tuple(group) for group in groups.values()]
