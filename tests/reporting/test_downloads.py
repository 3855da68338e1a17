"""The files inside the page hold what the result holds, and can be judged again."""

import base64
import csv
import io
import json
import math

import pytest

import hptransfer as hpt
from hptransfer.reporting.report.downloads import csv_text, downloads
from hptransfer.reporting.report.html import render_report
from tests.cases.reporting import result


def files():
    return {d.name: base64.b64decode(d.url.partition("base64,")[2]).decode() for d in downloads(result())}


def test_every_run_and_optimum_is_in_both_forms_to_the_last_digit():
    texts = files()
    runs, optima = list(csv.DictReader(io.StringIO(texts["runs.csv"]))), json.loads(texts["optima.json"])
    assert len(runs) == len(json.loads(texts["runs.json"])) == len(result().runs)
    for row, listed, run in zip(runs, json.loads(texts["runs.json"]), result().runs, strict=True):
        for read in (row, listed):
            assert (float(read["lr"]), float(read["val_loss"]), int(read["seed"])) == (run.lr, run.val_loss, run.seed)
            assert (read["scheme"], read["state"], int(read["width"])) == (run.scheme, run.state, run.width)
    assert [o["lr"] for o in optima] == [2.0**o.log2_lr for o in result().optima]
    assert [float(o["log2_lr"]) for o in csv.DictReader(io.StringIO(texts["optima.csv"]))] == [
        o.log2_lr for o in result().optima
    ]


def test_the_downloaded_runs_can_be_judged_again(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(files()["runs.csv"])
    judged = hpt.judge_table(path, axis="width", columns={"loss": "val_loss"}, scheme="mup", against="sp")
    assert judged.sizes == result().sizes and len(judged.runs) == len(result().runs)
    assert judged.optimum("mup", 512).log2_lr == pytest.approx(-6.8, abs=0.2)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_text_becomes_a_formula(text):
    rows = list(csv.reader(io.StringIO(csv_text(["error"], [{"error": text}]), newline="")))
    assert rows == [["error"], ["'" + text]]
    assert csv_text(["x"], [{"x": -1.5}, {"x": None}, {"x": math.nan}, {"x": -math.inf}]).split("\n") == [
        *('"x"', "-1.5", '""', '""', "-inf", "")
    ]


def test_a_page_without_runs_has_no_files():
    page = render_report(result(runs=()))
    assert "data:" not in page.partition("</head>")[2] and "All runs" not in page
