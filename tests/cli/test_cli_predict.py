"""hptransfer predict and predict score from the command line."""

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from hptransfer.cli import main
from hptransfer.cli.forecasts.target import scale

TINY = str(Path(__file__).parents[1] / "cases" / "validation.py")


def test_predict_writes_the_forecast_its_page_and_both_forms_of_schedule(tmp_path, capsys):
    for name in ("s.csv", "s.py"):
        options = ["--lr", "0.01", "--schedule", "linear", "--schedule-out", str(tmp_path / name)]
        assert main(["predict", TINY, "--target", "width=32", *options, "--out", str(tmp_path)]) == 0
    assert "1. Learning rate at the base" in capsys.readouterr().out
    made = json.loads((tmp_path / "prediction.json").read_text())
    assert made["learning_rate"]["value"] == pytest.approx(0.01, rel=0.01)
    assert "at learning rate 0.00998" in (tmp_path / "prediction.html").read_text()
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 21
    compile((tmp_path / "s.py").read_text(), "s.py", "exec")


def test_score_reads_a_table_and_names_a_missing_column(tmp_path, capsys):
    path = tmp_path / "t.csv"
    cells = [(n, d) for n in (1e8, 4e8, 1.6e9) for d in (2e9, 8e9)]
    rows = [f"{2.0**k},{3 + (k + 9) ** 2 / 50},{n},{d}" for n, d in cells for k in range(-12, -5)]
    path.write_text("lr,val,params,tokens\n" + "\n".join(rows) + "\n")
    assert main(["predict", "score", str(path), "--columns", "loss=val"]) == 0
    assert "Own fit" in capsys.readouterr().out
    assert main(["predict", "score", str(path)]) == 2
    assert "no column 'loss'" in capsys.readouterr().err


def test_bad_targets_are_refused(tmp_path, capsys):
    for text in ("width=64.5", "width=x", "length=3", "width=inf", "width=0"):
        with pytest.raises(ArgumentTypeError):
            scale(text)
    assert scale("width=8192,tokens=15T").tokens == 15e12
    assert main(["predict", TINY, "--out", str(tmp_path)]) == 2
    assert main(["predict", TINY, "--target", "batch=4M", "--out", str(tmp_path)]) == 2
    assert "does not say its own batch" in capsys.readouterr().err


def test_score_has_help_of_its_own_and_prints_both_boards(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "score", "--help"])
    told = capsys.readouterr().out
    assert stopped.value.code == 0 and "predict score" in told and "--fix" in told and "--target" not in told
    path = tmp_path / "t.csv"
    cells = [(n, d, b) for n in (1e8, 4e8) for d in (2e9, 8e9) for b in (64, 256)]
    rows = [f"{2.0**k},{3 + (k + 9) ** 2 / 50},{n},{d},{b}" for n, d, b in cells for k in range(-12, -5)]
    path.write_text("lr,loss,params,tokens,batch\n" + "\n".join([*rows, "0.25,inf,1e8,2e9,64"]) + "\n")
    assert main(["predict", "score", str(path), "--fix", "batch=0.3", "--over", "tokens"]) == 0
    out = capsys.readouterr().out
    assert "1 diverged rates kept as walls" in out and "own law" in out and "Rate and batch together" in out
    assert "batch^0.3 (given)" in out and "LrFit(" not in out
    assert main(["predict", "score", str(path), "--json"]) == 0
    assert {"scores", "joint"} <= set(json.loads(capsys.readouterr().out))
    assert main(["predict", "score", str(path), "--drop-diverged"]) == 0
    assert "1 runs dropped" in capsys.readouterr().out


def test_a_forecast_that_cannot_decide_says_so_with_its_exit_code(tmp_path, capsys):
    recipe = tmp_path / "far.py"
    recipe.write_text(
        "from tests.cases.validation import recipe as tiny\nfrom hptransfer import Scale\n"
        "recipe = tiny.replace(base=Scale(width=8, batch=16))\n"
    )
    options = ["--lr", "0.01", "--no-diagnostics", "--out", str(tmp_path)]
    assert main(["predict", str(recipe), "--target", "batch=4096,tokens=8M", *options]) == 1
    assert "INCONCLUSIVE" in capsys.readouterr().out
    assert main(["predict", str(recipe), "--target", "batch=32", *options]) == 0
    assert main(["predict", str(recipe), "--target", "batch=32tokens", *options]) == 2
    assert "tokens_per_example" in capsys.readouterr().err
