"""Which base parameter a target parameter is measured against: by name, with layer indices taken out."""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.core.errors import UsageError
from hptransfer.core.graph import template


def match_names(target: Sequence[str], base: Sequence[str]) -> dict[str, str]:
    """Target parameter -> base parameter: the same name, or one that differs only in its layer indices.

    Raises UsageError where a parameter has no counterpart.
    """
    by_template: dict[str, list[str]] = {}
    for name in base:
        by_template.setdefault(template(name), []).append(name)
    known, matched = set(base), {}
    for name in target:
        candidates = by_template.get(template(name), [])
        if name not in known and not candidates:
            raise UsageError(
                f"Parameter {name!r} of the model has no counterpart in the base, not even at another layer index. "
                f"Build both with the same code, changing only width and depth."
            )
        matched[name] = name if name in known else _nearest(name, candidates)
    return matched


def _nearest(name: str, candidates: Sequence[str]) -> str:
    """Among layers of one template, the one whose indices are closest: stages keep their stage, blocks the last block."""
    own = _indices(name)
    return min(candidates, key=lambda c: [abs(a - b) for a, b in zip(own, _indices(c), strict=True)])


def _indices(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]
