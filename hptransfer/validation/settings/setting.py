"""A setting that is searched at the base and transfers: its name, its words, and the parameters that it reaches."""

# pyright: strict
from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from hptransfer.core.errors import UsageError, near

Kind = Literal["lr", "weight_decay", "init"]
WORDS: Mapping[Kind, str] = {"lr": "learning rate", "weight_decay": "weight decay", "init": "initial scale"}
"""What may be searched, and what it is called. Each is a field of hptransfer.Tuned."""
EXAMPLES = "lr, weight_decay, init, or one of them of some parameters, as lr:embed* or init:head"


@dataclass(frozen=True, order=True)
class Setting:
    """One setting. kind: what it is; glob: the parameters that it is of, by their name or their module's; "": of all.

    Its value is a factor on what the base has, but for the learning rate of all parameters, which is the rate itself.
    """

    kind: Kind = "lr"
    glob: str = ""

    @classmethod
    def named(cls, text: str) -> Setting:
        """The setting that a text such as "weight_decay" or "lr:embed*" names. Raises UsageError on another text."""
        kind, colon, glob = text.strip().partition(":")
        if kind not in WORDS:
            raise UsageError(f"setting {text!r}: {kind!r} is none{near(kind, WORDS)} Use {EXAMPLES}.")
        if (colon and not glob) or re.search(r"[\s=]", glob):
            raise UsageError(f"setting {text!r}: no parameter is called {glob!r}. Use {EXAMPLES}.")
        return cls(cast(Kind, kind), glob)

    def __str__(self) -> str:
        return f"{self.kind}:{self.glob}" if self.glob else self.kind

    @property
    def is_rate(self) -> bool:
        """Whether it is the learning rate itself."""
        return self.kind == "lr" and not self.glob

    @property
    def words(self) -> str:
        """ "weight decay", or "learning rate of embed*"."""
        return f"{WORDS[self.kind]} of {self.glob}" if self.glob else WORDS[self.kind]

    @property
    def of_base(self) -> str:
        """What stands before a value: "x " where it is a factor on the base's."""
        return "" if self.is_rate else "x "

    @property
    def slug(self) -> str:
        """Its name as a part of a folder's name."""
        return re.sub(r"[^A-Za-z0-9_]+", "-", str(self)).strip("-")

    def shown(self, value: float) -> str:
        """A value in a sentence: "0.0123", or "x 4" of the base's."""
        return f"{self.of_base}{value:.4g}"

    def reaches(self, name: str) -> bool:
        """Whether it is of the parameter of that name."""
        return not self.glob or any(fnmatch.fnmatchcase(name, glob) for glob in (self.glob, f"{self.glob}.*"))


RATE = Setting()
"""The learning rate of all parameters."""


@lru_cache(maxsize=256)
def setting_named(text: str) -> Setting:
    """Setting.named, which results ask for over and over."""
    return Setting.named(text)


def checked_value(setting: Setting, value: object) -> float:
    """A value of a setting. Raises UsageError where it is no positive finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise UsageError(f"{setting}={value!r}: must be a positive finite number.")
    return float(value)
