"""A plan exported and applied by a reader of twenty lines equals the plan's own groups exactly."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.parametrization.interop.export import FORMS
from hptransfer.parametrization.interop.patterns import classes, regexes
from tests.cases.models import MLP, Shape, Transformer, batches, seeded

worker = pytest.importorskip("tests.workers.trainer")
BASE = {"lr": 3e-3, "weight_decay": 0.1}
PAIR = {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
MIXED = {"lr": {"Muon": 0.02, "AdamW": 3e-3}, "weight_decay": {"Muon": 0.1, "AdamW": 0.0}}


def llama_plan(**choices: Any) -> tuple[nn.Module, hpt.Plan]:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
    model = worker.llama(64)
    given = {"example_inputs": {"input_ids": worker.IDS[:2]}, **choices}
    return model, hpt.make_plan(model, base=worker.llama(32), **given)


def groups(model: nn.Module, plan: hpt.Plan, base: dict[str, Any], decay=None) -> dict[str, dict[str, Any]]:
    """Parameter -> what the library's own optimizers hold for it."""
    held: dict[str, dict[str, Any]] = {}
    for name in plan.optimizers:
        lr, wd = (v[name] if isinstance(v, dict) else v for v in (base["lr"], base["weight_decay"]))
        for group in hpt.param_groups(model, plan, lr=lr, weight_decay=wd, optimizer=name, decay=decay):
            held |= {n: {"optimizer": name, **group} for n in group["hpt_names"]}
    return held


@dataclass(kw_only=True)
class ParamGroupConfig:
    """As in torchtitan.components.optimizer: what patterns there are checked for, in order, the first match winning."""

    pattern: str
    optimizer_name: str
    optimizer_kwargs: dict[str, Any]


def read_torchtitan(text: str, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The reader: an unmodified model's optimizers from the exported groups, as torchtitan's container makes them."""
    scope: dict[str, Any] = {"ParamGroupConfig": ParamGroupConfig}
    exec(text, scope)
    found: list[list[nn.Parameter]] = [[] for _ in scope["param_groups"]]
    for name, parameter in model.named_parameters():
        for held, group in zip(found, scope["param_groups"], strict=True):
            if re.search(group.pattern, name):
                held.append(parameter)
                break
        else:
            raise AssertionError(f"{name} is matched by no pattern")
    by_class: dict[str, list[dict[str, Any]]] = {}
    for held, group in zip(found, scope["param_groups"], strict=True):
        by_class.setdefault(group.optimizer_name, []).append({"params": held, **group.optimizer_kwargs})
    return [getattr(torch.optim, name)(listed) for name, listed in by_class.items()]


CASES = {
    "adamw": ({}, BASE),
    "a pair": ({"optimizer": PAIR}, MIXED),
    "depth, batch": (
        {"scheme": "completep", "scale": hpt.Scale(batch=64), "base_scale": hpt.Scale(batch=16)},
        BASE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_torchtitan_s_groups_on_an_unmodified_llama_are_the_plan_s(case: str) -> None:
    choices, base = CASES[case]
    model, plan = llama_plan(**choices)
    optimizers = read_torchtitan(plan.export("torchtitan", **base, decay=lambda name, shape: len(shape) > 1), model)
    expected = groups(model, plan, base, decay=lambda name, p: p.dim() > 1)
    names = {id(p): n for n, p in model.named_parameters()}
    seen = set()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                own = expected[names[id(parameter)]]
                keys = [k for k in ("lr", "weight_decay", "eps", "betas", "momentum") if k in own]
                assert own["optimizer"] == type(optimizer).__name__ and len(keys) >= 2
                assert {k: group[k] for k in keys} == {k: own[k] for k in keys}, names[id(parameter)]
                seen.add(names[id(parameter)])
    assert seen == set(plan.rows)
    assert sum(len(o.param_groups) for o in optimizers) == len(
        {str({k: v for k, v in g.items() if k not in {"params", "hpt_names"}}) for g in expected.values()}
    )


@pytest.mark.parametrize("case", CASES)
def test_the_regular_expressions_say_every_factor_once(case: str) -> None:
    choices, _ = CASES[case]
    model, plan = llama_plan(**choices)
    read = json.loads(plan.export("regex"))
    for name, _ in model.named_parameters():
        for matches in (re.search, re.match, re.fullmatch):
            (found,) = [entry for entry in read["patterns"] if matches(entry["pattern"], name)]
        row = plan[name]
        got = [found[key] for key in ("init", "lr", "weight_decay", "eps")]
        assert got == pytest.approx([row.init_mult, row.lr_mult, row.wd_mult, row.eps_mult], rel=1e-11)
        assert found["optimizer"] == row.optimizer
    settings = classes(
        plan,
        lambda row: (row.optimizer, *(f"{v:.9g}" for v in (row.init_mult, row.lr_mult, row.wd_mult, row.eps_mult))),
    )
    assert len(read["patterns"]) == len(settings)  # as few as there are settings
    assert read.get("beta_power", 1.0) == plan.beta_power


def test_deepspeeds_groups_are_torchs() -> None:
    model, plan = llama_plan()
    scope: dict[str, Any] = {}
    exec(plan.export("deepspeed", **BASE), scope)
    listed, expected = scope["model_parameters"](model), groups(model, plan, BASE)
    names = {id(p): n for n, p in model.named_parameters()}
    for group in listed:
        for p in group["params"]:
            own = expected[names[id(p)]]
            assert {k: group[k] for k in ("lr", "weight_decay", "eps")} == {
                k: own[k] for k in ("lr", "weight_decay", "eps")
            }
    assert sum(len(group["params"]) for group in listed) == len(plan)
    torch.optim.AdamW(listed)


def test_megatrons_overrides_hold_all_but_eps() -> None:
    model, plan = llama_plan(options=hpt.Options(eps="fixed"))
    scope: dict[str, Any] = {"ParamKey": lambda name: name, "ParamGroupOverride": dict}
    exec(plan.export("megatron", **BASE), scope)
    for name, own in groups(model, plan, BASE).items():
        (override,) = [
            o for globs, o in scope["config_overrides"].items() if any(fnmatch.fnmatchcase(name, g) for g in globs)
        ]
        assert override["max_lr"] == own["lr"] and 0.1 * override["wd_mult"] == pytest.approx(own["weight_decay"])
    with pytest.raises(hpt.UsageError, match=r"has no eps. Make the plan with Options\(eps='fixed'\)"):
        llama_plan()[1].export("megatron", **BASE)


def test_optax_labels_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """By doubles of jax and optax: the labels, and what each transform is given."""
    model, plan = llama_plan()
    optax, jax = ModuleType("optax"), ModuleType("jax")
    optax.adamw, optax.multi_transform = (lambda **given: given), (lambda transforms, labels: (transforms, labels))  # type: ignore[attr-defined]

    def flat(function, tree):
        return {path: function([SimpleNamespace(key=k) for k in path.split(".")], leaf) for path, leaf in tree.items()}

    jax.tree_util = SimpleNamespace(tree_map_with_path=flat)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optax", optax)
    monkeypatch.setitem(sys.modules, "jax", jax)
    scope: dict[str, Any] = {}
    exec(plan.export("optax", **BASE), scope)
    transforms, labels = scope["optimizer"]
    for name, label in labels(dict(model.named_parameters())).items():
        own = groups(model, plan, BASE)[name]
        assert transforms[label]["learning_rate"] == own["lr"] and transforms[label]["eps"] == own["eps"]
    with pytest.raises(hpt.UsageError, match="optax: how Muon is spelled there is not known"):
        llama_plan(optimizer=PAIR)[1].export("optax", **MIXED)


@pytest.mark.parametrize(
    ("form", "given", "message"),
    [
        ("toml", {}, "export form 'toml' is unknown; use one of regex, torchtitan, megatron"),
        ("torchtitan", {}, "writes learning rates: give the base's as lr="),
        ("torchtitan", {"lr": {"Muon": 0.1}}, "lr is given for Muon, but this plan trains with AdamW"),
    ],
)
def test_what_cannot_be_written_is_refused(form: str, given: dict[str, Any], message: str) -> None:
    model = seeded(MLP, 32)
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(batches("mlp", 1)[0][0],))
    with pytest.raises(hpt.UsageError, match=message):
        plan.export(form, **given)
    for other in FORMS:
        with pytest.raises(hpt.UsageError, match="multiplies in the forward pass"):
            plan.as_multipliers().export(other, lr=1e-3)


def test_layers_with_settings_of_their_own_are_told_by_their_index() -> None:
    """Tuned factors of one layer: the expression names its index, and a glob says that it cannot."""
    model = seeded(Transformer, Shape(16, depth=3))
    x = batches("transformer", 1)[0][0]
    given = {
        "example_inputs": (x,),
        "tuned": {"blocks.1.up.weight": hpt.Tuned(lr=2.0)},
        "options": hpt.Options(eps="fixed"),
    }
    plan = hpt.make_plan(model, base=seeded(Transformer, Shape(8, depth=3)), **given)
    found = [key for pattern, key in regexes(plan, lambda row: row.lr_mult) if re.search(pattern, "blocks.1.up.weight")]
    assert found == [plan["blocks.1.up.weight"].lr_mult] and found != [plan["blocks.0.up.weight"].lr_mult]
    with pytest.raises(hpt.UsageError, match="no glob tells them apart"):
        plan.export("megatron", lr=1e-3)
