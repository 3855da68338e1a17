"""Tables of other trainers' runs get the verdict of a check: named columns, tools' exports, and clear refusals."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli import main
from hptransfer.core.errors import UsageError
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.tables.judge import judge_table

Rows = list[dict[str, Any]]


def rows(*, move: float = 0.0, seeds: int = 3, schemes: bool = True, sizes=(64, 128, 256)) -> Rows:
    """Parabolas in log2 lr from half octaves; the optimum moves by `move` octaves a doubling, under sp by one."""
    noise, table = random.Random(0), []
    for scheme, step in (("mup", move), ("sp", -1.0)) if schemes else (("mup", move),):
        for i, size in enumerate(sizes):
            for k in range(-20, -5):
                for seed in range(seeds):
                    u = k / 2 + 6 - step * i
                    loss = 2 - 0.1 * i + 0.05 * u * u + 0.002 * noise.gauss(0, 1)
                    table.append({"scheme": scheme, "width": size, "lr": 2 ** (k / 2), "seed": seed, "loss": loss})
    return table


def renamed(table: Rows, **names: str) -> Rows:
    return [{names.get(key, key): value for key, value in row.items()} for row in table]


def write(path: Path, table: Rows, *, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


def judged(path: Path, table: Rows, **options) -> TransferResult:
    return judge_table(write(path / "runs.csv", table), command="x", **options)


def test_an_optimum_that_stays_passes_and_one_that_moves_fails(tmp_path):
    still = judged(tmp_path, rows())
    assert (still.verdict, still.axis, still.sizes, still.seeds) == ("PASS", "width", (64, 128, 256), (0, 1, 2))
    assert (still.scheme, still.against) == ("mup", "sp") and len(still.runs) == 2 * 3 * 15 * 3
    moved = judged(tmp_path, rows(move=0.8))
    assert moved.verdict == "FAIL" and moved.drifts[0].octaves == pytest.approx(1.6, abs=0.1)


def test_columns_are_named_or_known_and_the_axis_goes_by_the_name(tmp_path):
    known = renamed(rows(), width="n_layer", lr="learning_rate", loss="eval/loss", scheme="parametrization")
    assert judged(tmp_path, known).axis == "depth"
    own = renamed(rows(), width="k", lr="eta", loss="final", scheme="how", seed="s")
    columns = {"size": "k", "lr": "eta", "loss": "final", "scheme": "how", "seed": "s"}
    with pytest.raises(UsageError, match="What is 'k' a size of"):
        judged(tmp_path, own, columns=columns)
    for axis in ("width", "depth", "batch", "tokens"):
        found = judged(tmp_path, own, columns=columns, axis=axis)
        assert (found.verdict, found.axis) == ("PASS", axis)
    assert judged(tmp_path, own, columns={**columns, "width": "k"} | {"size": "k"}, axis="width").verdict == "PASS"


def test_without_a_scheme_there_is_one_and_no_control(tmp_path):
    table = [{k: v for k, v in row.items() if k != "scheme"} for row in rows(schemes=False)]
    found = judged(tmp_path, table)
    assert (found.verdict, found.scheme, found.against, found.loss_gaps) == ("PASS", "runs", None, ())


def test_schemes_of_other_names_are_chosen(tmp_path):
    table = [{**row, "scheme": {"mup": "ours", "sp": "theirs"}[row["scheme"]]} for row in rows()]
    with pytest.raises(UsageError, match="name the one to check with --scheme"):
        judged(tmp_path, table)
    found = judged(tmp_path, table, scheme="ours", against="theirs")
    assert (found.verdict, found.against) == ("PASS", "theirs") and len(found.loss_gaps) == 3
    with pytest.raises(UsageError, match="No run is of scheme 'mup'"):
        judged(tmp_path, table, scheme="mup")


def optuna_row(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "": number,
        "number": number,
        "value": row["loss"],
        "datetime_start": f"2026-01-01 00:00:{number % 60:02d}.{number}",
        "datetime_complete": f"2026-01-01 00:01:{number % 60:02d}.{number}",
        "duration": f"0 days 00:00:01.{number}",
        "params_lr": row["lr"],
        "params_seed": row["seed"],
        "params_width": row["width"],
        "user_attrs_train_acc": 0.5,
        "state": "COMPLETE",
    }


def wandb_row(number: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "Name": f"lilac-sky-{number}",
        "State": "finished",
        "Notes": "-",
        "User": "me",
        "Tags": "",
        "Created": f"2026-01-01T00:00:{number}Z",
        "Runtime": number % 7,
        "Sweep": "",
        "learning_rate": row["lr"],
        "n_embd": row["width"],
        "seed": row["seed"],
        "weight_decay": 0.1,
        "val/loss": row["loss"],
        "train/loss": row["loss"] - 0.1,
    }


def test_optuna_s_data_frame_reads_as_it_is(tmp_path):
    table = [optuna_row(n, row) for n, row in enumerate(rows(schemes=False))]
    assert judged(tmp_path, table).verdict == "PASS"
    table[0]["state"], table[0]["value"] = "RUNNING", ""
    table[1]["state"], table[1]["value"] = "FAIL", ""
    table[2]["state"] = "PRUNED"
    found = judged(tmp_path, table)
    assert (found.tally.failed, found.tally.pruned) == (1, 1) and "'FAIL'" in found.tally.first_error
    assert any("1 run that had not ended is left out" in note for note in found.notes)


def test_the_dashboard_s_and_the_command_line_s_exports_read_too(tmp_path):
    kept = rows(schemes=False)
    dashboard = [
        {"Number": n, "State": "COMPLETE", "Value": r["loss"]}
        | {f"Param {k}": r[k] for k in ("lr", "width", "seed")}
        | {"UserAttribute note": "x"}
        for n, r in enumerate(kept)
    ]
    assert judged(tmp_path, dashboard).verdict == "PASS"
    trials = [
        {"number": n, "value": r["loss"], "params": {k: r[k] for k in ("lr", "width", "seed")}, "state": "COMPLETE"}
        for n, r in enumerate(kept)
    ]
    (tmp_path / "trials.json").write_text(json.dumps(trials))
    assert judge_table(tmp_path / "trials.json").verdict == "PASS"


def test_wandb_s_table_and_its_documented_data_frame_read_as_they_are(tmp_path):
    table = [wandb_row(n, row) for n, row in enumerate(rows(schemes=False))]
    assert judged(tmp_path, table).verdict == "PASS"
    table[5]["State"], table[7]["val/loss"] = "crashed", "NaN"
    found = judged(tmp_path, table)
    assert (found.tally.failed, found.tally.diverged) == (1, 1)
    frame = [
        {
            "": n,
            "summary": str({"_step": n, "val_loss": r["loss"], "_wandb": {"runtime": n}, "grad": math.nan}),
            "config": str({"lr": r["lr"], "width": r["width"], "seed": r["seed"], "note": None, "betas": [0.9, 0.99]}),
            "name": f"run-{n}",
        }
        for n, r in enumerate(rows(schemes=False))
    ]
    assert judged(tmp_path, frame).verdict == "PASS"


def test_our_own_runs_read_too(tmp_path):
    judged(tmp_path, rows()).save(tmp_path / "out")
    assert judge_table(tmp_path / "out" / "runs.jsonl", columns={"loss": "val_loss"}).verdict == "PASS"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path, delimiter):
    path = write(tmp_path / "runs.tsv", rows(), delimiter=delimiter)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert judge_table(path).verdict == "PASS"


def test_a_setting_that_varies_inside_a_size_is_refused_by_name_and_chosen_with_where(tmp_path):
    table = [{**row, "wd": wd, "loss": row["loss"] + wd} for row in rows() for wd in (0.0, 0.1)]
    with pytest.raises(UsageError, match=r"'wd' takes 2 values \(0.0, 0.1\) at mup width 64: .*--where wd=VALUE"):
        judged(tmp_path, table)
    assert judged(tmp_path, table, where={"wd": "0.10"}).verdict == "PASS"
    with pytest.raises(UsageError, match="no row has wd=7"):
        judged(tmp_path, table, where={"wd": "7"})


def test_a_setting_tied_to_the_rate_is_refused_and_a_measurement_is_not(tmp_path):
    tied = [{**row, "wd": 0.1 / row["lr"]} for row in rows()]
    with pytest.raises(UsageError, match="'wd' takes 15 values"):
        judged(tmp_path, tied)
    assert judged(tmp_path, tied, ignore=("wd",)).verdict == "PASS"
    noise = random.Random(1)
    assert judged(tmp_path, [{**row, "acc": noise.random(), "steps": 100} for row in rows()]).verdict == "PASS"


def test_a_setting_that_differs_between_sizes_is_said(tmp_path):
    found = judged(tmp_path, [{**row, "steps": 10 * row["width"]} for row in rows()])
    assert found.verdict == "PASS" and any("steps is not the same everywhere" in note for note in found.notes)


def test_two_axes_that_vary_need_a_name(tmp_path):
    table = [{**row, "depth": {64: 2, 128: 4, 256: 8}[row["width"]]} for row in rows()]
    with pytest.raises(UsageError, match="width, depth vary"):
        judged(tmp_path, table)
    found = judged(tmp_path, table, columns={"size": "depth"})
    assert (found.axis, found.sizes, found.verdict) == ("depth", (2, 4, 8), "PASS")


@pytest.mark.parametrize("text", ["nan", "inf", "NaN", "Infinity", "-inf"])
def test_a_loss_that_is_no_number_is_a_divergence_and_none_at_all_a_failure(tmp_path, text):
    table = rows()
    table[3]["loss"], table[4]["loss"] = text, ""
    found = judged(tmp_path, table)
    assert (found.tally.diverged, found.tally.failed) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [{**r, "seed": 0} for r in t], "are the same by their columns .*tells them apart"),
        (lambda t: [{k: v for k, v in r.items() if k != "seed"} for r in t], "Name the column of the seed"),
        (lambda t: [{k: v for k, v in r.items() if k != "lr"} for r in t], "no column known as lr"),
        (
            lambda t: [{k: v for k, v in r.items() if k != "width"} for r in t],
            "no width, depth, batch or tokens varies",
        ),
        (lambda t: [{**r, "lr": -r["lr"]} for r in t], "lr is '-.*must be a positive number"),
        (lambda t: [{**r, "lr": "fast"} for r in t], "lr is 'fast', which is no number"),
        (lambda t: [{**r, "width": 64.5 if r["width"] == 64 else r["width"]} for r in t], "positive whole number"),
        (lambda t: [r for r in t if r["width"] == 64], "no width, depth, batch or tokens varies"),
        (lambda t: [r for r in t if not (r["scheme"] == "sp" and r["width"] > 64)], "needs at least two widths"),
        (lambda t: [r for r in t if r["seed"] == (r["width"] > 64)], "No seed was run at every size"),
    ],
)
def test_what_is_no_table_of_runs_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        judged(tmp_path, change(rows()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no runs|cannot be read"),
        ("lr,loss\n", "holds no runs"),
        ("lr,lr\n1,2\n", "'lr' comes more than once"),
        ("lr,loss\n1,2,3\n", "row 2: 3 cells under 2 columns"),
        ("[1, 2]", "no list of JSON objects"),
        ('[{"lr": 1}', "not whole JSON"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        judge_table(tmp_path / "x.csv")


def test_seeds_that_some_size_lacks_are_left_out_and_said(tmp_path):
    found = judged(tmp_path, [r for r in rows(seeds=5) if r["width"] == 64 or r["seed"] < 3])
    assert found.seeds == (0, 1, 2) and any("Seeds 3, 4 are left out" in note for note in found.notes)


def test_the_command_prints_the_verdict_writes_the_report_and_exits_by_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.csv", renamed(rows(), loss="final"))
    assert main(["judge", str(path), "--columns", "loss=final"]) == 0
    out = capsys.readouterr().out
    assert "PASS: The learning rate transfers under muP from width 64 to 256." in out and "nan" not in out
    folder = tmp_path / "hptransfer-out" / "mine"
    assert {p.name for p in folder.iterdir()} == {"verdict.json", "runs.jsonl", "report.html"}
    assert TransferResult.load(folder).verdict == "PASS"
    assert main(["report", str(folder), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == (folder / "report.html").read_text()
    capsys.readouterr()
    moved = write(tmp_path / "moved.csv", rows(move=1.0))
    assert main(["judge", str(moved), "--json", "--out", str(tmp_path / "o")]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"
    few = write(tmp_path / "few.csv", rows(seeds=1))
    assert main(["judge", str(few), "--out", str(tmp_path / "f")]) == 3
    assert main(["judge", str(tmp_path / "none.csv")]) == 2
