"""Few patterns that say a plan exactly: one per distinct setting, and no two match the same name."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import template
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

K = TypeVar("K", bound=Hashable)


def classes(plan: Plan, key: Callable[[Row], K]) -> dict[K, list[str]]:
    """Setting -> the names of the parameters that have it, in the plan's order."""
    found: dict[K, list[str]] = {}
    for row in plan:
        found.setdefault(key(row), []).append(row.name)
    return found


def regexes(plan: Plan, key: Callable[[Row], K]) -> list[tuple[str, K]]:
    """(anchored regular expression, setting) for every distinct setting of a plan's rows.

    Of the plan's names each is matched by exactly one expression, whether the reader searches, matches or takes the
    first in order: checked here. An expression names endings (`(?:q_proj|up_proj)\\.weight`), indices of layers open.
    """
    named = classes(plan, key)
    found = [(_regex(_endings(names, _others(named, own))), own) for own, names in named.items()]
    for own, names in named.items():
        for name in names:
            if [setting for pattern, setting in found if re.search(pattern, name)] != [own]:
                raise UsageError(f"No pattern tells {name!r} from parameters with other settings.")
    return found


def globs(plan: Plan, key: Callable[[Row], K]) -> list[tuple[tuple[str, ...], K]]:
    """(shell patterns, setting) for every distinct setting, of whole names with `*` for a layer's index.

    Raises UsageError where a pattern would match a name of another setting.
    """
    named, found = classes(plan, key), list[tuple[tuple[str, ...], K]]()
    for own, names in named.items():
        shapes = tuple(dict.fromkeys(template(name) for name in names))
        for other in _others(named, own):
            if template(other) in shapes:
                raise UsageError(
                    f"{other!r} differs from {template(other)!r} in its layer alone: no glob tells them apart."
                )
        found.append((shapes, own))
    return found


def _others(named: dict[K, list[str]], own: K) -> list[str]:
    return [name for setting, names in named.items() if setting != own for name in names]


def _endings(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, ...]]:
    """The shortest endings, in dotted parts with indices open, that these names have and no other has."""
    taken = {ending for other in others for ending in _all_endings(other)}
    chosen: dict[tuple[str, ...], None] = {}
    for name in names:
        ends = _all_endings(name)
        free = [ending for ending in ends if ending not in taken]
        chosen[free[0] if free else tuple(name.split("."))] = None  # by its index where nothing else tells it
    return list(chosen)


def _all_endings(name: str) -> list[tuple[str, ...]]:
    """Endings of a name from the shortest on, the last alone where it is the whole name."""
    parts = template(name).split(".")
    return [tuple(parts[-count:]) for count in range(min(2, len(parts)), len(parts) + 1)]


def _regex(endings: Iterable[tuple[str, ...]]) -> str:
    by_last: dict[str, list[str]] = {}
    for *head, last in endings:
        by_last.setdefault(_escaped(last), []).append(r"\.".join(map(_escaped, head)))
    parts = [_alternatives(heads) + (r"\." if heads != [""] else "") + last for last, heads in by_last.items()]
    return rf"^(?:.*\.)?{_alternatives(parts)}$"


def _alternatives(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _escaped(part: str) -> str:
    return re.escape(part).replace(r"\*", r"\d+").replace(r"\-", "-")
