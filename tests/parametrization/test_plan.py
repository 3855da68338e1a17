"""The plan as data: table, explanation, JSON, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os

import pytest
import torch

import hptransfer as hpt
from hptransfer.core.rules import SCHEMES
from tests.cases.models import MLP, Shape, Transformer, batches, seeded


@pytest.fixture(scope="module")
def plan() -> hpt.Plan:
    shape = {"tied": True, "norm": "rms-plain", "depth": 2}
    models = [seeded(Transformer, Shape(width, **shape)) for width in (32, 8)]
    return hpt.make_plan(models[0], base=models[1], example_inputs=(batches("transformer", 1)[0][0],))


def test_json_round_trip_is_exact(plan: hpt.Plan, tmp_path) -> None:
    assert plan.hooks  # also hooks survive it
    assert hpt.Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    plan.save(tmp_path / "plan.json")
    loaded = hpt.Plan.load(tmp_path / "plan.json")
    assert loaded == plan and loaded.fingerprint == plan.fingerprint and str(loaded) == str(plan)
    assert os.listdir(tmp_path) == ["plan.json"]  # nothing partial is left


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adafactor, "Lion"])
def test_every_scheme_and_optimizer_round_trips(scheme: str, optimizer) -> None:
    models = seeded(MLP, 32), seeded(MLP, 8)
    given = {"example_inputs": (batches("mlp", 1)[0][0],), "scheme": scheme, "optimizer": optimizer}
    made = hpt.make_plan(models[0], base=models[1], **given)
    assert hpt.Plan.from_json(made.to_json()) == made


def test_the_table_has_a_line_per_kind_of_layer_with_its_reason(plan: hpt.Plan) -> None:
    lines = str(plan).splitlines()
    assert lines.pop(0).startswith("not verified: no builder")
    assert lines[0] == f"plan: scheme mup, AdamW (sign geometry), {len(plan)} parameters"
    (up,) = (line for line in lines if "blocks.*.up.weight (x2)" in line)
    assert up.split()[2:8] == ["64x32", "hidden", "0.5", "0.25", "4", "0.25"]
    rule = f"rule {up.split()[8]}: hidden: init m_in^-1/2, lr m_in^-1 (sign); Yang et al. 2022, 2203.03466"
    assert any(line.startswith(rule) for line in lines)
    (hook,) = (line for line in lines if line.startswith("hook: "))
    assert hook.startswith("hook: norm output x 0.25: tied readout")


def test_explain_tells_rule_numbers_and_equation(plan: hpt.Plan) -> None:
    text = plan.explain("blocks.1.attention.q.weight")
    for part in (
        "role hidden, fan_in 32, fan_out 32", "m_in = 4, m_out = 4", "2203.03466 def. 4.1", "d 4 -> 16",
        "lr x 0.1768, weight decay x 5.657",
    ):  # fmt: skip
        assert part in text
    assert "tied with head.weight" in plan.explain("head.weight")


def test_lookup_by_any_name_and_a_helpful_key_error(plan: hpt.Plan) -> None:
    assert plan["head.weight"] is plan["wte.weight"]
    with pytest.raises(KeyError, match=r"No parameter 'blocks.9.up.weight' in the plan; for example \['wte.weight'"):
        plan["blocks.9.up.weight"]


def test_the_fingerprint_changes_with_what_changes_training_only(plan: hpt.Plan) -> None:
    shape = {"tied": True, "norm": "rms-plain", "depth": 2}
    models = [seeded(Transformer, Shape(width, **shape), seed=5) for width in (32, 8)]
    given = {"base": models[1], "example_inputs": (batches("transformer", 1)[0][0],)}
    same = hpt.make_plan(models[0], **given)
    other = hpt.make_plan(models[0], **given, options=hpt.Options(eps="fixed"))
    assert same.fingerprint == plan.fingerprint != other.fingerprint
    hpt.verify_fingerprint(same, plan.fingerprint)
    with pytest.raises(hpt.UsageError, match="resuming"):
        hpt.verify_fingerprint(other, plan.fingerprint)


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_a_truncated_file(plan: hpt.Plan, tmp_path, cut: int) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    path.write_text(path.read_text()[:cut])
    with pytest.raises(hpt.UsageError, match="is not whole JSON"):
        hpt.Plan.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "is not whole JSON"),
        (b"{}", "Not a plan: 'rows'"),
        (b"[]", "Not a plan"),
        (b"3", "Not a plan"),
        (b'{"schema": 99}', "Not a plan of schema 1, which is what this version reads, but of schema 99"),
        (b'{"format": 99}', "of schema 99"),
        (b'{"format": 1, "rows": [{"name": "w"}]}', "Not a plan"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(hpt.UsageError, match=message):
        hpt.Plan.load(tmp_path / "x.json")


def test_unknown_fields_are_refused(plan: hpt.Plan) -> None:
    with pytest.raises(hpt.UsageError, match="Not a plan"):
        hpt.Plan.from_json({**plan.to_json(), "surprise": 1})


def test_a_missing_file_and_a_directory(tmp_path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(hpt.UsageError, match="cannot be read"):
            hpt.Plan.load(path)


def test_paths_that_cannot_be_written_leave_the_old_file(plan: hpt.Plan, tmp_path, monkeypatch) -> None:
    with pytest.raises(hpt.UsageError, match="cannot be written"):
        plan.save(tmp_path / "no such folder" / "plan.json")
    with pytest.raises(hpt.UsageError, match="cannot be written"):
        plan.save("/proc/plan.json")
    path = tmp_path / "plan.json"
    plan.save(path)
    before = path.read_text()

    def full(self, text: str, *args, **kwargs) -> int:
        with open(self, "w") as file:
            file.write(text[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(hpt.UsageError, match="No space left on device"):
        plan.save(path)
    assert path.read_text() == before
