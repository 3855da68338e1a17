"""Optimizer geometries: what an update looks like before the learning rate, checked on the optimizers themselves."""

from __future__ import annotations

import pytest
import torch

from hptransfer.core.declared import register_optimizer
from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo, geometry_of

SHAPE = (6, 4)


def update(cls, scale: float, **options) -> torch.Tensor:
    """The change of a fresh weight under one step with a gradient of the given scale."""
    weight = torch.nn.Parameter(torch.zeros(SHAPE, dtype=torch.float64))
    weight.grad = scale * torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cls([weight], lr=1.0, **options).step()
    return weight.detach()


@pytest.mark.parametrize("cls", [torch.optim.SGD])
def test_gradient_steps_are_proportional_to_the_gradient(cls) -> None:
    assert geometry_of(cls) == "gradient"
    torch.testing.assert_close(update(cls, 100.0), 100 * update(cls, 1.0))


@pytest.mark.parametrize(
    "cls", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adagrad, torch.optim.RMSprop]
)
def test_sign_steps_do_not_see_the_gradient_s_size(cls) -> None:
    assert geometry_of(cls) == "sign"
    torch.testing.assert_close(update(cls, 100.0), update(cls, 1.0), rtol=1e-5, atol=0)


def test_spectral_steps_have_equal_singular_values() -> None:
    assert geometry_of(torch.optim.Muon) == "spectral"
    weight = torch.nn.Parameter(torch.zeros(SHAPE))
    weight.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(weight.detach()) / OptimizerInfo.of(torch.optim.Muon).own_factor(SHAPE)
    assert values.min() > 0.5 and values.max() < 1.5  # Newton-Schulz's own spread


@pytest.mark.parametrize("factor", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(3, 3), (12, 3), (3, 12)])
def test_muon_s_own_factor_is_the_library_s(factor, shape) -> None:
    library = pytest.importorskip("torch.optim._muon", reason="torch.optim.Muon came with torch 2.9")
    options = {} if factor is None else {"adjust_lr_fn": factor}
    own = OptimizerInfo.of(torch.optim.Muon, options).own_factor(shape)
    assert own == pytest.approx(library._adjust_lr(1.0, factor, torch.Size(shape)))


def test_decay_is_coupled_or_not_as_the_optimizer_does_it() -> None:
    """Decoupled decay shrinks the weight although the gradient is zero, by lr wd and nothing else."""
    for cls in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.NAdam):
        weight = torch.nn.Parameter(torch.full(SHAPE, 3.0))
        weight.grad = torch.zeros(SHAPE)
        cls([weight], lr=0.1, weight_decay=0.5).step()
        shrunk = torch.allclose(weight, torch.full(SHAPE, 3.0 * (1 - 0.05)))
        info = OptimizerInfo.of(cls)
        assert (info.decoupled or info.geometry == "gradient") == shrunk, cls


@pytest.mark.parametrize(("name", "switch"), [("FusedAdam", "adam_w_mode"), ("DeepSpeedCPUAdam", "adamw_mode")])
def test_fused_and_offloaded_adam_decay_as_adamw_unless_told_otherwise(name: str, switch: str) -> None:
    """By default: apex.optimizers.FusedAdam(adam_w_mode=True), deepspeed.ops.adam.DeepSpeedCPUAdam(adamw_mode=True)."""
    assert OptimizerInfo.of(name).decoupled
    assert OptimizerInfo.of(name, {switch: True}).decoupled
    assert OptimizerInfo.of(name, {switch: False}).l2_in_step


def test_an_adam_of_eight_bits_decays_as_its_library_does_it() -> None:
    """bitsandbytes decays Adam as AdamW; torchao's Adam8bit, like torch's Adam, adds L2 to the gradient."""
    for name in ("Adam", "Adam8bit", "PagedAdamW32bit", "Lion8bit"):
        theirs = type(name, (torch.optim.Optimizer,), {"__module__": "bitsandbytes.optim.adam"})
        assert OptimizerInfo.of(theirs).decoupled
    for name in ("Adam8bit", "Adam4bit", "AdamFp8"):
        other = type(name, (torch.optim.Optimizer,), {"__module__": "torchao.optim.adam"})
        assert OptimizerInfo.of(other).l2_in_step
    rmsprop = type("RMSprop", (torch.optim.Optimizer,), {"__module__": "bitsandbytes.optim.rmsprop"})
    assert OptimizerInfo.of(rmsprop).l2_in_step


def test_eps_comes_from_options_or_the_class() -> None:
    assert OptimizerInfo.of(torch.optim.AdamW).default_eps == 1e-8
    assert OptimizerInfo.of(torch.optim.AdamW, {"eps": 1e-5}).default_eps == 1e-5
    assert OptimizerInfo.of(torch.optim.SGD).default_eps is None


def test_an_unknown_optimizer_is_refused_until_declared() -> None:
    class Mine(torch.optim.SGD):
        pass

    assert geometry_of(Mine) == "gradient"  # by what it derives from

    class Novel(torch.optim.Optimizer):
        pass

    with pytest.raises(
        UsageError, match=r"'Novel' is not known. Declare it once: hptransfer.register_optimizer\(Novel"
    ):
        geometry_of(Novel)
    register_optimizer(Novel, "sign", decoupled=False)
    assert geometry_of(Novel) == "sign" and OptimizerInfo.of(Novel).l2_in_step
    assert OptimizerInfo.of(Novel).eps_ratio(0.25) == 0.25  # beside a root of the second moment, unless told otherwise
    register_optimizer(Novel, "sign", eps_power=2.0)
    assert OptimizerInfo.of(Novel).eps_ratio(0.25) == 0.0625 and OptimizerInfo.of(Novel).decoupled
    with pytest.raises(UsageError, match="'signed' is unknown"):
        register_optimizer(Novel, "signed")  # type: ignore[arg-type]
