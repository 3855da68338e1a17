"""A recipe in a form that another process can rebuild without inheriting this one's memory."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, load_recipe

_PREFIX = "hptransfer_recipe_"  # the names that load_recipe gives the modules it loads


@dataclass(frozen=True)
class Portable:
    """spec: FILE.py:name, and pickled: the fields changed since; or no spec, and the whole recipe pickled."""

    spec: str | None
    pickled: bytes

    @classmethod
    def of(cls, recipe: Recipe) -> Portable:
        """Raises UsageError where the recipe neither comes from a recipe file nor pickles."""
        for spec, origin in _loaded_recipes():
            changes = {k: v for k, v in vars(recipe).items() if v is not vars(origin)[k] and v != vars(origin)[k]}
            if not any(callable(v) and not isinstance(v, type) for v in changes.values()):
                return cls(spec, pickle.dumps(changes))
        try:
            return cls(None, pickle.dumps(recipe))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"Recipe {recipe.name!r} cannot be sent to worker processes here ({error}). Put it in a file and load "
                "it with load_recipe('FILE.py:name'), or use workers=1."
            ) from error

    def recipe(self) -> Recipe:
        """The recipe, rebuilt in this process."""
        found = pickle.loads(self.pickled)
        return found if self.spec is None else load_recipe(self.spec).replace(**found)


def _loaded_recipes() -> list[tuple[str, Recipe]]:
    """(FILE.py:name, recipe) of every recipe in the files that load_recipe has loaded."""
    modules: list[Any] = [m for n, m in list(sys.modules.items()) if n.startswith(_PREFIX)]
    return [
        (f"{module.__file__}:{name}", value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Recipe)
    ]
