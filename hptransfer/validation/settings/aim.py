"""What a check sweeps and what it holds: the learning rate, or one setting at the tuned vector's other values."""

# pyright: strict
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.errors import UsageError
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.settings.effect import refuse_idle
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.settings.tuned import TunedSettings, tuned_of
from hptransfer.validation.settings.vector import Vector

REACH = 4
"""Octaves to either side of a factor that a search of it looks at; it goes on beyond where the best lies there."""
Given = TunedSettings | Mapping[str, float] | str | Path


@dataclass(frozen=True)
class Aim:
    """setting: what is swept; held: the whole vector, with the value that `setting` was tuned to, if it was.

    notes: what is to be said of where the vector comes from.
    """

    setting: Setting
    held: Vector
    notes: tuple[str, ...] = ()

    @property
    def tuned(self) -> float | None:
        """The value that is said to transfer; None of a learning rate that nobody tuned."""
        return self.held.value(self.setting)

    def values(self, lrs: Sequence[float] | None) -> Sequence[float] | None:
        """What to sweep: the rates that were given, or octaves about a factor. Raises UsageError where both would."""
        if self.setting.is_rate:
            return lrs
        if lrs is not None:
            raise UsageError(f"lrs={list(lrs)}: a check of '{self.setting}' holds the learning rate; leave lrs out.")
        return around(self.tuned or 1.0, REACH)


def around(value: float, octaves: int) -> tuple[float, ...]:
    """Values an octave apart, `octaves` to either side of one."""
    return tuple(float(f"{value * 2.0**k:.12g}") for k in range(-octaves, octaves + 1))


def aimed(trainer: Trainer, tuned: Given | None, setting: str | None, *, fingerprint: str, steps: int) -> Aim:
    """What a check of this recipe sweeps and holds.

    Raises UsageError where a setting would change nothing, a file is of another recipe, or no rate is there to hold.
    """
    chosen = RATE if setting is None else Setting.named(setting)
    held, made = (Vector(), None) if tuned is None else tuned_of(tuned)
    if not chosen.is_rate and held.lr is None:
        raise UsageError(
            f"A check of '{chosen}' holds the learning rate at the base's tuned one. Give tuned=: what "
            '`hptransfer tune` wrote, or values, as {"lr": 0.01}.'
        )
    refuse_idle(trainer, [named for named, _ in held.factors] + [chosen])
    if made is None:
        return Aim(chosen, held)
    if made.recipe != trainer.recipe.name:
        raise UsageError(f"The tuned settings are of recipe {made.recipe!r}, not of {trainer.recipe.name!r}.")
    return Aim(chosen, held, tuple(_unlike(made, fingerprint, steps)))


def _unlike(made: TunedSettings, fingerprint: str, steps: int) -> list[str]:
    """How the tuning differs from what is checked."""
    notes: list[str] = []
    if made.fingerprint != fingerprint:
        notes.append("The settings were tuned on another version of the recipe, of torch or of hptransfer.")
    if made.steps != steps:
        notes.append(f"The settings were tuned in {made.steps} steps, and are checked in {steps}.")
    return notes
