"""The command line's entry point: picks the subcommand, and turns bad input into one line and exit code 2.

Exit codes: 0 pass or done, 1 the check failed, 2 usage or bad input, 3 the check could not decide, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hptransfer.cli.arguments import Parser, add_debug, restored_environment
from hptransfer.cli.exits import INTERRUPTED, REFUSED, no_silent_exit
from hptransfer.cli.output import results_alone, settled
from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked

if TYPE_CHECKING:  # what COMMANDS names, imported when it is asked for
    from hptransfer.cli.checks import check as check
    from hptransfer.cli.checks import judge as judge
    from hptransfer.cli.checks import report as report
    from hptransfer.cli.checks import study as study
    from hptransfer.cli.checks import sweep as sweep
    from hptransfer.cli.checks import worker as worker
    from hptransfer.cli.forecasts import laws as laws
    from hptransfer.cli.forecasts import ledger as ledger
    from hptransfer.cli.forecasts import mechanics as mechanics
    from hptransfer.cli.forecasts import predict as predict
    from hptransfer.cli.plans import coord_check as coord_check
    from hptransfer.cli.plans import equilibrium as equilibrium
    from hptransfer.cli.plans import plan as plan

COMMANDS: dict[str, str] = {
    "plan": "plans.plan",
    "coord-check": "plans.coord_check",
    "equilibrium": "plans.equilibrium",
    "sweep": "checks.sweep",
    "check": "checks.check",
    "judge": "checks.judge",
    "predict": "forecasts.predict",
    "mechanics": "forecasts.mechanics",
    "laws": "forecasts.laws",
    "ledger": "forecasts.ledger",
    "report": "checks.report",
    "study": "checks.study",
    "worker": "checks.worker",
}
"""Where each one is: a module with `HELP`, `configure(parser)` and `run(args) -> exit code`."""


def build_parser(names: Iterable[str] = tuple(COMMANDS)) -> Parser:
    """The parser of the whole command, or of some subcommands: only theirs are imported, which takes seconds."""
    parser = Parser(prog="hptransfer", description="Tune small, prove that it transfers, train big.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in names:
        module = importlib.import_module(f"hptransfer.cli.{COMMANDS[name]}")
        described = (module.__doc__ or "").partition("\n")[0]
        sub = commands.add_parser(name, help=module.HELP, description=described, allow_abbrev=False)
        module.configure(sub)
        add_debug(sub)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own) and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:2] == ["predict", "score"] and {"-h", "--help"} & set(given):
        importlib.import_module("hptransfer.cli.forecasts.score").parser().parse_args(["--help"])
    wanted = given[:1] if given and given[0] in COMMANDS else COMMANDS
    args, rest = build_parser(wanted).parse_known_args(given)
    args.rest, args.given = rest, given
    with results_alone(), no_silent_exit(), restored_environment():
        return settled(_run(args))


def _run(args: Any) -> int:
    """The exit code of the command; what it raises, a recipe's sys.exit too, becomes one line on stderr."""
    try:
        return args.run(args)
    except UsageError as error:
        return _refuse(args, str(error))
    except KeyboardInterrupt:
        print("Interrupted. Finished runs are kept; the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:
        return _refuse(args, f"the recipe ended the process with sys.exit({stop.code!r}) before there was a result.")
    except Exception as error:
        where = f"{type(error).__name__}: {error}"
        return _refuse(args, f"{where} (unexpected; --debug shows where)")


def _refuse(args: object, message: str) -> int:
    if getattr(args, "debug", False):
        print(masked(traceback.format_exc()), file=sys.stderr)
    line = bounded(masked(message), 2000)
    print(f"hptransfer {getattr(args, 'command', '')}: {line}", file=sys.stderr)
    return REFUSED


def _version() -> str:
    from hptransfer import __version__

    return f"hptransfer {__version__}"
