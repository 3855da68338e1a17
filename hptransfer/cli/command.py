"""The command line's entry point: picks the subcommand, and turns bad input into one line and exit code 2.

Exit codes: 0 pass or done, 1 the check failed or could not decide, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from hptransfer.cli import (
    check,
    coord_check,
    equilibrium,
    laws,
    ledger,
    mechanics,
    plan,
    predict,
    report,
    study,
    sweep,
    worker,
)
from hptransfer.cli.arguments import Parser, add_debug, restored_environment
from hptransfer.core.errors import UsageError

COMMANDS: dict[str, ModuleType] = {
    "plan": plan,
    "coord-check": coord_check,
    "equilibrium": equilibrium,
    "sweep": sweep,
    "check": check,
    "predict": predict,
    "mechanics": mechanics,
    "laws": laws,
    "ledger": ledger,
    "report": report,
    "study": study,
    "worker": worker,
}
"""Each module has `HELP`, `configure(parser)` and `run(args) -> exit code`."""


def build_parser() -> Parser:
    """The parser of the whole command."""
    parser = Parser(prog="hptransfer", description="Tune small, prove that it transfers, train big.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
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
        predict.score.parser().parse_args(["--help"])
    args, rest = build_parser().parse_known_args(given)
    args.rest, args.given = rest, given
    try:
        with restored_environment():
            code = args.run(args)
            sys.stdout.flush()
            return code
    except UsageError as error:
        return _refuse(args, str(error))
    except KeyboardInterrupt:
        print("Interrupted. Finished runs are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        where = f"{type(error).__name__}: {error}"
        return _refuse(args, f"{where} (unexpected; --debug shows where)")


def _refuse(args: object, message: str) -> int:
    if getattr(args, "debug", False):
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"hptransfer {getattr(args, 'command', '')}: {line}", file=sys.stderr)
    return 2


def _version() -> str:
    from hptransfer import __version__

    return f"hptransfer {__version__}"
