"""tune on a landscape with a known answer: what it finds, when it searches again, and where it may be killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import os

import numpy as np
import pytest
import torch

from hptransfer.cli.command import main
from hptransfer.core.errors import UsageError
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.records.runs import RUNS_FILE, Job, Run, read_runs
from hptransfer.validation.settings.search import tune
from hptransfer.validation.settings.tuned import TUNED_FILE, TunedSettings
from hptransfer.validation.settings.vector import Vector
from hptransfer.validation.worker import work
from tests.cases import validation as cases

RECIPE = cases.recipe.replace(
    name="landscape",
    optimizer=torch.optim.AdamW,
    optimizer_options={"weight_decay": 0.1},
    lrs=tuple(2.0**k for k in range(-11, -3)),
    seeds=3,
)
NOISE = 0.002


def octaves(job: Job, name: str) -> float:
    return math.log2(Vector.read(job.settings).values.get(name, 1.0))


def loss_of(job: Job, *, decay: float = 2.0, depends: float = 0.0, steep: float = 0.03) -> float:
    """Parabolas: of the rate about 2^-7 and as many octaves lower as `depends` per octave of decay; of weight decay
    about `decay` octaves; of the initial scale none. The noise is of a seed and its place."""
    x = math.log2(job.lr) + 7 + depends * octaves(job, "weight_decay")
    y = octaves(job, "weight_decay") - decay
    key = [job.seed, *(round(2**20 * (octaves(job, name) + 64)) for name in ("weight_decay", "init"))]
    noise = np.random.default_rng([*key, round(job.lr * 2**40)]).normal(0, NOISE)
    return 1 + 0.05 * x * x + steep * y * y + noise


class Bench:
    """Stands in for training: losses from a landscape, and how many runs were made. left: runs until it is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **landscape: float) -> None:
        self.made: list[str] = []
        self.left = math.inf
        self.landscape = landscape
        monkeypatch.setattr(Trainer, "run", lambda trainer, job, on_step=None: self.run(job))

    def run(self, job: Job) -> Run:
        if self.left == 0:
            os._exit(9)
        self.left -= 1
        self.made.append(job.key)
        loss = loss_of(job, **self.landscape)
        return Run(
            **vars(job), val_loss=loss, train_loss=loss, curve=((1, 9.0),), diverged=False, seconds=0, state="complete"
        )


def rounds(tuned: TunedSettings) -> list[tuple[str, int]]:
    return [(search.setting, search.round) for search in tuned.searched]


def test_every_setting_is_moved_to_its_best_and_a_flat_one_stays(monkeypatch):
    Bench(monkeypatch)
    tuned = tune(RECIPE, ["weight_decay", "init"], workers=1)
    assert math.log2(tuned.lr) == pytest.approx(-7, abs=0.3)
    assert math.log2(tuned.factors["weight_decay"]) == pytest.approx(2, abs=0.3) and tuned.factors["init"] == 1.0
    assert tuned.vector == Vector.of({"lr": tuned.lr, "weight_decay": tuned.factors["weight_decay"]})
    found = tuned.latest["weight_decay"]
    assert found.low < 2 < found.high and found.moved and (found.cost_low or 0) > 0 and found.before == 1.0
    assert not tuned.latest["init"].moved and (tuned.latest["init"].cost_low or 0) <= 0


def test_the_gain_is_measured_on_seeds_that_nothing_was_tuned_on(monkeypatch):
    bench = Bench(monkeypatch)
    gain = tune(RECIPE, ["weight_decay"], workers=1).gain
    assert gain is not None and gain.seeds == (3, 4, 5) and gain.difference == pytest.approx(-0.12, abs=0.02)
    assert gain.low < -0.12 < gain.high and sum("seed=3 " in key for key in bench.made) == 2


def test_what_depends_on_a_setting_that_moved_is_searched_again_around_where_it_was(monkeypatch):
    Bench(monkeypatch, depends=0.75)
    tuned = tune(RECIPE, ["weight_decay"], workers=1)
    assert rounds(tuned)[:3] == [("lr", 1), ("weight_decay", 1), ("lr", 2)]
    again, decay = tuned.searched[2], math.log2(tuned.factors["weight_decay"])
    assert again.before == tuned.searched[0].value and again.held.startswith("weight_decay=")
    assert math.log2(tuned.lr) == pytest.approx(-7 - 0.75 * decay, abs=0.3) and again.octaves < -0.5


def test_no_setting_is_searched_again_where_none_moved_by_an_octave(monkeypatch):
    Bench(monkeypatch, decay=0.8, steep=0.2)
    tuned = tune(RECIPE, ["weight_decay", "init"], workers=1)
    assert 0.4 < math.log2(tuned.factors["weight_decay"]) < 1
    assert rounds(tuned) == [("lr", 1), ("weight_decay", 1), ("init", 1)]


def test_an_optimum_beyond_the_range_is_followed_to_the_bound_and_said_to_be_at_the_edge(monkeypatch):
    Bench(monkeypatch, decay=6.0)
    near = tune(RECIPE, ["weight_decay"], workers=1)
    assert math.log2(near.factors["weight_decay"]) == pytest.approx(6, abs=0.3) and not near.searched[1].at_edge
    held = tune(RECIPE, ["weight_decay"], workers=1, extend=0.0)
    assert held.searched[1].at_edge and held.searched[1].value == 2.0**4


def test_a_search_killed_anywhere_goes_on_to_the_same_and_makes_no_run_twice(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, depends=0.75)
    options = {"settings": ["weight_decay"], "workers": 1, "command": "x"}
    whole, out = tune(RECIPE, **options, out=tmp_path / "whole"), tmp_path / "killed"
    total = len(bench.made)
    assert total == len(set(bench.made)) == len(read_runs(tmp_path / "whole" / RUNS_FILE)[0])
    for count in (17, 41):
        bench.left = count
        child = multiprocessing.get_context("fork").Process(target=tune, args=(RECIPE,), kwargs={**options, "out": out})
        child.start()
        child.join()
        assert child.exitcode == 9 and not (out / TUNED_FILE).exists()
    bench.left, before = math.inf, len(read_runs(out / RUNS_FILE)[0])
    bench.made.clear()
    rest = tune(RECIPE, **options, out=out)
    assert (rest.searched, rest.vector, rest.gain, rest.keys) == (whole.searched, whole.vector, whole.gain, whole.keys)
    assert before == sum((17, 41)) and len(bench.made) == total - before
    assert TunedSettings.load(out / TUNED_FILE) == rest
    kept = [run.key for run in read_runs(out / RUNS_FILE)[0]]
    assert len(kept) == len(set(kept)) == total and set(rest.keys) == set(kept)


def test_other_recipes_runs_are_never_taken(monkeypatch, tmp_path):
    bench = Bench(monkeypatch)
    tune(RECIPE, workers=1, out=tmp_path)
    made = len(bench.made)
    tune(RECIPE.replace(optimizer_options={"weight_decay": 0.2}), workers=1, out=tmp_path)
    assert len(bench.made) == 2 * made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"settings": ["weight_decay", "weight_decay"]}, "give each once"),
        ({"settings": ["weight_decay"], "seeds": 2}, "takes 3 at least"),
        ({"settings": ["init:head"]}, "reaches no trained parameter"),
        ({"settings": ["dropout"]}, "'dropout' is none"),
        ({"lrs": [0.1, -1.0]}, "is not a learning rate"),
        ({"scheme": "mpu"}, "unknown"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(monkeypatch, given, said):
    bench = Bench(monkeypatch)
    with pytest.raises(UsageError, match=said):
        tune(RECIPE, **given, workers=1)
    assert bench.made == []


def test_a_recipe_that_diverges_everywhere_is_one_clear_line():
    with pytest.raises(UsageError, match=r"No run with any learning rate was completed.*Give lower lrs"):
        tune(RECIPE.replace(loss=cases.nan_loss, steps=2), workers=1, extend=0.0)


def test_a_worker_makes_runs_of_any_setting_through_the_storage(tmp_path):
    """What a run trains with is in its job: the worker was told nothing of the settings."""
    url = f"journal:///{tmp_path / 'j'}"
    small = RECIPE.replace(steps=2)
    first = tune(small, ["weight_decay"], workers=1, storage=url, lrs=[2**-7, 2**-6, 2**-5], extend=0.0)
    with pytest.raises(UsageError, match="holds no study"):
        work(small.replace(optimizer_options={"weight_decay": 0.3}), storage=url, patience=0.0)
    assert work(small, storage=url, patience=0.0) == 0 and first.factors["weight_decay"] > 0


def test_the_command_prints_the_table_and_the_check_that_follows(monkeypatch, tmp_path, capsys):
    Bench(monkeypatch)
    path = tmp_path / "r.py"
    path.write_text("from tests.validation.settings.test_tune import RECIPE as recipe\n")
    options = ["--settings", "weight_decay,init", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(["tune", str(path), *options]) == 0
    shown = capsys.readouterr().out
    assert "weight_decay  x " in shown and ", stays" in shown and "fresh seeds its loss is" in shown
    assert f"--tuned {tmp_path / 'out' / TUNED_FILE} --setting weight_decay --setting init" in shown
    assert main(["tune", str(path), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lr"] == TunedSettings.load(tmp_path / "out" / TUNED_FILE).lr
    assert main(["tune", str(path), "--settings", "dropout"]) == 2
    assert "'dropout' is none" in capsys.readouterr().err
