"""What an optimizer does is declared: a class is known by where it comes from, never by its name alone."""

from __future__ import annotations

import math

import pytest
import torch

import hptransfer as hpt
from hptransfer.core.declared import known_options, row_of
from hptransfer.core.geometry import OptimizerInfo, class_default
from hptransfer.core.optimizers import OPTIMIZERS, SHAPE_FACTORS, torch_rows
from hptransfer.prediction.curvature.preconditioned import curvature_of
from hptransfer.validation.engines.lanes import ELEMENTWISE


def foreign(name: str, module: str = "somewhere.optim", bases=(torch.optim.Optimizer,), **body) -> type:
    return type(name, bases, {"__module__": module, "__qualname__": name, **body})


@pytest.mark.parametrize("name", sorted(n for n, rows in OPTIMIZERS.items() if rows[0].geometry))
def test_a_class_of_a_known_name_from_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(hpt.UsageError, match=rf"{name} of somewhere.optim is not the {name} of .*register_optimizer"):
        row_of(foreign(name))
    assert row_of(name).geometry is not None  # the name alone means the library's that the table lists first


@pytest.mark.parametrize("row", [r for r in torch_rows() if r.geometry], ids=lambda r: r.name)
def test_torchs_own_class_and_a_subclass_that_keeps_its_step_are_known(row) -> None:
    cls = getattr(torch.optim, row.name)
    kept = foreign(row.name, bases=(cls,), zero_grad=lambda self, set_to_none=True: None)
    assert row_of(cls) == row_of(kept) == row


@pytest.mark.parametrize("method", ["step", "_init_group"])
def test_a_subclass_that_changes_the_step_is_refused_until_declared(method: str) -> None:
    cls = foreign("Faster", f"m.{method}", (torch.optim.AdamW,), **{method: lambda self, *args: None})
    with pytest.raises(hpt.UsageError, match=f"derives from AdamW but defines {method} itself.*like='AdamW'"):
        row_of(cls)
    further = foreign("Further", f"m.{method}", (cls,))
    with pytest.raises(hpt.UsageError, match=f"defines {method}"):
        row_of(further)
    hpt.register_optimizer(cls, like=torch.optim.AdamW)
    for declared in (cls, further):
        info = OptimizerInfo.of(declared)
        assert (info.geometry, info.decay, info.default_eps) == ("sign", "decoupled", 1e-8)


def test_a_first_instance_does_not_make_a_subclass_one_that_changes_the_step() -> None:
    """torch wraps `step` on the class of the first instance; the step is still the parent's."""
    cls = foreign("Plain", bases=(torch.optim.Adamax,))
    cls([torch.zeros(1, requires_grad=True)])
    assert row_of(cls).name == "Adamax"


def test_what_a_subclass_passes_on_is_read() -> None:
    def init(self, params, lr=1e-3):
        torch.optim.NAdam.__init__(self, params, lr, betas=(0.8, 0.9), eps=1e-5, decoupled_weight_decay=True)

    cls = foreign("Set", bases=(torch.optim.NAdam,), __init__=init)
    info = OptimizerInfo.of(cls)
    assert (info.default_eps, info.betas, info.decay) == (1e-5, (0.8, 0.9), "decoupled")
    assert known_options(cls) == ["lr"]  # it passes nothing on


def test_each_decay_is_declared_and_kept() -> None:
    for decay in ("l2", "decoupled", "fixed"):
        cls = foreign("Decays", f"m.{decay}")
        hpt.register_optimizer(cls, "sign", decay=decay)
        assert OptimizerInfo.of(cls).decay == decay
    hpt.register_optimizer("Mine", "gradient", decoupled=False)
    assert OptimizerInfo.of("Mine").decay == OptimizerInfo.of(foreign("Mine")).decay == "l2"


@pytest.mark.parametrize("factor", ["sqrt_max", "none", lambda rows, columns: 3 * math.sqrt(rows) / columns])
def test_a_spectral_step_needs_its_shape_factor(factor) -> None:
    cls = foreign("Muon", "m.muon")
    with pytest.raises(hpt.UsageError, match="Say which with shape_factor=: 'none', 'original'"):
        hpt.register_optimizer(cls, "spectral")
    hpt.register_optimizer(cls, "spectral", shape_factor=factor)
    info, shape = OptimizerInfo.of(cls), (12, 3)
    expected = {"sqrt_max": math.sqrt(12), "none": 1.0}.get(factor) if isinstance(factor, str) else factor(*shape)
    assert info.own_factor(shape) == pytest.approx(expected) and not info.matrices_only
    assert OptimizerInfo.of(torch.optim.Muon).own_factor(shape) == 2.0  # torch's own is untouched


def test_scion_and_dion_carry_the_spectral_condition_themselves() -> None:
    for name in ("Scion", "Dion"):
        assert OptimizerInfo.of(name).own_factor((8, 2)) == 2.0 and OptimizerInfo.of(name).own_factor((2, 8)) == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give a geometry or like="),
        ({"geometry": "sgn"}, "Geometry 'sgn' is unknown"),
        ({"geometry": "sign", "decay": "none"}, "decay 'none' is unknown"),
        ({"geometry": "sign", "decay": "l2", "decoupled": True}, "give one of them"),
        ({"geometry": "spectral", "shape_factor": "spectral"}, "shape_factor 'spectral' is unknown"),
        ({"geometry": "spectral", "shape_factor": lambda shape: 1.0}, r"raised TypeError.*\(rows, columns\)"),
        ({"geometry": "spectral", "shape_factor": lambda rows, columns: 0.0}, "must be a positive factor"),
        ({"like": "Adom"}, "'Adom' is not known"),
    ],
)
def test_a_wrong_declaration_is_refused(given, message: str) -> None:
    with pytest.raises(hpt.UsageError, match=message):
        hpt.register_optimizer(foreign("Wrong"), **given)
    with pytest.raises(hpt.UsageError, match="not known"):
        row_of(foreign("Wrong"))


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (torch.optim.AdamW, {"epz": 1e-3}, r"AdamW has no option 'epz'; did you mean 'eps'\? It takes lr, betas, eps"),
        (torch.optim.AdamW, {"decoupled_weight_decay": True}, "has no option 'decoupled_weight_decay'"),
        ("Muon", {"adjust_lr": None}, "did you mean 'adjust_lr_fn'"),
        ("FusedAdam", {"adamw_mode": False}, "did you mean 'adam_w_mode'"),
        ("Lion", {"momentun": 0.9}, "has no option 'momentun'"),
        (torch.optim.Muon, {"adjust_lr_fn": "spectral"}, "adjust_lr_fn 'spectral' is unknown; use one of None"),
    ],
)
def test_an_option_that_nobody_knows_is_refused(optimizer, options, message: str) -> None:
    with pytest.raises(hpt.UsageError, match=message):
        OptimizerInfo.of(optimizer, options)


def test_a_shape_factor_of_another_process_is_asked_for_again() -> None:
    info = OptimizerInfo("X", "spectral", True, None, "declared for elsewhere.X")
    with pytest.raises(hpt.UsageError, match="Declare it as where the plan was made"):
        info.own_factor((2, 2))


def test_everything_reads_the_one_table() -> None:
    rows = {row.name: row for row in torch_rows()}
    assert {cls.__name__ for cls in ELEMENTWISE} == {name for name, row in rows.items() if row.lanes}
    assert {name: curvature_of(name) for name in rows} == {name: row.curvature for name, row in rows.items()}
    for row in rows.values():  # what a row says of options, the class must have
        for key in row.averages if row.geometry else ():
            assert class_default(getattr(torch.optim, row.name), key) is not None, (row.name, key)
        assert row.shape in SHAPE_FACTORS and set(row.shape_choices.values()) <= set(SHAPE_FACTORS)
