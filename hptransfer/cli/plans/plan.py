"""Show how every hyperparameter of a recipe's model changes at another size, with the reason for each."""

from __future__ import annotations

import argparse

from hptransfer.checks.oracle.verify import verify_plan
from hptransfer.checks.verified import recipe_plan
from hptransfer.cli.arguments import add_json, add_recipe, recipe_of
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import json_text
from hptransfer.core.training.recipe import Recipe
from hptransfer.parametrization.interop.export import FORMS
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan

HELP = "how every hyperparameter changes at another size, and why; checked in seconds at small sizes"


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--width", type=int, help="of the target; default: the recipe's largest")
    parser.add_argument("--depth", type=int, help="of the target; default: the base's")
    parser.add_argument("--scheme", default="mup", help="mup (default), sp, completep, ...")
    parser.add_argument(
        "--forward", default="own", help="own (default), or unit: weights' outputs of rms 1 at the base"
    )
    parser.add_argument("--optimizer", help="class name, as AdamW or SGD; default: the recipe's")
    parser.add_argument("--explain", metavar="NAME", help="the rule, numbers and equation of one parameter")
    checked = parser.add_mutually_exclusive_group()
    checked.add_argument(
        "--verify", action="store_true", help="print every exponent measured at small sizes, in place of the plan"
    )
    checked.add_argument("--no-verify", action="store_true", help="leave the check at small sizes out")
    parser.add_argument("--save", metavar="FILE", help="write the plan as JSON")
    parser.add_argument(
        "--export", metavar="FORM", choices=tuple(FORMS), help=f"print it for another tool: {', '.join(FORMS)}"
    )
    parser.add_argument("--lr", type=float, help="with --export: the base's learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="with --export: the base's; default 0")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    if args.verify:
        return _verified(recipe, args)
    plan = plan_of(recipe, args)
    if args.save:
        plan.save(args.save)
    if args.json:
        show(json_text(plan.to_json()))
    elif args.export:
        show(plan.export(args.export, lr=args.lr, weight_decay=args.weight_decay))
    elif args.explain:
        show(_explained(plan, args.explain))
    else:
        show(plan)
    return 1 if plan.verification is not None and plan.verification.state == "failed" else 0


def plan_of(recipe: Recipe, args: argparse.Namespace) -> Plan:
    """The recipe's plan at the asked size, checked at small ones unless one parameter or an export is asked for."""
    width = args.width if args.width is not None else max(recipe.widths, default=recipe.base.width)
    scale = recipe.base.with_(width=width, **({} if args.depth is None else {"depth": args.depth}))
    chosen = {} if args.optimizer is None else {"optimizer": args.optimizer}
    verify = not (args.no_verify or args.explain or args.export)
    return recipe_plan(
        recipe, scale, verify=verify, scheme=args.scheme, options=Options(forward=args.forward), **chosen
    )


def _verified(recipe: Recipe, args: argparse.Namespace) -> int:
    """Print measured and planned exponents side by side; exit code 1 unless they agree."""
    chosen = {} if args.optimizer is None else {"optimizer": args.optimizer}
    report = verify_plan(recipe, scheme=args.scheme, options=Options(forward=args.forward), **chosen)
    show(json_text(report.to_json()) if args.json else report)
    return 0 if report.ok else 1


def _explained(plan: Plan, name: str) -> str:
    try:
        return plan.explain(name)
    except KeyError as error:
        raise UsageError(f"--explain: {error.args[0]}") from error
