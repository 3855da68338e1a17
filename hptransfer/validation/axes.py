"""What a check lets grow: width or depth, batch at fixed tokens, tokens at fixed batch, or several of them together."""

# pyright: strict
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import tree_leaves  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]

from hptransfer.core.errors import RECIPE_ERRORS, UsageError, described
from hptransfer.core.training.recipe import Axis, Recipe, Scale
from hptransfer.validation.grid import checked_sizes

PLURALS: dict[Axis, str] = {
    **{"width": "widths", "depth": "depths", "batch": "batches", "tokens": "tokens"},
    **{"experts": "experts", "active": "active", "expert_width": "expert_widths"},
}
"""What a check's argument for an axis is called."""


@dataclass(frozen=True)
class Growth:
    """The scales of a check, ascending; axis: what its sizes are called by, the first of those that grow.

    recipe: with the base's batch and tokens said, where they grow.
    """

    recipe: Recipe
    axis: Axis
    scales: tuple[Scale, ...]


def growth(
    recipe: Recipe,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    experts: Sequence[int] | None = None,
    active: Sequence[int] | None = None,
    expert_widths: Sequence[int] | None = None,
    steps: int | None = None,
) -> Growth:
    """The scales at the given sizes; several axes grow together, the first size of each with the first of the others.

    By default the recipe's widths. batches: in the recipe's unit, at the tokens that the base sees in `steps` (default:
    the recipe's), so that a run has fewer steps of a larger batch; tokens: at the base's batch, or at `batches`.
    experts, active, expert_widths: of a mixture, at the base's others.
    Raises UsageError where both widths and depths are given, lists differ in length, or the recipe ignores the batch.
    """
    if widths is not None and depths is not None:
        raise UsageError("Give one of widths, depths, not both: the other stays at the base's.")
    given: dict[Axis, Sequence[int] | None] = {
        **{"width": widths, "depth": depths, "experts": experts, "active": active, "expert_width": expert_widths},
        **{"batch": batches, "tokens": tokens},
    }
    named: dict[Axis, Sequence[int]] = {axis: sizes for axis, sizes in given.items() if sizes is not None}
    if not named:
        named["width"] = recipe.widths
    grown: dict[Axis, list[int]] = {
        axis: sorted(checked_sizes(PLURALS[axis], list(sizes))) for axis, sizes in named.items()
    }
    if len({len(sizes) for sizes in grown.values()}) != 1:
        counts = ", ".join(f"{len(sizes)} {PLURALS[axis]}" for axis, sizes in grown.items())
        raise UsageError(f"{counts}: they grow together, so give as many of each.")
    known = recipe
    if {"batch", "tokens"} & set(grown):
        known = _with_horizon(recipe, recipe.steps if steps is None else steps)
    rows: list[dict[str, int]] = [dict(zip(grown, sizes, strict=True)) for sizes in zip(*grown.values(), strict=True)]
    scales = tuple(known.base.with_(**row) for row in rows)
    if "batch" in grown:
        _refuse_same_batches(known, scales)
    return Growth(known, next(iter(grown)), scales)


def _with_horizon(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with the batch and the tokens of its base's own run."""
    batch = recipe.base.batch
    if batch is None and recipe.unit == "tokens":
        raise UsageError(f"Recipe {recipe.name!r} counts tokens: say how many a step of the base sees, in base.batch.")
    batch = batch or _drawn(recipe, recipe.base)
    return recipe.replace(base=recipe.base.with_(batch=batch, tokens=batch * steps))


def _drawn(recipe: Recipe, scale: Scale) -> int:
    """How many examples the first training batch of a scale has."""
    try:
        leaves: list[object] = tree_leaves(next(iter(recipe.batches(scale, 0))))  # pyright: ignore[reportUnknownVariableType]
    except RECIPE_ERRORS as error:
        raise UsageError(f"Recipe {recipe.name!r} gives no batch at {scale}: {described(error)}.") from error
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not sizes:
        raise UsageError(f"Recipe {recipe.name!r}: its batches hold no tensor of examples; say the size in base.batch.")
    return sizes[0]


def _refuse_same_batches(recipe: Recipe, scales: Sequence[Scale]) -> None:
    small, large = scales[0], scales[-1]
    if small.batch != large.batch and _drawn(recipe, small) == _drawn(recipe, large):
        raise UsageError(
            f"Recipe {recipe.name!r} gives the same batch at batch {small.batch:g} and {large.batch:g}. Its "
            "batches(scale, seed) must use scale.batch."
        )
