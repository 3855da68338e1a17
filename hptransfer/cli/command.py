"""The command line's entry point: picks the subcommand, and turns bad input into one line and exit code 2.

Exit codes: 0 pass or done, 1 the check failed, 2 usage or bad input, 3 the check could not decide, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from hptransfer.cli.arguments import recipe_options, restored_environment
from hptransfer.cli.commands import as_now_called
from hptransfer.cli.exits import INTERRUPTED, REFUSED, no_silent_exit
from hptransfer.cli.output import results_alone, settled
from hptransfer.cli.parser import build_parser, refuse_unknown
from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own) and return its exit code."""
    given = as_now_called(list(sys.argv[1:] if argv is None else argv))
    try:
        if given and not given[0].startswith("-"):
            refuse_unknown(given[0])
        args, rest = build_parser(given[:1]).parse_known_args(given)
    except UsageError as error:
        return _refuse(None, str(error))
    args.rest, args.given = rest, given
    with results_alone(), no_silent_exit(), restored_environment():
        return settled(_run(args))


def _run(args: Any) -> int:
    """The exit code of the command; what it raises, a recipe's sys.exit too, becomes one line on stderr."""
    try:
        if hasattr(args, "recipe"):
            recipe_options(args)  # what is wrong with them is said before anything of size is imported
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
    print(" ".join(["hptransfer", *filter(None, [getattr(args, "command", "")])]) + f": {line}", file=sys.stderr)
    return REFUSED
