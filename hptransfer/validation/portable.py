"""A trainer in a form that another process can rebuild without inheriting this one's memory."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.recipe import Recipe, load_recipe
from hptransfer.validation.trainer import Trainer

_PREFIX = "hptransfer_recipe_"


@dataclass(frozen=True)
class Portable:
    """Where a recipe comes from and how it was changed since: the file, the name in it, and the pickled changes."""

    spec: str | None
    pickled: bytes
    """With a spec: (changed fields, device, plan options, plans); without: (recipe, device, plan options, plans)."""

    @classmethod
    def of(cls, trainer: Trainer) -> Portable:
        """Raises UsageError where the recipe neither pickles nor comes from a recipe file."""
        recipe = trainer.recipe.replace(validation=trainer.recipe.validation.__wrapped__)  # type: ignore[attr-defined]
        rest = (trainer.device, trainer.plan_options, trainer.plans)
        for spec, origin in _loaded_recipes():
            changes = {k: v for k, v in vars(recipe).items() if v is not vars(origin)[k] and v != vars(origin)[k]}
            if not any(callable(v) and not isinstance(v, type) for v in changes.values()):
                return cls(spec, pickle.dumps((changes, *rest)))
        try:
            return cls(None, pickle.dumps((recipe, *rest)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"Recipe {recipe.name!r} cannot be sent to worker processes here ({error}). Put it in a file and load "
                "it with load_recipe('FILE.py:name'), or use workers=1."
            ) from error

    def trainer(self) -> Trainer:
        """The trainer, rebuilt in this process."""
        found, device, plan_options, plans = pickle.loads(self.pickled)
        recipe = load_recipe(self.spec).replace(**found) if self.spec is not None else found
        trainer = Trainer(recipe, device=device, plan_options=plan_options)
        trainer.plans.update(plans)
        return trainer


def _loaded_recipes() -> list[tuple[str, Recipe]]:
    """(FILE.py:name, recipe) of every recipe in the files that load_recipe has loaded."""
    modules: list[Any] = [m for n, m in list(sys.modules.items()) if n.startswith(_PREFIX)]
    return [
        (f"{module.__file__}:{name}", value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Recipe)
    ]
