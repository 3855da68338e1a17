"""The files this project writes: strict JSON with one `schema` key, replaced whole or not at all, and text in columns.

inf and nan are the strings "inf", "-inf" and "nan" everywhere. The key was called "format" in earlier plans and
forecasts, and some files had none; both still read, as does Python's own Infinity and NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hptransfer.core.errors import UsageError

T = TypeVar("T")
D = TypeVar("D", bound="Document")


class Document:
    """A frozen dataclass that is kept as JSON: its schema and its fields.

    SCHEMA: raised when files of the old one no longer say the same. TITLE: what such a file is called, with its
    article; REMEDY: what to do with one that does not fit. STRICT: unknown fields are refused, not ignored.
    """

    SCHEMA: ClassVar[int] = 1
    TITLE: ClassVar[str] = "a document"
    REMEDY: ClassVar[str] = "Make it again."
    STRICT: ClassVar[bool] = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, round-tripped by `from_json`."""
        return {"schema": self.SCHEMA, **encode(self)}

    @classmethod
    def from_json(cls: type[D], data: Any) -> D:
        """The inverse of to_json. Raises UsageError where the data is of another schema or does not fit."""
        if not isinstance(data, Mapping):
            raise UsageError(f"Not {cls.TITLE}: a JSON object is needed, but got {type(data).__name__}. {cls.REMEDY}")
        schema = data.get("schema", data.get("format", 1))
        if schema != cls.SCHEMA:
            raise UsageError(
                f"Not {cls.TITLE} of schema {cls.SCHEMA}, which is what this version reads, but of schema {schema!r}. "
                f"{cls.REMEDY}"
            )
        fields = {key: value for key, value in data.items() if key not in {"schema", "format"}}
        try:
            return decode(cls, cls.upgraded(fields), strict=cls.STRICT)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"Not {cls.TITLE}: {error}. {cls.REMEDY}") from error

    @classmethod
    def upgraded(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields as `encode` would write them now; overridden where earlier files spelled them otherwise."""
        return fields

    def to_line(self) -> str:
        """The document on one line of JSON, without the newline."""
        return json.dumps(self.to_json(), allow_nan=False)

    @classmethod
    def from_line(cls: type[D], line: str) -> D:
        """The inverse of to_line. Raises UsageError where the line is not one."""
        try:
            return cls.from_json(json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            raise UsageError(f"Not {cls.TITLE}: {error}. {cls.REMEDY}") from error

    def save(self, path: str | os.PathLike[str], /) -> Path:
        """Write it as JSON, whole or not at all; returns the path. Raises UsageError where it cannot be written."""
        return write_json(path, self.to_json())

    @classmethod
    def load(cls: type[D], path: str | os.PathLike[str], /) -> D:
        """Read one. Raises UsageError where the file is missing, truncated or something else."""
        return cls.from_json(read_json(path))


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


def decode(kind: type[T], data: Any, *, strict: bool = False) -> T:
    """The dataclass `kind` from its JSON form.

    A field with a default may be missing. strict: unknown fields are refused; by default they are ignored (a newer
    version may have written them). Raises ValueError naming the field that does not fit.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} should be a JSON object, but got {type(data).__name__}")
    hints, values = typing.get_type_hints(kind), {}
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    unknown = sorted(set(data) - {f.name for f in fields})
    if strict and unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(map(repr, unknown))}")
    for field in fields:
        if field.name in data:
            where = f"{kind.__name__}.{field.name}"
            values[field.name] = _value(hints[field.name], data[field.name], where, strict)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{kind.__name__} lacks the field {field.name!r}")
    return kind(**values)


def _value(hint: Any, data: Any, where: str, strict: bool) -> Any:
    """`data` as the annotated type: a scalar, X | None, tuple[X, ...], Literal, Mapping or dataclass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in args if a is not type(None))
        return None if data is None else _value(inner, data, where, strict)
    if origin is tuple and isinstance(data, list):
        kinds = [args[0]] * len(data) if args[1:] == (...,) else args
        return tuple(_value(k, v, f"{where}[{i}]", strict) for i, (k, v) in enumerate(zip(kinds, data, strict=True)))
    if origin in (dict, Mapping) and isinstance(data, Mapping):
        return {key: _value(args[1], value, f"{where}[{key!r}]", strict) for key, value in data.items()}
    if origin is typing.Literal and data in args:
        return data
    if dataclasses.is_dataclass(hint):
        return decode(hint, data, strict=strict)  # type: ignore[arg-type]
    if hint is float and _is_number(data):
        return float(data)
    if hint is Any:
        return data
    if isinstance(hint, type) and isinstance(data, hint) and (hint is bool or not isinstance(data, bool)):
        return data
    raise ValueError(f"{where}={data!r} does not fit {hint}")


def _is_number(data: Any) -> bool:
    return data in ("inf", "-inf", "nan") or (isinstance(data, (int, float)) and not isinstance(data, bool))


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Put `text` at `path` through a partial file; returns the path. Raises UsageError where it cannot be written."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)  # an old one, or a link to somebody else's file
        partial.touch(exist_ok=False)
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UsageError(f"{target} cannot be written: {error.strerror}. Give a writable path.") from error
    return target


def drop_cut_off_line(path: Path) -> None:
    """Remove what follows a file's last newline: a line whose writer died."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def json_text(data: Any) -> str:
    """Data as the JSON text that files and the command line show. Raises ValueError for an inf or nan not encoded."""
    return json.dumps(data, indent=1, allow_nan=False)


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write JSON whole or not at all; returns the path. Raises UsageError where it cannot be written."""
    return write_whole(path, json_text(data) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON. Raises UsageError where the file is missing or not whole JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not whole JSON ({error}). Make it again.") from error


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, padded to columns; the last cell of a line is not."""
    sizes = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    return ["  ".join([*(c.ljust(n) for c, n in zip(line, sizes, strict=False)), line[-1]]).rstrip() for line in lines]
