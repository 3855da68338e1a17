"""What a run trains with beside its scheme and scale: the base's learning rate, and factors on other settings."""

# pyright: strict
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from hptransfer.core.errors import UsageError
from hptransfer.validation.records.runs import Run, exact
from hptransfer.validation.settings.setting import Setting, checked_value


@dataclass(frozen=True)
class Vector:
    """A value for every setting that differs from the base's.

    lr: the base learning rate, None where it is what is searched. factors: (setting, factor on the base's value), in
    the settings' order; a factor of 1 is left out, so that equal vectors are equal.
    """

    lr: float | None = None
    factors: tuple[tuple[Setting, float], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Vector:
        """From setting -> value, as {"lr": 0.01, "weight_decay": 4.0}. Raises UsageError on what is no setting."""
        vector = cls()
        for name, value in values.items():
            setting = Setting.named(name)
            vector = vector.with_(setting, checked_value(setting, value))
        return vector

    @classmethod
    def read(cls, text: str) -> Vector:
        """The factors of `text`. Raises UsageError where it is not such a text."""
        return _read(text)

    def with_(self, setting: Setting, value: float) -> Vector:
        """The vector with another value of one setting."""
        if setting.is_rate:
            return Vector(value, self.factors)
        rest = [(other, factor) for other, factor in self.factors if other != setting]
        return Vector(self.lr, tuple(sorted([*rest, (setting, value)] if value != 1.0 else rest)))

    def value(self, setting: Setting) -> float | None:
        """Its value of a setting: 1 for a factor that it does not name."""
        return self.lr if setting.is_rate else dict(self.factors).get(setting, 1.0)

    @property
    def values(self) -> dict[str, float]:
        """The inverse of `of`."""
        rate = {} if self.lr is None else {"lr": self.lr}
        return rate | {str(setting): factor for setting, factor in self.factors}

    @property
    def text(self) -> str:
        """The factors on one line, every number to its last digit, as "init:head=0.5 weight_decay=4"."""
        return _text(self.factors)


def value_of(run: Run, setting: Setting) -> float:
    """A run's value of a setting: its learning rate, or a factor on the base's."""
    return run.lr if setting.is_rate else _read(run.settings).value(setting) or 1.0


@lru_cache(maxsize=1 << 12)
def _text(factors: tuple[tuple[Setting, float], ...]) -> str:
    return " ".join(f"{setting}={exact(factor)}" for setting, factor in factors)


@lru_cache(maxsize=1 << 12)
def _read(text: str) -> Vector:
    parts = [part.rpartition("=") for part in text.split()]
    try:
        return Vector.of({name: float(value) for name, _, value in parts})
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of settings ({error}). Write NAME=FACTOR, as weight_decay=4.") from error
