"""Parameter names behind wrappers: DDP, torch.compile, FSDP and activation checkpointing prefix them."""

from __future__ import annotations

import re

from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.plan import Plan

_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_module")


def plain_names(model: nn.Module, plan: Plan) -> dict[str, nn.Parameter]:
    """Plan name -> parameter of the (possibly wrapped) model, each shared parameter once.

    Raises UsageError where the model has parameters that the plan does not, lacks some, or has other shapes.
    """
    found = {_plain(name, plan): parameter for name, parameter in model.named_parameters()}
    missing, extra = [n for n in plan.rows if n not in found], [n for n in found if n not in plan.rows]
    if missing or extra:
        raise UsageError(
            f"The model does not match its plan: the plan knows no {extra[:3] or 'other parameters'}, the model lacks "
            f"{missing[:3] or 'none'}. Make the plan from this model, before anything renames its parameters."
        )
    for name, parameter in found.items():
        if tuple(parameter.shape) != plan.rows[name].shape:
            raise UsageError(
                f"{name!r} has shape {tuple(parameter.shape)}, but the plan was made for {plan.rows[name].shape}. "
                f"A plan holds for one size; make one for this model."
            )
    return found


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name without wrappers -> innermost module of that name; DDP's "module." is taken off where all stand under it."""
    found = {_bare(name): module for name, module in model.named_modules()}
    inner = {name.removeprefix("module.") for name in found if name not in {"", "module"}}
    if "module" in found and all(name == "" or (name + ".").startswith("module.") for name in found):
        return {"": found["module"], **{name: found["module." + name] for name in inner}}
    return found


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _INFIXES)


def _plain(name: str, plan: Plan) -> str:
    bare = _bare(name)
    # a name of a parametrized model's own stays; one that the plan's multipliers gave is taken back
    outside = re.sub(r"(^|\.)parametrizations\.([^.]+)\.original$", r"\1\2", bare)
    for candidate in (form.removeprefix(prefix) for form in (bare, outside) for prefix in ("", "module.")):
        if candidate in plan.rows:
            return candidate
        if candidate in plan.aliases:
            return plan.aliases[candidate]
    return bare
