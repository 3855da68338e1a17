"""What a model keeps in its attributes: the containers and plain objects there, and how they are put back."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]


def reached(*held: object) -> Iterator[object]:
    """These objects and everything in their containers and attributes, each once.

    Objects of the standard library (loggers, locks) are not looked into, nor are functions, classes and tensors.
    """
    pending, seen = [*held], set[int]()
    while pending:
        value = pending.pop()
        if id(value) not in seen:
            seen.add(id(value))
            yield value
            pending += contents(value)


def contents(value: object) -> list[Any]:
    """What a container holds, or the dict of a plain object's attributes; nothing for anything else."""
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    return [vars(value)] if is_plain(value) else []


def is_plain(value: object) -> bool:
    """True for a module, or an object with attributes that is no function, class, tensor or Python module."""
    closed = isinstance(value, (type, types.ModuleType, types.FunctionType, Tensor))
    if closed or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    library = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
    return isinstance(value, (nn.Module, types.SimpleNamespace)) or not library


def tensors(*held: object) -> list[Tensor]:
    """Every tensor among these objects or reached from them, each once."""
    return [value for value in reached(*held) if isinstance(value, Tensor)]


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Afterwards every attribute of the model, and every container there, holds what it held before.

    So do containers beside the model's classes, in them or in their files; memoised functions there that were called
    anew forget what they returned.
    """
    shared = _beside_classes(model)
    memoised = {f: f.cache_info().misses for f in shared if isinstance(f, functools._lru_cache_wrapper)}
    found = [own for own in (*reached(model), *shared) if isinstance(own, (dict, list, set, deque))]
    before = [(own, _snapshot(own)) for own in found]
    try:
        yield
    finally:
        for own, was in before:
            if not _same(own, was):
                _refill(own, was)
        for function, misses in memoised.items():
            if function.cache_info().misses != misses:
                function.cache_clear()


def _beside_classes(model: nn.Module) -> list[Any]:
    """What stands in the classes of the model's modules and in the files that define them, torch's own left out."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    own = [kind for kind in classes if kind.__module__.partition(".")[0] not in {"torch", *sys.stdlib_module_names}]
    files = {kind.__module__ for kind in own} & set(sys.modules)
    spaces = [*map(vars, own), *(vars(sys.modules[name]) for name in files)]
    return [value for space in spaces for name, value in space.items() if not name.startswith("__")]


def _snapshot(own: Container) -> list[Any]:
    return list(dict.items(own)) if isinstance(own, dict) else list(own)


def _same(own: Container, was: list[Any]) -> bool:
    """The very same objects in the same order."""
    now = _snapshot(own)
    if len(now) != len(was):
        return False
    if isinstance(own, dict):
        return all(a is c and b is d for (a, b), (c, d) in zip(now, was, strict=True))
    return all(a is b for a, b in zip(now, was, strict=True))


def _refill(own: Container, was: list[Any]) -> None:
    """Through the methods of dict itself, since a registry's own may do more than store."""
    if isinstance(own, dict):
        plain = OrderedDict if isinstance(own, OrderedDict) else dict
        plain.clear(own)  # type: ignore[arg-type]
        for key, value in was:
            plain.__setitem__(own, key, value)  # type: ignore[arg-type]
        return
    own.clear()
    own.update(was) if isinstance(own, set) else own.extend(was)
