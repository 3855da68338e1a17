"""Train every width until weight decay has forgotten the start; judge whether its pace, and the weights', is kept."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING, Any, get_args

from hptransfer.cli.arguments import (
    add_grid,
    add_json,
    add_recipe,
    given,
    output_directory,
    present,
    recipe_of,
    seed_count,
)
from hptransfer.core.errors import UsageError
from hptransfer.parametrization.options import DecayRule

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe

RULES: tuple[str, ...] = get_args(DecayRule)


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_grid(parser, steps_help="optimizer steps, at least 8; default: 120")
    parser.add_argument("--lr", type=float, help="learning rate, held constant; default: the middle of the recipe's")
    parser.add_argument(
        "--weight-decay", type=float, metavar="WD", help="of the base; default: a timescale of a third of the steps"
    )
    parser.add_argument(
        "--rules",
        default=RULES[0],
        help=f"comma list of {', '.join(RULES)}; the first decides the exit code; default: {RULES[0]}",
    )
    parser.add_argument("--optimizer", help="class name with decoupled decay, as AdamW; default: the recipe's")
    parser.add_argument("--scheme", default="mup", help="mup (default), sp, completep, ...")
    parser.add_argument("--out", metavar="DIR", help="where equilibrium.json goes; default: hptransfer-out/<recipe>")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    rules = _rules(args.rules)
    from hptransfer.checks.equilibrium.check import equilibrium_check
    from hptransfer.validation.grid import checked_device

    recipe = _with_optimizer(recipe_of(args), args.optimizer)
    out = output_directory(args, recipe)
    report = equilibrium_check(
        recipe,
        widths=args.widths or recipe.widths,
        rules=rules,
        scheme=args.scheme,
        device=checked_device(args.device),
        **given(seeds=seed_count(args), steps=args.steps, lr=args.lr, weight_decay=args.weight_decay),
    )
    return present(report, out / "equilibrium.json", args)


def _with_optimizer(recipe: Recipe, name: str | None) -> Recipe:
    """The recipe with another optimizer of torch.optim; options that both take are kept."""
    import torch

    if name is None:
        return recipe
    chosen = getattr(torch.optim, name, None)
    if not (isinstance(chosen, type) and issubclass(chosen, torch.optim.Optimizer)):
        raise UsageError(f"--optimizer {name}: torch.optim has no such optimizer; give its class name, as AdamW.")
    known = inspect.signature(chosen).parameters
    options = {key: value for key, value in recipe.optimizer_options.items() if key in known}
    return recipe.replace(optimizer=chosen, optimizer_options=options)


def _rules(text: str) -> list[Any]:
    """ "independent,coupled" -> the rules' names."""
    rules = text.split(",")
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"--rules {text}: {rule!r} is not a weight-decay rule; use {', '.join(RULES)}.")
    return rules
