"""The subcommands in one table: what each is called, where it lives, and its line of help, known without importing it.

A name is what the command does, a verb; a numeric check of something is that thing's name and `-check`.
"""

# pyright: strict
from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from hptransfer.core.errors import nearest


@dataclass(frozen=True)
class Command:
    """A subcommand.

    name: what one types; module: within hptransfer.cli, with `configure(parser)` and `run(args) -> exit code`, which
    imports no torch by itself; help: its line in `hptransfer --help`; former: names that it had, which still work.
    """

    name: str
    module: str
    help: str
    former: tuple[str, ...] = ()

    def load(self) -> ModuleType:
        """Its module."""
        return import_module(f"hptransfer.cli.{self.module}")


_TABLE = (
    Command("init", "plans.init", "write a commented recipe to start from, which runs as it is"),
    Command("plan", "plans.plan", "how every hyperparameter changes at another size, and why; verified in seconds"),
    Command("check", "checks.check", "the main job: does the learning rate transfer over width, or depth?"),
    Command("judge", "checks.judge", "the same verdict on runs you already have (CSV, W&B, Optuna)"),
    Command("predict", "forecasts.predict", "derive a target run's values before it runs"),
    Command("coord-check", "plans.coord_check", "do activations and updates keep their size over width?"),
    Command(
        "equilibrium-check",
        "plans.equilibrium",
        "does weight decay keep its timescale, and do weights turn equally fast, over width?",
        ("equilibrium",),
    ),
    Command("sweep", "checks.sweep", "train over widths or depths, learning rates and seeds"),
    Command("tune", "checks.tune", "tune the rate, weight decay, initial scale and factors of modules at the base"),
    Command("study", "checks.study", "tune the learning rate of proxies with Optuna"),
    Command("work", "checks.worker", "join a check or study over its storage", ("worker",)),
    Command("report", "checks.report", "render report.html from the files of a check"),
    Command("monitor", "checks.monitor", "report on a run that hptransfer.Monitor watched"),
    Command("review", "forecasts.ledger", "how often forecasts held, law by law", ("ledger",)),
    Command("score", "forecasts.score", "score published learning-rate laws on a table of runs", ("predict score",)),
    Command("fit", "forecasts.laws", "fit loss laws to your own runs, and split a budget by them", ("laws",)),
    Command(
        "mechanics-check",
        "forecasts.mechanics",
        "hold learning mechanics' theories against simulations",
        ("mechanics",),
    ),
)
COMMANDS = {command.name: command for command in _TABLE}
"""Every subcommand by name, in the order of `hptransfer --help`."""
_FORMER = {former: command for command in _TABLE for former in command.former}


def as_now_called(arguments: list[str]) -> list[str]:
    """The arguments with a former name of a subcommand, of one word or two, replaced by today's."""
    for words in (2, 1):
        if (command := _FORMER.get(" ".join(arguments[:words]))) is not None:
            return [command.name, *arguments[words:]]
    return arguments


def nearest_command(word: str) -> str | None:
    """The subcommand that an unknown word may have meant, under today's name."""
    likely = nearest(word, [*COMMANDS, *_FORMER])
    return None if likely is None else _FORMER[likely].name if likely in _FORMER else likely
