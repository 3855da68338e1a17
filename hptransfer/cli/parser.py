"""The parser of the whole command. Only the subcommand that was asked for is imported and gets its options."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import NoReturn

from hptransfer._version import __version__
from hptransfer.cli.commands import COMMANDS, nearest_command
from hptransfer.core.errors import UsageError, meant

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("RECIPE", "RUNS.csv", "TABLE.csv", "FILE", "FILE.svg")
"""Placeholders of arguments that name a file; DIR names a folder."""


class Parser(argparse.ArgumentParser):
    """argparse, with its errors on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


class _Completion(argparse.Action):
    """Prints a completion script, which knows every option of every subcommand, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object, **_: object) -> NoReturn:
        print(completion(str(given[1])))
        parser.exit(0)


def build_parser(asked: Collection[str] = tuple(COMMANDS)) -> Parser:
    """The parser, with the options of those subcommands that are asked for; by default of all."""
    parser = Parser(prog="hptransfer", description="Tune small, prove that it transfers, train big.")
    parser.add_argument("--version", action="version", version=f"hptransfer {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, metavar="SHELL", help=f"for {', '.join(SHELLS)}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, allow_abbrev=False)
        if name not in asked:
            continue
        module = command.load()
        sub.description = (module.__doc__ or "").partition("\n")[0]
        module.configure(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error, and warnings")
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def refuse_unknown(word: str) -> None:
    """Raise UsageError where a word in a subcommand's place is none."""
    if word not in COMMANDS:
        raise UsageError(f"there is no command {word!r}{meant(nearest_command(word))} There are {', '.join(COMMANDS)}.")


def completion(shell: str) -> str:
    """A script for the shell that completes subcommands, options, their values and files.

    Raises UsageError where shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UsageError("--print-completion needs shtab: pip install shtab") from error
    parser = build_parser()
    files = {"DIR": shtab.DIRECTORY, **dict.fromkeys(FILES, shtab.FILE)}
    for sub in _subparsers(parser):
        for action in sub._actions:
            if isinstance(action.metavar, str) and action.metavar in files:
                action.complete = files[action.metavar]  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(parser, shell=shell)


def _subparsers(parser: Parser) -> list[Parser]:
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return [sub for action in actions for sub in action.choices.values()]
