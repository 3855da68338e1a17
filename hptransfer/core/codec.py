"""JSON for frozen dataclasses: strict JSON out (inf and nan as strings), the annotated types back in."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def encode(value: Any) -> Any:
    """The JSON form of a dataclass, tuple, mapping or scalar; non-finite floats become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode(kind: type[T], data: Any) -> T:
    """The dataclass `kind` from its JSON form.

    A field with a default may be missing, and unknown fields are ignored (a newer version may have written them).
    Raises ValueError naming the field that does not fit.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} should be a JSON object, but got {type(data).__name__}")
    hints, values = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            values[field.name] = _value(hints[field.name], data[field.name], f"{kind.__name__}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{kind.__name__} lacks the field {field.name!r}")
    return kind(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    """`data` as the annotated type: a scalar, X | None, tuple[X, ...], Literal, Mapping or dataclass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in args if a is not type(None))
        return None if data is None else _value(inner, data, where)
    if origin is tuple and isinstance(data, list):
        kinds = [args[0]] * len(data) if args[1:] == (...,) else args
        return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, data, strict=True)))
    if origin is typing.Literal and data in args:
        return data
    if dataclasses.is_dataclass(hint):
        return decode(hint, data)  # type: ignore[arg-type]
    if hint is float and _is_number(data):
        return float(data)
    if isinstance(hint, type) and isinstance(data, hint) and (hint is bool or not isinstance(data, bool)):
        return data
    if hint is Any or (origin in (dict, Mapping) and isinstance(data, Mapping)):
        return data
    raise ValueError(f"{where}={data!r} does not fit {hint}")


def _is_number(data: Any) -> bool:
    return data in ("inf", "-inf", "nan") or (isinstance(data, (int, float)) and not isinstance(data, bool))
