"""What a factor does to a run: the same as the recipe with that setting, under every scheme; what would do nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.parametrization.tuned import tuned_plan
from hptransfer.validation.engines.lanes import LanesUnsupported, train_lanes
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.settings.effect import reached, refuse_idle
from hptransfer.validation.settings.setting import Setting
from hptransfer.validation.sweep import run_sweep
from tests.cases import validation as cases

OPTIONS = {"weight_decay": 0.5}
ADAMW = cases.recipe.replace(optimizer=torch.optim.AdamW, optimizer_options=OPTIONS, steps=6)
SGD = ADAMW.replace(optimizer=torch.optim.SGD, optimizer_options={"weight_decay": 0.25, "momentum": 0.5})


def run(recipe: Recipe, settings: str = "", *, scheme: str = "mup", width: int = 32, lr: float = 2**-5) -> Run:
    made = Trainer(recipe).run(Job(scheme, width, None, lr, 1, recipe.steps, settings=settings))
    assert made.state == "complete", made.error
    return made


def outcome(made: Run) -> tuple[float, object]:
    return made.val_loss, made.curve


@pytest.mark.parametrize(
    ("recipe", "scheme"), list(itertools.product([ADAMW, SGD], ["mup", "sp", "ntp", "sp-embedding"]))
)
def test_a_factor_on_weight_decay_is_the_recipe_with_so_much_more(recipe, scheme):
    more = recipe.replace(
        optimizer_options=recipe.optimizer_options | {"weight_decay": recipe.optimizer_options["weight_decay"] * 8}
    )
    factored, plain = run(recipe, "weight_decay=8", scheme=scheme), run(recipe, scheme=scheme)
    assert factored.val_loss == pytest.approx(run(more, scheme=scheme).val_loss, rel=1e-5)
    assert factored.val_loss != pytest.approx(plain.val_loss, rel=1e-4)
    assert Run.from_line(factored.to_line()) == factored and factored.settings == "weight_decay=8"


@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_a_factor_on_initial_scales_multiplies_the_weights_and_no_bias(scheme):
    for width, settings in itertools.product((8, 32), ("init=3", "init:2=3")):
        models = [
            Trainer(ADAMW).ready(Job(scheme, width, None, 0.1, 1, 6, settings=text))[0] for text in ("", settings)
        ]
        for (name, plain), (_, scaled) in zip(*(model.named_parameters() for model in models), strict=True):
            factor = 3.0 if name == "2.weight" or (name == "0.weight" and settings == "init=3") else 1.0
            assert torch.allclose(scaled, factor * plain, rtol=1e-6), (name, width, settings)


@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_a_factor_on_a_rate_is_of_its_module_alone(scheme):
    groups = Trainer(ADAMW).ready(Job(scheme, 32, None, 0.1, 1, 6, settings="lr:0=4"))[1]
    plain = Trainer(ADAMW).ready(Job(scheme, 32, None, 0.1, 1, 6, settings="lr:0=1"))[1]
    rates = [
        {id_of: g["lr"] for g in some for id_of in g.get("hpt_names", ("0.weight", "0.bias", "2.weight", "2.bias"))}
        for some in (groups, plain)
    ]
    assert {name: rates[0][name] / rates[1][name] for name in rates[0]} == pytest.approx(
        {"0.weight": 4, "0.bias": 4, "2.weight": 1, "2.bias": 1}
    )


@pytest.mark.parametrize("settings", ["weight_decay=4", "init=2", "lr:0=4 weight_decay:2=0.5", "init:2.bias=2"])
def test_at_the_base_every_scheme_is_one_training_whatever_the_factors(settings):
    of_control = outcome(run(ADAMW, settings, scheme="sp", width=8))
    assert of_control != outcome(run(ADAMW, scheme="sp", width=8))
    for scheme in ("mup", "ntp", "sp-embedding"):
        assert outcome(run(ADAMW, settings, scheme=scheme, width=8)) == of_control


def deep(scale: Scale) -> nn.Module:
    width = scale.width or 8
    return nn.Sequential(nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 1))


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adam"])
@pytest.mark.parametrize("scheme", ["sp", "mup", "spectral", "umup", "completep"])
def test_factors_put_into_a_plan_are_those_that_make_plan_puts_in(scheme, optimizer):
    about = {
        "base": deep(Scale(width=8)),
        "example_inputs": (torch.zeros(2, 8),),
        "optimizer": optimizer,
        "scheme": scheme,
    }
    tuned = {"0.weight": hpt.Tuned(lr=3, init=0.5), "2.weight": hpt.Tuned(init=4, weight_decay=2)}
    model = deep(Scale(width=32))
    whole, later = hpt.make_plan(model, **about, tuned=tuned), tuned_plan(hpt.make_plan(model, **about), tuned)
    for row in whole:
        for name in ("init_mult", "lr_mult", "wd_mult", "eps_mult", "fwd_mult", "init_std", "tuned_init"):
            one, other = getattr(later[row.name], name), getattr(row, name)
            assert one == other or one == pytest.approx(other, rel=1e-9), (row.name, name)


def test_a_tuned_init_tells_nothing_of_the_model_s_own_law():
    """Few values leave a law open: a factor near a ratio of the rules must not be taken for it."""
    for seed in range(12):
        torch.manual_seed(seed)
        base, model = deep(Scale(width=8)), deep(Scale(width=8))
        tuned = {"3.weight": hpt.Tuned(init=1.3), "3.bias": hpt.Tuned(init=0.7)}
        plan = hpt.make_plan(model, base=base, example_inputs=(torch.zeros(2, 8),), tuned=tuned)
        changes = {change.name: change.factor for change in hpt.parametrize_(model, plan)}
        assert changes == pytest.approx({"3.weight": 1.3, "3.bias": 0.7})


def test_initial_scales_are_of_weights_unless_a_glob_reaches_nothing_else():
    shapes = {"up.weight": (8, 8), "up.bias": (8,), "norm.weight": (8,)}
    named = {"init": ["up.weight"], "init:up": ["up.weight"], "init:norm": ["norm.weight"], "init:x": []}
    for text, names in named.items():
        assert reached(Setting.named(text), shapes) == names
    assert reached(Setting.named("weight_decay"), shapes) == list(shapes)


def zero_head(scale: Scale) -> nn.Module:
    model = cases.build(scale)
    nn.init.zeros_(model.get_parameter("2.weight"))
    return model


PAIR = ADAMW.replace(
    build=deep,
    optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW},
    optimizer_options={"hidden": {"weight_decay": 0.1}, "rest": {"weight_decay": 0.0}},
)


@pytest.mark.parametrize(
    ("recipe", "setting", "said"),
    [
        (cases.recipe, "weight_decay", r"gives 0.weight, 0.bias, 2.weight, 2.bias none.*optimizer=torch.optim.AdamW"),
        (ADAMW.replace(decays=lambda name, p: p.dim() > 1), "weight_decay:*.bias", "gives 0.bias, 2.bias none"),
        (ADAMW, "lr:head", "reaches no trained parameter. There are 0.weight"),
        (ADAMW, "lr:0.wieght", "did you mean 'lr:0.weight'"),
        (ADAMW, "lr:*", "of every parameter: that is the learning rate itself"),
        (PAIR, "weight_decay:3", "gives 3.weight, 3.bias none"),
        (ADAMW.replace(build=zero_head), "init:2.weight", "2.weight starts at zero"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(recipe, setting, said):
    with pytest.raises(UsageError, match=said):
        refuse_idle(Trainer(recipe), [Setting.named(setting)])


def test_what_has_an_effect_is_not_refused():
    refuse_idle(Trainer(ADAMW), map(Setting.named, ["lr", "weight_decay", "init", "lr:0", "init:2", "weight_decay:2"]))
    refuse_idle(Trainer(PAIR), [Setting("weight_decay"), Setting("weight_decay", "2")])
    refuse_idle(Trainer(ADAMW.replace(optimizer_options={})), [Setting("weight_decay")])  # AdamW's own is .01


def test_lanes_never_join_runs_of_two_settings():
    jobs = [Job("mup", 8, None, 0.1, seed, 6, settings=text) for seed, text in enumerate(("", "weight_decay=4"))]
    with pytest.raises(LanesUnsupported, match="settings"):
        train_lanes(Trainer(ADAMW), jobs)
    alike = [Job("mup", 8, None, 0.1, seed, 6, settings="weight_decay=4") for seed in (0, 1)]
    for lane, job in zip(train_lanes(Trainer(ADAMW), alike), alike, strict=True):
        assert lane.val_loss == pytest.approx(Trainer(ADAMW).run(job).val_loss, rel=1e-4)


def test_factors_for_a_model_of_one_s_own_are_by_full_name_and_refuse_what_reaches_nothing():
    model = deep(Scale(width=8))
    factors = hpt.tuned_factors(model, {"weight_decay": 4, "lr:0": 2, "weight_decay:0.bias": 0.5})
    assert factors["0.bias"] == hpt.Tuned(lr=2, weight_decay=2) and factors["1.weight"] == hpt.Tuned(weight_decay=4)
    assert hpt.make_plan(model, base=model, example_inputs=(torch.zeros(2, 8),), tuned=factors)["0.bias"].wd_mult == 2
    with pytest.raises(UsageError, match="reaches no trained parameter"):
        hpt.tuned_factors(model, {"init:head": 2.0})


def test_a_sweep_s_runs_are_as_they_were():
    plain = run_sweep(ADAMW, widths=[8], lrs=[2**-5], seeds=[1], schemes=["sp"], workers=1)[0]
    assert outcome(plain) == outcome(run(ADAMW, scheme="sp", width=8)) and plain.plan == "" and plain.settings == ""
