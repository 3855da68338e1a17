"""What settings do to a model's parameters, as hptransfer.Tuned says it; and which of them would do nothing."""

# pyright: strict
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hptransfer.core.errors import UsageError, nearest
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.options import Tuned
from hptransfer.validation.settings.setting import Setting
from hptransfer.validation.settings.vector import Vector

if TYPE_CHECKING:
    from torch import nn

    from hptransfer.validation.engines.trainer import Trainer

Shape = tuple[int, ...]


def factors_on(vector: Vector, shapes: Mapping[str, Shape]) -> dict[str, Tuned]:
    """Parameter name -> its factors, the product of those of all settings that reach it; others are left out."""
    factors: dict[str, dict[str, float]] = {}
    for setting, value in vector.factors:
        for name in reached(setting, shapes):
            own = factors.setdefault(name, {})
            own[setting.kind] = own.get(setting.kind, 1.0) * value
    return {name: Tuned(**own) for name, own in factors.items()}


def reached(setting: Setting, shapes: Mapping[str, Shape]) -> list[str]:
    """The parameters that a setting is of.

    An initial scale is that of weights: of two axes or more. Gains and biases keep theirs, unless the glob reaches
    nothing else.
    """
    names = [name for name in shapes if setting.reaches(name)]
    weights = [name for name in names if len(shapes[name]) > 1]
    return weights if setting.kind == "init" and (weights or not setting.glob) else names


def refuse_unmatched(setting: Setting, shapes: Mapping[str, Shape]) -> list[str]:
    """The parameters that a setting is of. Raises UsageError where there is none."""
    names = reached(setting, shapes)
    if not names:
        raise UsageError(_unmatched(setting, list(shapes)))
    return names


def refuse_idle(trainer: Trainer, settings: Iterable[Setting]) -> None:
    """Raise UsageError where a setting would change nothing in the recipe's model: a search would compare noise."""
    base = trainer.build(trainer.recipe.base, seed=0)
    trained = {name: parameter for name, parameter in base.named_parameters() if parameter.requires_grad}
    for setting in settings:
        if setting.is_rate:
            continue
        names = refuse_unmatched(setting, {name: tuple(parameter.shape) for name, parameter in trained.items()})
        if setting.kind == "lr" and len(names) == len(trained):
            raise UsageError(f"setting '{setting}' is of every parameter: that is the learning rate itself, 'lr'.")
        if setting.kind == "init" and all(rms(trained[name]) == 0 for name in names):
            raise UsageError(
                f"setting '{setting}': {_some(names)} start{'s' * (len(names) == 1)} at zero in recipe "
                f"{trainer.recipe.name!r}, which has no scale to search. Leave it out."
            )
        if setting.kind == "weight_decay" and not any(_decay(trainer, name, trained[name]) for name in names):
            raise UsageError(
                f"setting '{setting}' is a factor on the base's weight decay, but recipe {trainer.recipe.name!r} gives "
                f"{_some(names)} none. Give the recipe one that is not zero, as optimizer=torch.optim.AdamW, "
                'optimizer_options={"weight_decay": 0.1}; any rough value will do, for its factor is searched.'
            )


def _decay(trainer: Trainer, name: str, parameter: nn.Parameter) -> float:
    """The weight decay that a parameter has at the base."""
    recipe = trainer.recipe
    if recipe.decays is not None and not recipe.decays(name, parameter):
        return 0.0
    plan = trainer.prepare("sp", recipe.base)  # there where two optimizers train: it says which one trains what
    decays = {
        cls.__name__: trainer.base_values(part, cls, 1.0)["weight_decay"] for part, cls in recipe.optimizers.items()
    }
    return float(max(decays.values()) if plan is None else decays[plan[name].optimizer])


def _unmatched(setting: Setting, names: list[str]) -> str:
    modules = sorted({name.rpartition(".")[0] for name in names} - {""})
    likely = nearest(setting.glob, [*names, *modules])
    hint = f"; did you mean '{setting.kind}:{likely}'?" if likely is not None else "."
    return f"setting '{setting}' reaches no trained parameter{hint} There are {_some(names)}."


def _some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
