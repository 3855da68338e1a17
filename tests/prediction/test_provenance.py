"""Facts about predictions: what goes into a file comes out again, and nonsense does not go in."""

import json

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.prediction.provenance import Kind, Prediction

LR = Prediction(
    name="learning rate",
    value=1e-3,
    low=5e-4,
    high=2e-3,
    unit="1",
    law="step-law",
    source="arXiv:2503.04715 eq. 1",
    kind=Kind("published", "published"),
    assumptions=("AdamW", "cosine"),
)


def test_json_text_gives_the_same_prediction_back():
    assert Prediction.from_json(json.loads(json.dumps(LR.to_json()))) == LR
    one_sided = LR.replace(low=None)
    assert Prediction.from_json(json.loads(json.dumps(one_sided.to_json()))) == one_sided


def test_an_infinite_limit_is_a_string_which_strict_json_can_hold_and_comes_back():
    open_above = LR.replace(high=float("inf"))
    text = json.dumps(open_above.to_json(), allow_nan=False)
    assert '"high": "inf"' in text and Prediction.from_json(json.loads(text)) == open_above


def test_one_line_says_value_interval_law_and_both_bases():
    line = str(LR)
    assert "\n" not in line
    for part in (
        "learning rate",
        "0.001",
        "0.0005 to 0.002",
        "step-law",
        "exponent published, constant published",
    ):
        assert part in line
    assert "no interval" in str(LR.replace(low=None, high=None))
    assert "-inf to 0.002" in str(LR.replace(low=None))


def test_hit_and_error_in_octaves():
    assert LR.contains(6e-4) is True
    assert LR.contains(4e-4) is False
    assert LR.replace(high=None).contains(1e-3) is None
    assert LR.octaves_off(2e-3) == pytest.approx(-1.0)
    with pytest.raises(UsageError, match="positive"):
        LR.octaves_off(0.0)


@pytest.mark.parametrize("bad", [{"value": float("nan")}, {"low": 2e-3}, {"high": 5e-4}, {"low": float("nan")}])
def test_a_value_outside_its_interval_or_not_finite_is_refused(bad):
    with pytest.raises(UsageError):
        LR.replace(**bad)


def test_a_bad_record_is_refused_and_names_the_field():
    record = LR.to_json()
    with pytest.raises(UsageError, match="unit"):
        Prediction.from_json({k: v for k, v in record.items() if k != "unit"})
    with pytest.raises(UsageError, match="surprise"):
        Prediction.from_json(record | {"surprise": 1})
    with pytest.raises(UsageError):
        Prediction.from_json(record | {"value": "many"})
    with pytest.raises(UsageError, match="guessed"):
        Kind("guessed", "derived")  # type: ignore[arg-type]
