"""The zoom in a study of one's own: it finds the best rate with few trials, in any order of ask and tell."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from hptransfer.core.errors import UsageError
from hptransfer.validation.search.zoom_sampler import ZoomSampler

LOW, HIGH = 2.0**-12, 2.0**-2


def loss(lr: float, seed: int = 0, best: float = -6.3) -> float:
    return 1 + 0.1 * (math.log2(lr) - best) ** 2 + 0.001 * seed


def objective(trial: optuna.Trial) -> float:
    lr, seed = trial.suggest_float("lr", LOW, HIGH, log=True), trial.suggest_int("seed", 0, 2)
    return loss(lr, seed)


@pytest.fixture(autouse=True)
def quietly():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def points(study: optuna.Study) -> list[tuple[float, int]]:
    return [(round(math.log2(t.params["lr"]), 6), t.params["seed"]) for t in study.trials]


def test_it_zooms_in_with_all_seeds_and_ends_the_study():
    study = optuna.create_study(sampler=ZoomSampler(seeds=3))
    study.optimize(objective, n_trials=200)
    visited = points(study)
    assert len(visited) == len(set(visited)) < 25
    assert math.log2(study.best_params["lr"]) == pytest.approx(-6.5)
    around = {at for at in {at for at, _ in visited} if sum(a == at for a, _ in visited) == 3}
    assert around >= {-7.5, -7.0, -6.5, -6.0, -5.5}
    assert visited[:3] == [(-12.0, 0), (-10.0, 0), (-8.0, 0)]  # two octaves apart first, with one seed


def test_a_study_that_was_stopped_goes_on_as_it_would_have(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for _ in range(40):
        study = optuna.create_study(storage=url, study_name="s", load_if_exists=True, sampler=ZoomSampler(seeds=3))
        if len(study.trials) >= 9:
            break
        study.optimize(objective, n_trials=3)
    whole = optuna.create_study(sampler=ZoomSampler(seeds=3))
    whole.optimize(objective, n_trials=9)
    assert points(study)[:9] == points(whole)


def test_asked_several_at_a_time_it_repeats_nothing():
    study = optuna.create_study(sampler=ZoomSampler(seeds=2))
    for _ in range(8):
        trials = [study.ask() for _ in range(4)]
        asked = [(t.suggest_float("lr", LOW, HIGH, log=True), t.suggest_int("seed", 0, 1)) for t in trials]
        for trial, (lr, seed) in zip(trials, asked, strict=True):
            study.tell(trial, loss(lr, seed))
    assert len(points(study)) == len(set(points(study)))
    assert math.log2(study.best_params["lr"]) == pytest.approx(-6.5)


def test_maximising_pruned_and_failed_trials():
    study = optuna.create_study(direction="maximize", sampler=ZoomSampler())

    def accuracy(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", LOW, HIGH, log=True)
        if lr > 2**-5:
            raise optuna.TrialPruned
        return math.nan if lr < 2**-10 else -loss(lr)

    study.optimize(accuracy, n_trials=100)
    assert math.log2(study.best_params["lr"]) == pytest.approx(-6.5) and len(study.trials) < 20
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_other_parameters_go_to_the_other_sampler():
    study = optuna.create_study(sampler=ZoomSampler(others=optuna.samplers.TPESampler(seed=1, n_startup_trials=2)))

    def both(trial: optuna.Trial) -> float:
        return loss(trial.suggest_float("lr", LOW, HIGH, log=True)) + trial.suggest_float("decay", 0, 1)

    study.optimize(both, n_trials=8)
    assert len({t.params["decay"] for t in study.trials}) == len(study.trials)


def test_a_rate_on_a_linear_scale_is_refused():
    study = optuna.create_study(sampler=ZoomSampler())
    with pytest.raises(UsageError, match="log=True"):
        study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 0.2), n_trials=1)
