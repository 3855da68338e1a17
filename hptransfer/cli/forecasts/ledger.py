"""Forecasts and their outcomes: how often each law's intervals held what was found, against what they state."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import add_json, no_more
from hptransfer.cli.output import show
from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns, encode, json_text

if TYPE_CHECKING:
    from hptransfer.validation.forecasts.ledger import Entry, Standing


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="where predict wrote its forecasts (its --out)")
    parser.add_argument("--observe", nargs=2, metavar=("KEY", "LR"), help="enter the best rate found for a forecast")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.validation.forecasts.ledger import LEDGER_FILE, observe, read_ledger, standings

    if args.observe:
        key, text = args.observe
        try:
            observe(args.directory, key, float(text))
        except ValueError:
            raise UsageError(f"--observe {key} {text}: {text!r} is not a number.") from None
    entries = read_ledger(args.directory)
    if not entries:
        raise UsageError(f"{Path(args.directory) / LEDGER_FILE} holds no forecasts. `hptransfer predict` writes it.")
    laws = standings(entries)
    show(json_text({"entries": encode(entries), "laws": encode(laws)}) if args.json else _told(entries, laws))
    return 1 if any(law.lost for law in laws) else 0


def _told(entries: list[Entry], laws: tuple[Standing, ...]) -> str:
    from hptransfer.validation.forecasts.ledger import LEVEL

    rows = [("key", "entered", "recipe", "target", "rate", "interval", "found", "")]
    rows += [(e.key, e.date, e.recipe, e.target, f"{e.value:.3g}", *_ends(e)) for e in entries]
    table = [("law", "forecasts", "scored", "hit rate", f"stated {LEVEL:.0%}: chance of so few")]
    table += [(s.law, str(s.entered), str(s.scored), _rate(s), _chance(s)) for s in laws]
    return "\n".join([*columns(rows), "", *columns(table)])


def _ends(entry: Entry) -> tuple[str, str, str]:
    interval = "none" if entry.low is None or entry.high is None else f"{entry.low:.3g} to {entry.high:.3g}"
    said = {True: "hit", False: "miss", None: ""}[entry.hit]
    return interval, "" if entry.observed is None else f"{entry.observed:.3g}", said


def _rate(standing: Standing) -> str:
    return f"{standing.hits} of {standing.scored}" if standing.scored else "-"


def _chance(standing: Standing) -> str:
    if not standing.scored:
        return "-"
    return f"{standing.chance:.2g}" + (": keeps missing, no default here any more" if standing.lost else "")
