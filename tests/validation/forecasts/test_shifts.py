"""What quarter starts say of the shift is kept beside the forecasts, used at the next start, and told."""

from pathlib import Path

import pytest

from hptransfer.cli import main
from hptransfer.core.errors import UsageError
from hptransfer.validation.forecasts import predict
from hptransfer.validation.forecasts.quarter import SHIFT, QuarterStart
from hptransfer.validation.forecasts.shifts import SHIFTS_FILE, keep_pair, read_pairs, shift_from

TINY = str(Path(__file__).parents[2] / "cases" / "validation.py")


def started(guess: float, optimum: float) -> QuarterStart:
    points = tuple((optimum + k, 1.0 + k * k) for k in (-1.0, 0.0, 1.0))
    return QuarterStart(points, points, guess, optimum, 2.0, 3.0)


def test_pairs_are_kept_by_recipe_and_the_same_start_counts_once(tmp_path):
    for guess in (-5.0, -5.0, -4.5):
        keep_pair(tmp_path, "a", 200, started(guess, -6.0))
    keep_pair(tmp_path, "b", 200, started(-5.0, -5.0))
    assert [pair.shift for pair in read_pairs(tmp_path, "a")] == [-1.0, -1.5]
    assert [pair.shift for pair in read_pairs(tmp_path, "b")] == [0.0]
    assert read_pairs(tmp_path / "none", "a") == []
    shift, told = shift_from(read_pairs(tmp_path, "a"))
    assert shift == pytest.approx((3 * SHIFT - 2.5) / 5) and "-0.92 octaves (learned from 2" in told
    assert shift_from([])[0] == pytest.approx(SHIFT)


def test_a_line_that_is_no_pair_is_refused(tmp_path):
    (tmp_path / SHIFTS_FILE).write_text('{"schema": 1, "recipe": "a"}\n')
    with pytest.raises(UsageError, match="Remove that line"):
        read_pairs(tmp_path, "a")


def test_the_command_keeps_its_start_and_moves_the_next_one_by_it(tmp_path, capsys, monkeypatch):
    shifts, guesses = [], iter([-6.0, -5.0, -5.0])

    def start(recipe, *, shift, **_):
        shifts.append(shift)
        return started(next(guesses), -7.0)

    monkeypatch.setattr(predict, "quarter_start", start)
    words = ["predict", TINY, "--target", "width=32", "--start", "quarter", "--no-diagnostics", "--out", str(tmp_path)]
    for _ in range(3):
        assert main(words) in (0, 1)
    assert shifts == pytest.approx([SHIFT, (3 * SHIFT - 1) / 4, (3 * SHIFT - 3) / 5])
    told = capsys.readouterr().err
    assert "no earlier start of this recipe" in told and "learned from 2 earlier starts" in told
    assert "This start says -2.00" in told and len((tmp_path / SHIFTS_FILE).read_text().splitlines()) == 2
