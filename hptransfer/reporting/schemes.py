"""Schemes as papers write them; the others are called as in the code."""

# pyright: strict
from __future__ import annotations

import re

NAMES = {
    "sp": "SP",
    "sp-embedding": "SP, embedding as muP",
    "mup": "muP",
    "completep": "CompleteP",
    "depth-mup": "depth-muP",
    "umup": "u-muP",
    "ntk": "NTK",
}

_SPELLED = re.compile(rf"(?<![\w./-])({'|'.join(NAMES)})(?![\w/-]|\.\w)")


def short_name(scheme: str) -> str:
    """A scheme's name for running text."""
    return NAMES.get(scheme, scheme)


def spelled(text: str) -> str:
    """A sentence with schemes spelled as papers write them, wherever a word of it is a scheme's name in the code."""
    return _SPELLED.sub(lambda name: NAMES[name[0]], text)
