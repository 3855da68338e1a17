"""Which base parameter a target parameter is measured against: by name, with layer indices taken out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import template


class Counterparts:
    """The base's names, to be looked up by a target's: the same name, or one that differs only in its layer indices."""

    def __init__(self, base: Iterable[str]) -> None:
        self.known = set(base)
        self.by_template: dict[str, list[str]] = {}
        for name in sorted(self.known):
            self.by_template.setdefault(template(name), []).append(name)

    def of(self, name: str) -> str | None:
        """The base's name for a target's, or None."""
        candidates = self.by_template.get(template(name), [])
        return name if name in self.known else _nearest(name, candidates) if candidates else None


def match_names(target: Sequence[str], base: Sequence[str]) -> dict[str, str]:
    """Target parameter -> base parameter: the same name, or one that differs only in its layer indices.

    Raises UsageError where a parameter has no counterpart.
    """
    counterparts, matched = Counterparts(base), {}
    for name in target:
        found = counterparts.of(name)
        if found is None:
            raise UsageError(
                f"Parameter {name!r} of the model has no counterpart in the base, not even at another layer index. "
                f"Build both with the same code, changing only width and depth."
            )
        matched[name] = found
    return matched


def _nearest(name: str, candidates: Sequence[str]) -> str:
    """The name whose indices are closest: stages keep their stage, and beyond the base's last block that one counts."""
    own = _indices(name)
    return min(candidates, key=lambda c: [abs(a - b) for a, b in zip(own, _indices(c), strict=True)])


def _indices(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]
