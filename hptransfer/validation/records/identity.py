"""A recipe's fingerprint: what decides the outcome of a run, hashed, so that a resumed sweep mixes no two recipes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hptransfer._version import __version__
from hptransfer.core.errors import RECIPE_ERRORS, UsageError, described
from hptransfer.core.training.recipe import Recipe

_DECIDING = (
    *("build", "batches", "loss", "validation", "schedule", "base", "optimizer", "optimizer_options"),
    *("accumulate", "clip_norm", "decays", "autocast"),
)


def fingerprint(recipe: Recipe, extra: Any = None) -> str:
    """12 hex digits that change when the outcome of a run may.

    Covers the whole source file of each of the recipe's functions (with closures, defaults and bound arguments), the
    optimizer and its options, the base, the data (all validation batches and the first training batch of seed 0), and
    the versions of torch and hptransfer.
    Not covered: the defaults of a check (widths, lrs, seeds), the number of steps (part of a run's own key), and
    modules that the recipe's file imports. extra: further settings that change runs.
    Raises UsageError where the recipe cannot give its data.
    """
    digest = hashlib.sha256()
    for name in _DECIDING:
        _feed(digest, (name, getattr(recipe, name)), [])
    _feed(digest, (_data(recipe), extra, torch.__version__, __version__), [])
    return digest.hexdigest()[:12]


def _data(recipe: Recipe) -> tuple[Any, Any]:
    try:
        return list(recipe.validation()), next(iter(recipe.batches(recipe.base, 0)), None)
    except UsageError:
        raise
    except RECIPE_ERRORS as error:
        raise UsageError(
            f"Recipe {recipe.name!r} cannot give its data: {described(error)}. Check batches() and validation()."
        ) from error


def _feed(digest: Any, value: Any, above: list[int]) -> None:
    """Feed a canonical form of `value`, free of memory addresses. above: the ids of the values it is part of."""
    if id(value) in above:
        return
    above = [*above, id(value)]
    digest.update(type(value).__qualname__.encode() + b"\0")
    if isinstance(value, (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)):
        digest.update(repr(value).encode() + b"\0")
    elif isinstance(value, torch.Tensor):
        _feed_tensor(digest, value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _feed(digest, (key, value[key]), above)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value if isinstance(value, (list, tuple)) else sorted(value, key=repr):
            _feed(digest, item, above)
    elif isinstance(value, functools.partial):
        _feed(digest, (value.func, value.args, value.keywords), above)
    elif isinstance(value, types.MethodType):
        _feed(digest, (value.__func__, value.__self__), above)
    elif isinstance(value, type):
        _feed_source(digest, value.__module__, value.__qualname__, _file_of(value))
    elif isinstance(value, types.FunctionType):
        _feed_function(digest, value, above)
    else:  # any other object: its class and what it holds
        _feed(digest, (type(value), getattr(value, "__dict__", None)), above)


def _feed_tensor(digest: Any, value: torch.Tensor) -> None:
    digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
    if value.device.type != "meta":
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def _feed_function(digest: Any, function: types.FunctionType, above: list[int]) -> None:
    code = function.__code__
    path = code.co_filename if Path(code.co_filename).is_file() else None
    _feed_source(digest, function.__module__, f"{function.__qualname__}:{code.co_firstlineno}", path)
    if path is None:  # typed in by hand: the bytecode is all there is
        digest.update(code.co_code + repr([c for c in code.co_consts if not inspect.iscode(c)]).encode())
    cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
    _feed(digest, (function.__defaults__, function.__kwdefaults__, cells), above)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _file_of(cls: type) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None


def _feed_source(digest: Any, module: str, name: str, path: str | None) -> None:
    """A function or class by name and, unless it belongs to an installed library, by the text of its file."""
    digest.update(name.encode() + b"\0")
    if path is not None and not module.startswith(("torch.", "hptransfer.")) and "site-packages" not in path:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    else:
        digest.update(module.encode())
