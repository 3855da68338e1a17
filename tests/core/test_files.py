"""One codec, one atomic write, one schema key: what is written is strict JSON and comes back as it was."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, columns, decode, encode, json_text, read_json, write_json, write_whole


@dataclass(frozen=True)
class Inner:
    at: float
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer(Document):
    TITLE = "an outer"
    REMEDY = "Write it anew."

    inner: Inner
    losses: tuple[float, ...]
    pair: tuple[int, str]
    by_name: Mapping[str, float]
    inners: Mapping[str, Inner]
    whole: int = 3
    flag: bool | None = None


OUTER = Outer(Inner(math.inf), (1.0, -math.inf), (1, "x"), {"p": math.inf}, {"q": Inner(2.0, "b")})


def test_a_document_comes_back_from_strict_json_with_its_infinities_everywhere(tmp_path) -> None:
    OUTER.save(tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["schema"] == 1 and data["inner"]["at"] == "inf" and data["losses"] == [1.0, "-inf"]
    assert Outer.load(tmp_path / "x.json") == OUTER == Outer.from_line(OUTER.to_line())
    assert "\n" not in OUTER.to_line()


def test_nan_survives_and_is_no_bare_word() -> None:
    assert encode(math.nan) == "nan" and math.isnan(decode(Inner, {"at": "nan"}).at)
    with pytest.raises(ValueError, match="JSON"):
        json_text({"at": math.nan})


@pytest.mark.parametrize("key", ["format", None], ids=["format", "no key"])
def test_earlier_spellings_read(key: str | None) -> None:
    """The key was called "format" or was not there; an infinity was Python's own word."""
    fields = {k: v for k, v in OUTER.to_json().items() if k != "schema"}
    text = json.dumps(fields if key is None else {key: 1, **fields}).replace('"inf"', "Infinity")
    assert "Infinity" in text and Outer.from_line(text) == OUTER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "Not an outer of schema 1, which is what this version reads, but of schema 2. Write it anew."),
        ({"inner": 3}, "Inner should be a JSON object, but got int"),
        ({"inner": {"at": "much"}}, "Inner.at='much' does not fit"),
        ({"inner": {"at": 1.0, "kind": "c"}}, "Inner.kind='c' does not fit"),
        ({"pair": [1]}, "zip"),
        ({"whole": True}, "Outer.whole=True does not fit"),
        ({"by_name": {"p": None}}, r"Outer.by_name\['p'\]=None does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(change: Mapping[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Outer.from_json({**OUTER.to_json(), **change})


def test_only_a_strict_document_refuses_unknown_fields_at_any_depth() -> None:
    newer = {**OUTER.to_json(), "inner": {"at": 1.0, "unit": "s"}, "more": 1}
    assert Outer.from_json(newer) == dataclasses.replace(OUTER, inner=Inner(1.0))
    for data in ({**encode(OUTER), "more": 1}, {**encode(OUTER), "inner": {"at": 1.0, "unit": "s"}}):
        with pytest.raises(ValueError, match=r"has no field '(more|unit)'"):
            decode(Outer, data, strict=True)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr("pathlib.Path.replace", _full)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        write_whole(path, "new")
    assert read_json(path) == {"a": 1}


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_columns_line_up_and_the_last_is_not_padded() -> None:
    assert columns([("a", "bbb", "c"), ("aa", "b", "")]) == ["a   bbb  c", "aa  b"]
