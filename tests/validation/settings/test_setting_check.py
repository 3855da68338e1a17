"""A check of one setting at the tuned vector, on landscapes whose drift is known: search, words, verdict, regret."""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import hptransfer as hpt
from hptransfer.cli.checks.settings import forms_of
from hptransfer.cli.command import main
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe
from hptransfer.reporting.report.html import render_report
from hptransfer.reporting.words import table
from hptransfer.validation.axes import growth
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.queue.jobs import JobWork
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.settings.tuned import TUNED_FILE
from hptransfer.validation.sweep import Sweep
from hptransfer.validation.transfer import transfer_check
from hptransfer.validation.worker import work
from tests.validation.settings.test_tune import RECIPE, Bench, loss_of
from tests.validation.test_grown_axes import SIZED

WIDTHS, VECTOR = (8, 32), {"lr": 2.0**-7, "weight_decay": 4.0}


class Drifting(Bench):
    """The best weight decay moves by so many octaves per octave of width: drift under mup, control under sp."""

    def run(self, job: Job) -> Run:
        moves = self.landscape.get("drift" if job.scheme == "mup" else "control", 0.0)
        size = math.log2((job.width or 0) / WIDTHS[0])
        loss = loss_of(job, decay=self.landscape.get("best", 2.0) + moves * size, steep=0.1)
        loss += 0.02 * size * (job.scheme == "sp")
        self.made.append(job.key)
        return Run(
            **vars(job), val_loss=loss, train_loss=loss, curve=((1, 9.0),), diverged=False, seconds=0, state="complete"
        )


def checked(setting: str | None = "weight_decay", **choices) -> TransferResult:
    given = {"tuned": VECTOR, "widths": WIDTHS, "workers": 1} | choices
    return transfer_check(RECIPE, setting=setting, **given)


def test_a_setting_that_stays_passes_in_its_own_words(monkeypatch):
    Drifting(monkeypatch, control=1.0)
    result = checked()
    assert result.verdict == "PASS" and (result.setting, result.tuned) == ("weight_decay", VECTOR)
    drifts = {drift.scheme: drift.octaves for drift in result.drifts}
    assert abs(drifts["mup"]) < 0.3 and drifts["sp"] == pytest.approx(2.0, abs=0.4)
    assert {run.lr for run in result.runs} == {2.0**-7}
    assert [o.log2_lr for o in result.optima if o.scheme == "mup"] == pytest.approx([2.0, 2.0], abs=0.3)
    assert (
        "the optimal weight decay moves by" in result.reasons[0]
        and "transferred weight decay x 3.9" in result.reasons[1]
    )
    assert "the optimal weight decay moves by at most 0.5 octaves" in result.rule and "learning rate" not in result.rule
    shown = table(result)
    assert "best weight decay" in shown and "x 2^" in shown and "The weight decay transfers under muP" in shown
    assert "the tuned settings (learning rate 0.007812, weight decay x 4) cost" in shown


@pytest.mark.parametrize("moves", [1.0, -1.0])
def test_a_setting_that_moves_fails_and_says_how_far(monkeypatch, moves):
    Drifting(monkeypatch, drift=moves)
    result = checked()
    assert result.verdict == "FAIL" and f"the optimal weight decay moves by {2 * moves:+.0f}" in result.reasons[0][:60]
    assert next(d for d in result.drifts if d.scheme == "mup").octaves == pytest.approx(2 * moves, abs=0.4)


def test_the_regret_of_the_vector_is_what_its_own_value_costs_at_the_largest_size(monkeypatch):
    """The vector says x 4, which is best at no size here: that the optimum stays is no excuse for it."""
    Drifting(monkeypatch, best=3.0)
    result = checked()
    assert result.vector is not None and result.vector.lr == 4.0
    assert result.vector.loss == pytest.approx(0.1, abs=0.02) and result.vector.low < 0.1 < result.vector.high
    own = next(regret for regret in result.regrets if regret.scheme == "mup")
    assert abs(own.loss) < 0.01 and own.lr == pytest.approx(8.0, rel=0.25)
    at = [run for run in result.runs if (run.scheme, run.width, run.settings) == ("mup", 32, "weight_decay=4")]
    assert len(at) == 3


def test_a_value_far_outside_what_was_searched_is_measured_too(monkeypatch):
    Drifting(monkeypatch, best=8.0)
    result = checked(tuned={"lr": 2.0**-7})
    assert result.vector is not None and result.vector.lr == 1.0 and result.vector.loss > 3
    assert result.optimum("mup", 32).log2_lr == pytest.approx(8.0, abs=0.3)


def test_the_rate_is_checked_with_the_whole_vector(monkeypatch):
    Drifting(monkeypatch)
    result = checked(None)
    assert {run.settings for run in result.runs} == {"weight_decay=4"} and result.setting == "lr"
    assert result.vector is not None and result.vector.lr == 2.0**-7 and abs(result.vector.loss) < 0.02
    assert "The learning rate transfers" in table(result) and "x 2^" not in table(result)


def test_the_result_survives_the_disk_and_its_page_speaks_of_the_setting(monkeypatch, tmp_path):
    Drifting(monkeypatch)
    result = checked(out=tmp_path)
    assert TransferResult.load(tmp_path) == result
    page = render_report(result)
    for part in (
        "Loss against weight decay",
        "weight decay (times the base",
        "best weight decay",
        "Use weight decay x ",
    ):
        assert part in page, part
    assert "tuned=hpt.tuned_factors(model, {&#39;weight_decay&#39;: 4.0})" in page and "lr=0.00781" in page
    assert "weight decay x 4:" in page


def test_every_scheme_trains_with_the_vector_and_is_one_training_at_the_base():
    """For real: the control takes the factors as its own, so at the base no pair of runs differs."""
    small = RECIPE.replace(steps=3, seeds=1)
    result = transfer_check(small, tuned=VECTOR | {"init:2": 0.5}, setting="weight_decay", widths=WIDTHS, workers=1)
    assert not any("not deterministic" in note for note in result.notes)
    here = {(r.scheme, r.settings): r.val_loss for r in result.runs if r.width == 8}
    pairs = [(loss, here["sp", text]) for (scheme, text), loss in here.items() if scheme == "mup"]
    assert len(pairs) > 4 and all(ours == theirs for ours, theirs in pairs)
    assert all("init:2=0.5" in run.settings for run in result.runs)
    row = next(row for row in result.plan["rows"] if row["name"] == "2.weight")
    assert any("tuned at the base" in why for why in row["why"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tuned": None}, "holds the learning rate at the base's tuned one"),
        ({"tuned": {"weight_decay": 4.0}}, "holds the learning rate at the base's tuned one"),
        ({"lrs": [0.1, 0.2, 0.4]}, "leave lrs out"),
        ({"setting": "init:head"}, "reaches no trained parameter"),
        ({"setting": "dropout"}, "'dropout' is none"),
        ({"tuned": VECTOR | {"lr:head": 2.0}}, "reaches no trained parameter"),
        ({"tuned": VECTOR | {"init": -1.0}}, "positive finite number"),
        ({"tuned": "nowhere.json"}, "No tuned settings at nowhere.json"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(monkeypatch, given, said):
    bench = Drifting(monkeypatch)
    with pytest.raises(UsageError, match=said):
        checked(**given)
    assert bench.made == []


def recipe_file(tmp_path: Path, name: str = "tests.validation.settings.test_tune import RECIPE") -> str:
    path = tmp_path / "r.py"
    path.write_text(f"from {name} as recipe\n")
    return str(path)


def test_one_setting_is_checked_from_the_command_line(monkeypatch, tmp_path, capsys):
    Drifting(monkeypatch)
    file, out = recipe_file(tmp_path), tmp_path / "c"
    tuned = hpt.tune(RECIPE, workers=1, lrs=[2**-8, 2**-7, 2**-6]).save(tmp_path / TUNED_FILE)
    options = ["--tuned", str(tuned), "--widths", "8,32", "--workers", "1", "--out", str(out)]
    assert main(["check", file, *options, "--setting", "weight_decay", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["setting"] for row in rows} == {"weight_decay"} and len(rows) == 4
    assert TransferResult.load(out).setting == "weight_decay" and (out / "report.html").exists()
    for wrong in (["--setting", "init", "--setting", "init"], ["--setting", "weight_decay", "--against", "x.json"]):
        assert main(["check", file, *options, *wrong]) == 2


@pytest.mark.slow
def test_the_vector_is_checked_setting_by_setting_from_the_command_line(monkeypatch, tmp_path, capsys):
    Drifting(monkeypatch, best=1.0)
    file, tuned = recipe_file(tmp_path), str(tmp_path / "t" / TUNED_FILE)
    assert main(["tune", file, "--settings", "weight_decay,init", "--workers", "1", "--out", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    options = ["--tuned", tuned, "--widths", "8,32", "--workers", "1", "--out", str(tmp_path / "c")]
    code = main(["check", file, *options, "--setting", "weight_decay", "--setting", "init"])
    shown = capsys.readouterr().out
    assert code == 3 and "== init ==" in shown and "weight_decay  x " in shown  # nothing depends on the initial scale
    forms = forms_of({n: TransferResult.load(tmp_path / "c" / n) for n in ("weight_decay", "init")})
    assert {name: data["setting"] for name, data in forms.data().items()} == {n: n for n in ("weight_decay", "init")}
    assert {record["setting"] for record in forms.records} == {"weight_decay", "init"} and len(forms.cells) == 3
    assert main(["plan", file, "--width", "64", "--tuned", tuned, "--no-verify"]) == 0
    assert "tuned at the base for 0.weight" in capsys.readouterr().out


def test_tuned_settings_of_another_recipe_are_refused_and_of_another_version_noted(monkeypatch, tmp_path):
    Drifting(monkeypatch)
    tuned = hpt.tune(RECIPE, ["weight_decay"], workers=1)
    with pytest.raises(UsageError, match="of recipe 'landscape', not of 'other'"):
        transfer_check(RECIPE.replace(name="other"), tuned=tuned, workers=1)
    result = transfer_check(RECIPE, tuned=tuned, setting="weight_decay", widths=WIDTHS, steps=9, workers=1)
    assert any("tuned in 20 steps, and are checked in 9" in note for note in result.notes)
    assert not any("another version" in note for note in result.notes)


def joined(recipe: Recipe, url: str) -> None:
    work(recipe, storage=url, patience=0.0)


@pytest.mark.parametrize(
    "axes", [{"batches": (16, 64)}, {"tokens": (160, 320)}, {"widths": (8, 16), "batches": (16, 32)}]
)
def test_a_worker_joins_a_check_over_batch_and_tokens_and_settings(monkeypatch, tmp_path, axes):
    """A process that was told the recipe alone makes the runs that a check asks for, as the check itself would."""
    url, asked = f"journal:///{tmp_path / 'j'}", []

    def only_ask(sweep: Sweep, jobs: Sequence[Job], *, log: object = None) -> None:
        waiting = JobWork(sweep.trainer, sweep.fingerprint)
        asked.append((waiting, list(jobs)))
        waiting.open(url).add([waiting.item(job) for job in jobs])
        raise InterruptedError

    monkeypatch.setattr(Sweep, "make", only_ask)
    with pytest.raises(InterruptedError):
        transfer_check(SIZED, tuned={"lr": 2**-6, "init:2": 2.0}, setting="init:2", **axes, seeds=1, workers=1)
    process = multiprocessing.get_context("fork").Process(target=joined, args=(SIZED, url))
    process.start()
    process.join(60)
    ((waiting, jobs),) = asked
    made = waiting.open(url).runs()
    assert process.exitcode == 0 and set(made) == {job.key for job in jobs} and len(jobs) == 4
    assert {job.settings for job in jobs} == {"init:2=2"}
    for job in jobs:
        (run,) = made[job.key]
        assert run == replace(waiting.trainer.run(job), seconds=run.seconds)


def test_a_worker_joins_no_check_of_another_recipe_over_batches(tmp_path):
    url = f"journal:///{tmp_path / 'j'}"
    waiting = JobWork(Trainer(growth(SIZED, batches=(16, 64)).recipe), "0123456789ab")
    waiting.open(url)
    with pytest.raises(UsageError, match="holds no study of recipe 'regression' as it is now"):
        work(SIZED, storage=url, patience=0.0)
