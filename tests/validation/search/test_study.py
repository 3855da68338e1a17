"""Studies: the guess first, no trial lost or repeated after a kill, pruning, several workers, others joining."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hptransfer.core.errors import UsageError
from hptransfer.validation.queue.jobs import JOB
from hptransfer.validation.queue.queue import KEY, RUNS
from hptransfer.validation.queue.storage import open_storage
from hptransfer.validation.records.runs import Run
from hptransfer.validation.search.study import study
from hptransfer.validation.search.tune import transferred_guess
from hptransfer.validation.transfer import transfer_check
from hptransfer.validation.worker import work
from tests.cases import validation as cases
from tests.cases.validation import recipe

ROOT = Path(__file__).parents[3]


def trials_of(url: str, kind: str = "") -> list[optuna.trial.FrozenTrial]:
    """All trials of the studies whose name holds `kind`."""
    storage = open_storage(url)
    return [t for s in storage.get_all_studies() if kind in s.study_name for t in storage.get_all_trials(s._study_id)]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_the_guess_is_tried_first_and_the_next_width_starts_from_the_best(url):
    result = study(recipe, storage=url, schemes=("mup", "sp"), widths=(16, 8), trials=4, guess=0.05, workers=1)
    best = {(b.scheme, b.width): b for b in result.best}
    first = {(s, w): trials_of(url, f"{s}-{w}")[0].params["lr"] for s in ("mup", "sp") for w in (8, 16)}
    assert first["mup", 8] == first["sp", 8] == 0.05
    assert first["mup", 16] == best["mup", 8].lr and first["sp", 16] == pytest.approx(best["sp", 8].lr / 2)
    assert result.complete == len(result.runs) == 16 and result.failed == 0
    assert all(b.loss == min(r.val_loss for r in result.runs if (r.scheme, r.width) == k) for k, b in best.items())


def test_the_default_guess_is_the_middle_of_the_recipes_range(url):
    study(recipe, storage=url, trials=1, workers=1)
    (trial,) = trials_of(url)
    assert trial.params["lr"] == pytest.approx(2**-6)
    assert trial.distributions["lr"] == optuna.distributions.FloatDistribution(2**-10, 2**-2, log=True)


def test_the_guess_follows_the_scheme():
    assert transferred_guess("mup", 0.1, narrow=64, wide=256) == 0.1
    assert transferred_guess("sp", 0.1, narrow=64, wide=256) == pytest.approx(0.025)
    assert transferred_guess("sp", 0.1, narrow=None, wide=256) == 0.1


def test_one_worker_is_deterministic_and_going_on_equals_going_through(tmp_path):
    whole = study(recipe, storage=f"sqlite:///{tmp_path / 'a.db'}", trials=6, workers=1)
    study(recipe, storage=f"sqlite:///{tmp_path / 'b.db'}", trials=2, workers=1)
    parts = study(recipe, storage=f"sqlite:///{tmp_path / 'b.db'}", trials=6, workers=1)
    assert [r.lr for r in parts.runs] == [r.lr for r in whole.runs] and parts.best == whole.best
    assert len({r.lr for r in whole.runs}) == 6


def test_a_finished_study_is_not_run_again(url, monkeypatch):
    result = study(recipe, storage=url, trials=3, workers=1)
    monkeypatch.setattr("hptransfer.validation.engines.trainer.Trainer.run", lambda *_: pytest.fail("run again"))
    assert study(recipe, storage=url, trials=3, workers=1) == result


def betas(trial, given):
    return given.replace(optimizer_options={"betas": (trial.suggest_float("beta1", 0.5, 0.95), 0.95)})


def test_a_search_space_of_ones_own_changes_the_recipe(url):
    result = study(recipe, storage=url, trials=4, space=betas, workers=1)
    assert {"lr", "beta1"} == set(result.best[0].params)
    again = study(recipe.replace(optimizer_options={"betas": (0.9, 0.95)}), storage=url, trials=1, workers=1)
    assert again.name != result.name


def test_a_trial_is_the_mean_over_its_seeds(url):
    result = study(recipe, storage=url, trials=2, seeds=3, workers=1)
    best = result.best[0]
    losses = [r.val_loss for r in result.runs if r.lr == best.lr]
    assert len(losses) == 3 and best.loss == pytest.approx(sum(losses) / 3)


def test_a_diverged_trial_is_pruned_at_once(url):
    wild = recipe.replace(loss=cases.nan_loss)
    result = study(wild, storage=url, trials=3, seeds=2, workers=1)
    assert (result.complete, result.diverged, result.pruned, result.best) == (0, 3, 0, ())
    assert result.missing == (("mup", 8),)
    assert all(t.state == TrialState.PRUNED and len(t.user_attrs[RUNS]) == 1 for t in trials_of(url))


def test_the_median_pruner_stops_the_worse_half_early(url):
    result = study(recipe.replace(steps=60), storage=url, trials=14, lrs=(1e-6, 0.1), pruning="median", workers=1)
    pruned = [r for r in result.runs if r.state == "pruned"]
    assert 1 <= len(pruned) == result.pruned < 14 and all(r.curve[-1][0] < 60 for r in pruned)


def raising_space(trial, given):
    raise KeyError("no such knob")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            recipe.replace(loss=cases.raising_loss),
            {},
            "All 2 trials failed; the first: RuntimeError: the data are on fire",
        ),
        (recipe, {"space": raising_space}, "All 2 trials failed; the first: the search space raised KeyError"),
        (recipe, {"space": lambda trial, given: None}, "must return a Recipe, but returned NoneType"),
    ],
)
def test_when_every_trial_fails_it_says_why(url, given, options, message):
    with pytest.raises(UsageError, match=message):
        study(given, storage=url, trials=2, workers=1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials=0"),
        ({"lrs": (0.1,)}, "give the lowest and the highest"),
        ({"lrs": (0.1, -0.2)}, "-0.2 is not a learning rate"),
        ({"guess": 100.0}, "guess=100.0: must lie in the range"),
        ({"pruning": "hard"}, "pruning='hard'"),
        ({"schemes": ("mu",)}, "'mu' is unknown"),
        ({"storage": "nonsense"}, "not a database URL"),
    ],
)
def test_bad_input_is_refused(url, options, message):
    with pytest.raises(UsageError, match=message):
        study(recipe, **{"storage": url, "workers": 1, **options})


def test_a_check_through_a_storage_equals_one_through_a_file(url, tmp_path):
    options = {"widths": (8, 16), "seeds": 3, "extend": 2.0, "command": "x", "out": None}
    plain = transfer_check(recipe, workers=1, **options)
    shared = transfer_check(recipe, workers=2, storage=url, **options)
    assert [r.val_loss for r in shared.runs] == [r.val_loss for r in plain.runs]
    assert (shared.verdict, shared.optima, shared.drifts) == (plain.verdict, plain.optima, plain.drifts)
    trials = [t for t in trials_of(url) if t.user_attrs[JOB]["steps"] == recipe.steps]  # without the probes
    assert len(trials) == len(plain.runs) and {"lr", "width", "seed", "scheme"} == set(trials[0].params)


SCRIPT = """
    import sys, time
    from hptransfer.validation.search.study import study
    from hptransfer.validation.transfer import transfer_check
    from hptransfer.validation.worker import work
    from tests.cases import validation as cases

    def slow(model, batch):
        time.sleep(0.004)
        return cases.loss(model, batch)

    recipe = cases.recipe.replace(loss=slow, widths=(8, 16), seeds=3)
    what, url = sys.argv[1:]
    if what == "check":
        print(len(transfer_check(recipe, storage=url, workers=2, extend=0.0).runs))
    elif what == "study":
        print(len(study(recipe, storage=url, workers=2, trials=16).runs))
    else:
        print(work(recipe, storage=url, patience=0.0))
"""


def start(tmp_path: Path, what: str, url: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), what, url]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(url: str, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many trials are told."""
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
        if Path(url.removeprefix("sqlite:///")).exists():
            try:
                told = sum(RUNS in t.user_attrs and t.state.is_finished() for t in trials_of(url))
            except UsageError:  # its tables are being made
                continue
            if told >= count:
                return


@pytest.mark.parametrize(("what", "total"), [("study", 16), pytest.param("check", 36, marks=pytest.mark.slow)])
def test_killed_in_the_middle_and_rerun_loses_no_finished_trial_and_repeats_none(url, tmp_path, what, total):
    process = start(tmp_path, what, url)
    wait_for(url, 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {t.number: t.user_attrs[RUNS] for t in trials_of(url) if RUNS in t.user_attrs}
    out, err = start(tmp_path, what, url).communicate(timeout=120)
    assert int(out) >= total, err
    after = [t for t in trials_of(url) if RUNS in t.user_attrs]
    assert {t.number: t.user_attrs[RUNS] for t in after if t.number in before} == before
    keys = [t.user_attrs[KEY] for t in after]
    assert len(keys) == len(set(keys)) >= total
    assert not [t for t in trials_of(url) if not t.state.is_finished()]
    runs = [Run.from_line(line).key for t in after for line in t.user_attrs[RUNS]]
    assert len(runs) == len(set(runs))


@pytest.mark.slow
def test_a_worker_elsewhere_joins_a_check(url, tmp_path):
    process = start(tmp_path, "check", url)
    wait_for(url, 1, process)
    helper = start(tmp_path, "work", url)
    out, err = process.communicate(timeout=120)
    assert int(out) >= 36, err
    _, err = helper.communicate(timeout=60)
    assert helper.returncode == 0 or "holds no study" in err, err
    keys = [t.user_attrs[KEY] for t in trials_of(url)]
    assert len(keys) == len(set(keys))


def test_a_worker_finishes_what_a_killed_process_left(url):
    study(recipe, storage=url, trials=2, workers=1)
    storage = open_storage(url)
    (found,) = storage.get_all_studies()
    storage.set_study_user_attr(found._study_id, "trials", 5)
    assert work(recipe, storage=url, patience=0.0, limit=2) == 2
    assert work(recipe, storage=url, patience=0.0) == 1
    assert work(recipe, storage=url, patience=0.0) == 0


def test_a_worker_with_another_recipe_is_refused(url):
    study(recipe, storage=url, trials=1, workers=1)
    with pytest.raises(UsageError, match="holds no study of recipe 'regression' as it is now"):
        work(recipe.replace(loss=cases.nan_loss), storage=url)
    with pytest.raises(UsageError, match="named 'other'"):
        work(recipe, storage=url, name="other")
