"""The forecast's page: the advised rate first, every step in the table, nothing from outside."""

import math
import re
from html import unescape

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.reporting.forecast_page import limits, rate_info, render_forecast, step_rows, write_forecast_page
from hptransfer.reporting.svg import minus
from hptransfer.validation.forecasts.against import Score
from tests.cases.forecast import START, made


def test_the_figure_shows_the_curve_the_interval_the_advice_and_the_cliff():
    info = rate_info(made())
    assert info is not None
    assert len(info.curve) == 4 and info.diverged == (-5.0,) and info.cliff == (-6.0, -5.0)
    assert (info.optimum, info.low) == (math.log2(0.01), math.log2(0.005))
    assert info.advised == math.log2(made().advised_lr)
    assert rate_info(made(base_curve=(), lean=None)) is None


def test_every_step_has_its_row():
    found = made()
    rows = step_rows(found)
    assert [row.number for row in rows] == list(range(1, len(found.steps) + 1))
    assert rows[0].value == "0.01" and rows[0].interval == "0.005 to 0.02" and "measured" in rows[0].basis
    assert limits(START.replace(high=None)) == "0.005 to -"


@pytest.mark.parametrize("changes", [{}, {"base_curve": (), "lean": None}])
def test_the_page_is_whole_and_asks_for_nothing_from_outside(changes):
    found = made(**changes)
    page = render_forecast(found)
    assert not re.findall(r"https?:|//[a-z]|@import|url\((?!#)|<script |<link|<img", page)
    assert "#0a0" not in page
    text = unescape(re.sub(r"<[^>]+>", "", page[page.index("<body>") :]))
    assert text.index(f"{found.advised_lr:.4g}") < text.index("The derivation")
    assert all(minus(row.law) in text and row.source in text for row in step_rows(found))


def test_crosses_are_explained_where_there_are_some():
    assert "Crosses at the top" in render_forecast(made())
    calm = made(base_curve=tuple(point for point in made().base_curve if math.isfinite(point[1])))
    assert "Crosses at the top" not in render_forecast(calm)


def test_a_score_is_shown():
    score = Score("regression", 512, 0.01, 0.009, 0.02, -1.0, -1.15, False, 0.1, 0.05, True)
    text = re.sub(r"<[^>]+>", "", render_forecast(made(), score))
    assert "miss: predicted 0.01" in text and "−1.00 octaves" in text


def test_an_unwritable_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_forecast_page(made(), tmp_path / "missing" / "prediction.html")


def test_a_forecast_that_cannot_decide_says_so_at_the_top_of_its_page():
    from hptransfer.core.training.recipe import Scale

    base, target = Scale(width=64, batch=16384, tokens=2e8), Scale(width=64, batch=4e6, tokens=1e9)
    page = render_forecast(made(base=base, target=target, lean=None))
    assert "<h1>INCONCLUSIVE" in page and "Sweep at a batch and tokens nearer" in page
    assert "<h1>Train the target" in render_forecast(made())
