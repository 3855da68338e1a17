"""The ledger: dated before, scored after, never rewritten, and a law that keeps missing loses its default."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timezone

import pytest
from scipy.stats import binom

from hptransfer import UsageError
from hptransfer.cli import main
from hptransfer.validation.forecasts.ledger import LEDGER_FILE, enter, entry_of, observe, read_ledger, standings
from tests.cases.forecast import made


def test_an_entry_holds_the_forecast_its_laws_and_its_date() -> None:
    found, at = made(), datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    entry = entry_of(found, now=at)
    assert entry.date == "2026-01-02T03:04:05+00:00" and entry.observed is None and entry.hit is None
    assert (entry.value, entry.low, entry.high) == (
        found.learning_rate.value, found.learning_rate.low, found.learning_rate.high,
    )  # fmt: skip
    assert any("joint rule" in law for law in entry.laws) and "sweep optimum" in entry.laws
    assert entry.key != entry_of(made(target_schedule=found_other()), now=at.replace(year=2027)).key


def found_other():
    from hptransfer.prediction.schedules.schedule import linear

    return linear(400)


def test_an_outcome_is_entered_once_and_counts_as_hit_or_miss(tmp_path) -> None:
    first, second = enter(made(), tmp_path), enter(made(), tmp_path)
    assert first.low is not None
    assert observe(tmp_path, first.key, first.value).hit is True
    entries = read_ledger(tmp_path)
    assert entries[0].hit is True and len(entries) == 2
    for key, rate, words in (
        (first.key, 0.1, "has its outcome already"),
        ("zzz", 0.1, "names 0 of the 2"),
        ("", 0.1, "names 2 of the 2"),
        (second.key, -1.0, "positive"),
        (second.key, math.nan, "positive"),
    ):
        with pytest.raises(UsageError, match=words):
            observe(tmp_path, key, rate)


def settle(entry, hit):
    return dataclasses.replace(entry, observed=entry.value if hit else 100 * entry.value)


@pytest.mark.parametrize(
    ("hits", "misses", "lost"), [(9, 1, False), (2, 1, False), (6, 4, True), (0, 2, True), (0, 1, False)]
)
def test_a_law_loses_its_default_where_so_few_hits_would_be_rare(hits: int, misses: int, lost: bool) -> None:
    """Against the binomial: P(<= hits of n at .9) below .05; one miss in one (.10) is no proof."""
    entry = entry_of(made())
    entries = [settle(entry, True)] * hits + [settle(entry, False)] * misses + [entry]
    (joint,) = [s for s in standings(entries) if "joint" in s.law]
    assert (joint.entered, joint.scored, joint.hits) == (hits + misses + 1, hits + misses, hits)
    assert joint.chance == pytest.approx(binom.cdf(hits, hits + misses, 0.9)) and joint.lost is lost


def test_predict_enters_the_ledger_prints_and_a_lost_rule_is_left(tmp_path, capsys) -> None:
    recipe = tmp_path / "far.py"
    recipe.write_text(
        "from tests.cases.validation import recipe as tiny\nfrom hptransfer import Scale\n"
        "recipe = tiny.replace(base=Scale(width=8, batch=16))\n"
    )
    command = [
        "predict",
        str(recipe),
        "--target",
        "batch=32",
        "--lr",
        "0.01",
        "--no-diagnostics",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0 and main(["ledger", str(tmp_path)]) == 0
    assert "joint rule" in capsys.readouterr().out
    assert main(command) == 0
    for entry in read_ledger(tmp_path):
        assert main(["ledger", str(tmp_path), "--observe", entry.key, "5.0"]) in (0, 1)
    assert main(["ledger", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert "keeps missing" in captured.out
    assert any(law["hits"] == 0 for law in json.loads(captured.out[captured.out.rindex('{\n "entries"') :])["laws"])
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "keeps missing, so the rate is kept" in captured.err and "constant batch rule" in captured.out
    assert main(["ledger", str(tmp_path / "absent")]) == 2
    (tmp_path / LEDGER_FILE).write_text("no entry\n")
    assert main(["ledger", str(tmp_path)]) == 2
