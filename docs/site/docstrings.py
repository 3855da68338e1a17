"""Docstrings of this library as Markdown: prose whose "name: what it is" parts become a list.

A part begins where a sentence does, with parameters or attributes of the documented object and a colon; it ends where
the next begins, or at "Returns" or "Raises".
"""

from __future__ import annotations

import itertools
import re
from typing import Any

try:
    from griffe import Extension
except ImportError:  # the tests read this file without the documentation's packages
    Extension = object  # type: ignore[assignment,misc]

ENDS = re.compile(r"(?<![\w,;])(?=(?:Returns|Raises|Source)\b)")


class Prose(Extension):  # type: ignore[misc]
    """Rewrites every docstring as it is loaded; a class's when its members are known."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for every object, before its members are read."""
        if not obj.is_alias and not obj.is_class:
            _rewrite(obj, {p.name.lstrip("*") for p in getattr(obj, "parameters", ())})

    def on_class_members(self, *, cls: Any, **_: Any) -> None:
        """Called by griffe for every class with its members."""
        init = cls.members.get("__init__")
        names = {p.name for p in init.parameters} if init is not None and not init.is_alias else set()
        _rewrite(cls, names | {name for name, member in cls.members.items() if not member.is_alias})


def _rewrite(obj: Any, names: set[str]) -> None:
    if obj.docstring is not None:
        obj.docstring.value = as_markdown(obj.docstring.value, names)


def as_markdown(text: str, names: set[str]) -> str:
    """The docstring with its parts as list items. names: what a part may be about."""
    return "\n\n".join(_paragraph(part, names) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str, names: set[str]) -> str:
    if re.match(r"\s{4}", text):  # an indented block is code
        return text
    words = re.sub(r"\s*\n\s*", " ", text).strip()
    begins = [
        m for m in re.finditer(r"(?:(?<=^)|(?<=[.;] ))([a-z_]\w*(?:, [a-z_]\w*)*): ", words) if _known(m[1], names)
    ]
    if not begins:
        return _escaped("\n\n".join(part.strip() for part in ENDS.split(words) if part.strip()))
    cuts = [m.start() for m in begins] + [len(words)]
    items = [words[a:b].strip() for a, b in itertools.pairwise(cuts)]
    last, *rest = ENDS.split(items[-1])
    listed = [_item(item) for item in (*items[:-1], last.strip())]
    whole = [words[: cuts[0]].strip(), "\n".join(listed), *(part.strip() for part in rest)]
    return _escaped("\n\n".join(filter(None, whole)))


def _known(listed: str, names: set[str]) -> bool:
    return set(listed.split(", ")) <= names


def _item(text: str) -> str:
    name, _, rest = text.partition(": ")
    return f"- `{name}`: {rest.rstrip(';')}"


def _escaped(text: str) -> str:
    """Stars and underscores, outside backticks, as themselves."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", p) for p in parts)
