"""Functions in a copied model that still hold the original: they are made anew around the copy.

copy.deepcopy takes functions as they are, so that a forward wrapped in a closure, or compiled and put back on its
model, would run the original.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hptransfer.graph.export.attributes import reached

_COMPILED = "_torchdynamo_orig_callable"


def rebind(copied: nn.Module, copies: Mapping[int, Any]) -> None:
    """Let every function in attributes, hooks and containers of `copied` hold copies where it held originals.

    copies: id of an original -> its copy, as copy.deepcopy leaves them.
    """
    for own in list(reached(copied)):
        held = list(own.items()) if isinstance(own, dict) else list(enumerate(own)) if isinstance(own, list) else []
        for key, value in held:
            if isinstance(value, types.FunctionType) and (bound := _bound(value, copies, frozenset())) is not value:
                own[key] = bound  # type: ignore[index]


def _bound(value: Any, copies: Mapping[int, Any], outer: frozenset[int]) -> Any:
    """The value with copies in place of originals, itself where it holds none. outer: the functions around it."""
    if isinstance(value, (nn.Module, Tensor)):
        return copies.get(id(value), value)
    if isinstance(value, types.MethodType):
        owner = copies.get(id(value.__self__), value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if not isinstance(value, types.FunctionType) or id(value) in outer:
        return value
    outer |= {id(value)}
    if _COMPILED in vars(value):  # run as written
        written = vars(value)[_COMPILED]
        bound = _bound(written, copies, outer)
        return value if bound is written else bound
    return _around(value, copies, outer)


def _around(function: types.FunctionType, copies: Mapping[int, Any], outer: frozenset[int]) -> types.FunctionType:
    """A function like this one around copies of what it closes over."""
    cells = function.__closure__ or ()
    held = [cell.cell_contents if _filled(cell) else None for cell in cells]
    bound = [_bound(value, copies, outer) for value in held]
    if all(a is b for a, b in zip(held, bound, strict=True)):
        return function
    closure = tuple(types.CellType(b) if _filled(c) else c for c, b in zip(cells, bound, strict=True))
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    vars(made).update(vars(function))
    return made


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell.cell_contents
    except ValueError:
        return False
