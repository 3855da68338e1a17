"""Scores of forecasts: sign, hit and miss, regret beside a cliff, and the file that keeps them."""

import dataclasses
import math

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.validation.forecasts.against import calibration, record_score, score_curve, score_forecast
from hptransfer.validation.verdict.optimum import Curve
from tests.cases.forecast import at_width
from tests.cases.reporting import result

BEST = 2**-6.8
CHECK = result(recipe="regression")


@pytest.mark.parametrize(("octaves", "hit"), [(0.0, True), (2.0, False), (-2.0, False)])
def test_octaves_are_positive_where_the_forecast_was_too_high(octaves, hit):
    found = score_forecast(at_width(512, BEST * 2**octaves, BEST), CHECK)
    level = score_forecast(at_width(512, BEST, BEST), CHECK).octaves
    assert found.octaves - level == pytest.approx(octaves, abs=1e-9) and found.hit is hit
    assert found.regret >= 0 and found.inside_grid


def test_a_rate_next_to_a_divergence_has_infinite_regret():
    curve = Curve("mup", 512, np.arange(-9.0, -3.0), np.array([[3.0], [2], [1], [2], [math.inf], [math.inf]]))
    for log2_lr, infinite in ((-6.5, False), (-6.0, False), (-5.5, True), (-4.5, True), (-3.0, True)):
        assert math.isinf(score_curve(at_width(512, 2**-7, 2**log2_lr), curve).regret) is infinite


def test_another_width_recipe_or_length_is_refused():
    with pytest.raises(UsageError, match="width 96"):
        score_forecast(at_width(96, BEST, BEST), CHECK)
    with pytest.raises(UsageError, match="recipe"):
        score_forecast(at_width(512, BEST, BEST), result())
    made = at_width(512, BEST, BEST)
    longer = dataclasses.replace(made, target=made.target.with_(batch=1, tokens=7))
    with pytest.raises(UsageError, match="7 steps"):
        score_forecast(longer, CHECK)


def test_scores_are_kept_once_each_and_counted(tmp_path):
    hit, miss = (score_forecast(at_width(512, BEST * f, BEST), CHECK) for f in (1, 8))
    record_score(hit, tmp_path)
    record_score(hit, tmp_path)
    text = record_score(dataclasses.replace(miss, regret=math.inf), tmp_path)
    assert "Over all 2 forecasts" in text and "1 of 2 intervals" in text
    assert calibration([]) == "no forecast had an interval"


def test_a_damaged_file_is_refused_and_left_alone(tmp_path):
    path, score = tmp_path / "predictions.jsonl", score_forecast(at_width(512, BEST, BEST), CHECK)
    for text in ('{"recipe": "x', "3\n", '{"recipe": "x"}\n'):
        path.write_text(text)
        with pytest.raises(UsageError, match="Not a score"):
            record_score(score, tmp_path)
        assert path.read_text() == text
    with pytest.raises(UsageError, match="cannot be kept"):
        record_score(score, tmp_path / "missing")
