"""Which base parameter a target parameter is measured against: by name, with layer indices taken out."""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.core.errors import UsageError
from hptransfer.graph.scales.pairs import Counterparts


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
