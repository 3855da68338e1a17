"""What one unit of batch and tokens is: tokens, sequences, images or examples; read, converted, and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import UsageError

if TYPE_CHECKING:
    import torch

UNITS = {
    "tokens": ("tokens", "token", "tok"),
    "sequences": ("sequences", "sequence", "seqs", "seq"),
    "images": ("images", "image", "img"),
    "examples": ("examples", "example", "samples", "sample"),
}
"""Unit -> the words that stand for it. All but tokens count examples: what the batch's first axis holds."""


def unit_named(word: str) -> str:
    """The unit that a word stands for. Raises UsageError on an unknown one."""
    for unit, words in UNITS.items():
        if word.lower() in words:
            return unit
    raise UsageError(f"{word!r} is no unit of a batch; use one of {', '.join(UNITS)}.")


def converted(value: float, given: str, wanted: str, tokens_per_example: float | None) -> float:
    """A batch or a run's length from one unit to another: tokens = examples x tokens_per_example.

    Raises UsageError between tokens and examples where the recipe does not say how many tokens one example holds.
    """
    if (given == "tokens") == (wanted == "tokens"):
        return value
    if tokens_per_example is None:
        raise UsageError(
            f"{value:g} {given} cannot be told in the recipe's unit, {wanted}: give Recipe(tokens_per_example=...), or "
            f"write the target in {wanted}."
        )
    return value / tokens_per_example if given == "tokens" else value * tokens_per_example


def refuse_other_batch(batch: Any, said: float | None, unit: str, name: str) -> None:
    """Raise UsageError where a recipe's first batch does not hold as many units as its base says.

    batch: a tensor or (nested) tuple, list or dict of tensors; said: base.batch. Sequences may be one token longer than
    what is predicted, as inputs and shifted targets are.
    """
    first = _first(batch)
    if said is None or first is None or not first.dim():
        return
    examples, entries = first.shape[0], first.numel()
    shorter = entries - examples if first.dim() > 1 else entries
    counts = {"tokens": (entries, shorter), "examples": (examples,)}
    if said in counts["tokens" if unit == "tokens" else "examples"]:
        return
    likely = next((other for other, numbers in counts.items() if said in numbers), None)
    remedy = f'That is its number of {likely}: say unit="{likely}".' if likely else "Say the batch that it yields."
    raise UsageError(
        f"Recipe {name!r} says batch={said:g} {unit} at its base, but its first batch is of shape "
        f"{tuple(first.shape)}: {examples} examples, {entries} entries. {remedy}"
    )


def _first(batch: Any) -> torch.Tensor | None:
    import torch  # here alone: the command line reads UNITS before anything is trained

    if isinstance(batch, torch.Tensor):
        return batch
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ()
    return next((found for part in parts if (found := _first(part)) is not None), None)
