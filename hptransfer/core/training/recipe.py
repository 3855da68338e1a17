"""A recipe: how to build, feed and train a model at any scale. Needed only where something must be trained."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import RECIPE_ERRORS, UsageError, bounded, near
from hptransfer.core.secrets import masked
from hptransfer.core.training.recipe_file import recipe_file
from hptransfer.core.training.scale import Axis as Axis
from hptransfer.core.training.scale import Scale as Scale
from hptransfer.core.training.units import unit_named

PAIR = ("hidden", "rest")
"""The parts of a model that two optimizers train: its hidden matrices, and everything else."""

Batch = Any
"""Whatever the recipe's own `batches` yields and its `loss` takes: a tensor or a (nested) tuple/dict of tensors."""


def warmup_linear(progress: float, *, warmup: float = 0.1) -> float:
    """LR factor: linear warm-up over the first `warmup` of the run, then linear to zero. progress in (0, 1)."""
    return progress / warmup if progress < warmup else (1.0 - progress) / (1.0 - warmup)


@dataclass(frozen=True)
class Recipe:
    """Everything needed to train one model at any scale.

    build: scale -> a freshly initialised model (torch's global RNG is seeded by the caller beforehand).
    batches: (scale, seed) -> an endless iterator of training batches on CPU.
    loss: (model, batch) -> scalar tensor, the mean loss of the batch (differentiable; nats for language models).
    validation: () -> a fixed, finite list of batches; the validation loss is the mean of `loss` over them.
    example_inputs: () -> the positional arguments of one forward call, used to trace the model's graph.
    base: the scale at which the user's hyperparameters keep their meaning (the plan is the identity there).
    optimizer: the class; optimizer_options: its keyword options other than lr (betas, weight_decay, momentum...).
    Or a pair, {"hidden": Muon, "rest": AdamW}, with options under the same keys: what is swept is then the rate of
    "hidden", and that of "rest" keeps the ratio of the two `lr` among the options (1 where they have none).
    steps: optimizer steps of one run; schedule: progress -> factor on the LR, where step t of T
    has progress (t + 1/2) / T, so that it lies strictly between 0 and 1.
    accumulate: batches of `batches` per optimizer step, whose gradients are averaged. clip_norm: bound of the whole
    gradient's norm. decays: (name, parameter) -> whether weight decay applies; None = to all. autocast: the dtype that
    forward passes run in, as torch.bfloat16; weights and optimizer keep their own.
    widths, lrs, seeds: the defaults of `hptransfer check`; quick: fields to replace under `--quick`
    (for example {"steps": 100, "widths": (32, 64, 128)}).
    unit: what base.batch and base.tokens count: "examples", "sequences", "images" or "tokens"; tokens_per_example: of
    one of them, so that a target may be given in tokens as well.
    """

    build: Callable[[Scale], nn.Module]
    batches: Callable[[Scale, int], Iterator[Batch]]
    loss: Callable[[nn.Module, Batch], Tensor]
    validation: Callable[[], Sequence[Batch]]
    example_inputs: Callable[[], tuple[Any, ...]]
    base: Scale
    name: str = "recipe"
    optimizer: type[torch.optim.Optimizer] | Mapping[str, type[torch.optim.Optimizer]] = torch.optim.AdamW
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    clip_norm: float | None = None
    decays: Callable[[str, Tensor], bool] | None = None
    autocast: torch.dtype | None = None
    steps: int = 300
    schedule: Callable[[float], float] = warmup_linear
    widths: tuple[int, ...] = ()
    lrs: tuple[float, ...] = ()
    seeds: int = 3
    quick: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "examples"
    tokens_per_example: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"Recipe {self.name!r}: steps={self.steps}, but at least 1 is needed.")
        self._check_step()
        object.__setattr__(self, "unit", unit_named(self.unit))
        if self.tokens_per_example is not None and not self.tokens_per_example > 0:
            raise UsageError(f"Recipe {self.name!r}: tokens_per_example={self.tokens_per_example!r} must be positive.")
        unknown = set(self.quick) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            raise UsageError(f"Recipe {self.name!r}: quick names unknown fields {sorted(unknown)}.")
        if isinstance(self.optimizer, Mapping) and (
            set(self.optimizer) != set(PAIR) or not set(self.optimizer_options) <= set(PAIR)
        ):
            raise UsageError(
                f"Recipe {self.name!r}: a pair of optimizers stands under 'hidden' and 'rest', and so do its options; "
                f"got {sorted(self.optimizer)} and {sorted(self.optimizer_options)}."
            )

    def _check_step(self) -> None:
        here = f"Recipe {self.name!r}: "
        if isinstance(self.accumulate, bool) or not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise UsageError(f"{here}accumulate={self.accumulate!r} must be a whole number, at least 1.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"{here}clip_norm={self.clip_norm!r} must be positive; None clips nothing.")
        if self.autocast not in (None, torch.bfloat16):
            raise UsageError(
                f"{here}autocast={self.autocast!r}: only torch.bfloat16 trains without loss scaling, which there is "
                "not; give that, or None."
            )

    @property
    def optimizer_name(self) -> str:
        """The class's name; of a pair "Muon + AdamW"."""
        return " + ".join(dict.fromkeys(cls.__name__ for cls in self.optimizers.values()))

    @property
    def optimizers(self) -> dict[str, type[torch.optim.Optimizer]]:
        """ "rest", and of a pair "hidden" before it -> class."""
        if isinstance(self.optimizer, Mapping):
            return {part: self.optimizer[part] for part in PAIR}
        return {"rest": self.optimizer}

    @property
    def one_optimizer(self) -> type[torch.optim.Optimizer]:
        """The optimizer's class. Raises UsageError of a pair, for what can be done with one only."""
        if isinstance(self.optimizer, Mapping):
            raise UsageError(f"Recipe {self.name!r} trains with {self.optimizer_name}; this needs one optimizer.")
        return self.optimizer

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def quickened(self) -> Recipe:
        """The recipe with its own `quick` settings applied."""
        return self.replace(**self.quick)


def load_recipe(spec: str) -> Recipe:
    """The recipe that `path/to/FILE.py[:name]` names; without a name, the file's `recipe`.

    Raises UsageError where the file cannot be read or run, or holds no such recipe.
    """
    path, name = recipe_file(spec)
    module_name = f"hptransfer_recipe_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"{path} is not a Python file. Give FILE.py or FILE.py:name.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    try:
        module_spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, Recipe):
            found = found()
    except RECIPE_ERRORS as error:
        raise UsageError(
            f"{path} raised {type(error).__name__} while being loaded: {bounded(masked(str(error)))}"
        ) from error
    if not isinstance(found, Recipe):
        have = sorted(k for k, v in vars(module).items() if isinstance(v, Recipe))
        raise UsageError(
            f"{path} has no recipe named {name!r}{near(name, have)} It has {have or 'none'}. Use FILE.py:name."
        )
    return found
