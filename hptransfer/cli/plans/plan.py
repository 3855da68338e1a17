"""Show how every hyperparameter of a recipe's model changes at another size, with the reason for each."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

from hptransfer.cli.arguments import add_format, add_recipe, recipe_of
from hptransfer.cli.output import show
from hptransfer.cli.results.formats import Forms, folded, show_as
from hptransfer.cli.results.next_step import after_plan
from hptransfer.core.errors import UsageError
from hptransfer.core.files import json_text
from hptransfer.parametrization.options import ExportForm, Options

if TYPE_CHECKING:
    from hptransfer.core.training.recipe import Recipe
    from hptransfer.parametrization.plan import Plan


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
    parser.add_argument("--tuned", metavar="FILE", help="tuned.json of `hptransfer tune`, whose factors join the plan")
    parser.add_argument("--save", metavar="FILE", help="write the plan as JSON")
    forms = get_args(ExportForm)
    parser.add_argument(
        "--export", metavar="FORM", choices=forms, help=f"print it for another tool: {', '.join(forms)}"
    )
    parser.add_argument("--lr", type=float, help="with --export: the base's learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="with --export: the base's; default 0")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    if args.verify:
        return _verified(recipe, args)
    plan = plan_of(recipe, args)
    if args.save:
        plan.save(args.save)
    if args.export:
        show(plan.export(args.export, lr=args.lr, weight_decay=args.weight_decay))
    elif args.explain:
        show(_explained(plan, args.explain))
    else:
        show_as(args.format, _forms(plan), then=after_plan(plan, args))
    return 1 if plan.verification is not None and plan.verification.state == "failed" else 0


def plan_of(recipe: Recipe, args: argparse.Namespace) -> Plan:
    """The recipe's plan at the asked size, checked at small ones unless one parameter or an export is asked for."""
    from hptransfer.checks.verified import recipe_plan

    width = args.width if args.width is not None else max(recipe.widths, default=recipe.base.width)
    scale = recipe.base.with_(width=width, **({} if args.depth is None else {"depth": args.depth}))
    chosen = {} if args.optimizer is None else {"optimizer": args.optimizer}
    verify = not (args.no_verify or args.explain or args.export)
    plan = recipe_plan(
        recipe, scale, verify=verify, scheme=args.scheme, options=Options(forward=args.forward), **chosen
    )
    return plan if args.tuned is None else _with_tuned(plan, args.tuned)


def _with_tuned(plan: Plan, path: str) -> Plan:
    """The plan with the factors of a tuned.json. What was verified holds: they are the same at every size."""
    from hptransfer.parametrization.tuned import tuned_plan
    from hptransfer.validation.settings.effect import factors_on
    from hptransfer.validation.settings.tuned import tuned_of

    vector, _ = tuned_of(path)
    return tuned_plan(plan, factors_on(vector, {row.name: row.shape for row in plan}))


def _verified(recipe: Recipe, args: argparse.Namespace) -> int:
    """Print measured and planned exponents side by side; exit code 1 unless they agree."""
    from hptransfer.checks.oracle.verify import verify_plan

    chosen = {} if args.optimizer is None else {"optimizer": args.optimizer}
    report = verify_plan(recipe, scheme=args.scheme, options=Options(forward=args.forward), **chosen)
    show(json_text(report.to_json()) if args.format == "json" else report)
    return 0 if report.ok else 1


def _forms(plan: Plan) -> Forms:
    """The plan for every form: a record a parameter, a line for layers that differ only in their index."""
    records = [
        {
            "parameter": row.name,
            "shape": "x".join(map(str, row.shape)),
            "role": row.role,
            "init_mult": row.init_mult,
            "lr_mult": row.lr_mult,
            "wd_mult": row.wd_mult,
            "eps_mult": row.eps_mult,
            "fwd_mult": row.fwd_mult,
            "why": "; ".join(row.why),
        }
        for row in plan
    ]
    return Forms(text=folded(str(plan)), data=plan.to_json, records=records, cells=plan.cells, notes=plan.beside)


def _explained(plan: Plan, name: str) -> str:
    try:
        return plan.explain(name)
    except KeyError as error:
        raise UsageError(f"--explain: {error.args[0]}") from error
