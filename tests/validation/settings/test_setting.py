"""What settings are called, and that a run's key tells every vector of them from every other."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid
from hptransfer.validation.records.runs import Job
from hptransfer.validation.settings.setting import Setting
from hptransfer.validation.settings.tuned import tuned_of
from hptransfer.validation.settings.vector import Vector

DECAY, HEAD = Setting("weight_decay"), Setting("init", "head*")


def job(vector: Vector) -> Job:
    return Job("mup", 8, None, vector.lr or 1.0, 0, 20, settings=vector.text)


@pytest.mark.parametrize("text", ["lr", "weight_decay", "init", "lr:embed*", "weight_decay:blocks.*.mlp", "init:0"])
def test_a_setting_is_read_as_it_is_written(text):
    assert str(Setting.named(text)) == str(Setting.named(f" {text} ")) == text
    assert Setting.named(text).is_rate == (text == "lr")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wieght_decay", "did you mean 'weight_decay'"),
        ("", "Use lr, weight_decay, init"),
        ("lr:", "no parameter is called ''"),
        ("lr:a b", "no parameter is called 'a b'"),
        ("lr:a=b", "no parameter is called 'a=b'"),
        ("momentum:x", "'momentum' is none"),
    ],
)
def test_another_word_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        Setting.named(text)


def test_a_glob_reaches_a_parameter_by_its_name_or_its_module_s():
    for glob, reached in {"head": "head.weight", "head.w*": "head.weight", "*": "x", "b.*.mlp": "b.3.mlp.up"}.items():
        assert Setting("lr", glob).reaches(reached)
    assert not Setting("lr", "head").reaches("heads.weight") and not Setting("lr", "HEAD").reaches("head.weight")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "4", None])
def test_a_value_that_is_no_positive_number_is_refused(value):
    with pytest.raises(UsageError, match="weight_decay="):
        Vector.of({"weight_decay": value})


def test_a_vector_s_text_has_every_number_to_its_last_digit_and_comes_back():
    vector = Vector.of({"weight_decay": 0.1 + 0.2, "init:head*": 2**0.5, "lr": 1e-3, "lr:0": 1 / 3})
    assert Vector.read(vector.text) == Vector(None, vector.factors) and Vector.of(vector.values) == vector
    assert vector.value(DECAY) == 0.1 + 0.2 and vector.value(HEAD) == 2**0.5 and vector.value(Setting()) == 1e-3
    with pytest.raises(UsageError, match="is no list of settings"):
        Vector.read("weight_decay")


def test_runs_of_two_vectors_never_share_a_key_and_those_of_one_always_do():
    near = [Vector().with_(DECAY, value) for value in (4.0, 4.0 + 1e-15, 4.0 - 1e-15)]
    others = [Vector().with_(HEAD, 4.0), Vector().with_(Setting("weight_decay", "head*"), 4.0), near[0].with_(HEAD, 4)]
    assert len({job(vector).key for vector in [*near, *others, Vector()]}) == 7
    one, other = Vector().with_(DECAY, 2.0).with_(HEAD, 3.0), Vector().with_(HEAD, 3.0).with_(DECAY, 2.0)
    assert job(one).key == job(other).key


def test_a_factor_of_one_is_the_run_without_it_and_old_keys_stay():
    assert job(Vector(0.5).with_(DECAY, 1.0)) == job(Vector(0.5))
    assert job(Vector(0.5)).key == "mup width=8 lr=0.5 seed=0 steps=20"


def test_a_job_survives_the_storage_with_its_key():
    kept = job(Vector.of({"lr": 0.1, "weight_decay": 1 / 3}))
    assert Job(**json.loads(json.dumps(asdict(kept)))) == kept and "weight_decay=0.333" in kept.key + str(kept)


def test_a_grid_over_a_setting_holds_the_rate_and_the_other_factors():
    held = Vector.of({"lr": 0.25, "init:head*": 0.5, "weight_decay": 8.0})
    grid = Grid(("mup",), (Scale(width=8),), (0.5, 1.0, 2.0), (0,), 20, DECAY, held)
    assert {run.lr for run in grid.jobs("")} == {0.25}
    assert [Vector.read(run.settings).values for run in grid.jobs("")] == [
        {"init:head*": 0.5, "weight_decay": 0.5},
        {"init:head*": 0.5},
        {"init:head*": 0.5, "weight_decay": 2.0},
    ]
    with pytest.raises(UsageError, match="holds the learning rate"):
        Grid(("mup",), (Scale(width=8),), (1.0,), (0,), 20, DECAY).jobs("")


def test_what_is_no_tuned_file_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="Make them with `hptransfer tune`"):
        tuned_of(tmp_path)
    (tmp_path / "tuned.json").write_text('{"schema": 1, "recipe": "x"}')
    with pytest.raises(UsageError, match="Not tuned settings"):
        tuned_of(tmp_path)
