"""Read what hptransfer.Monitor wrote of a run: `monitor report RUN.jsonl`, as text and as a page with figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.arguments import add_json, no_more
from hptransfer.cli.output import show
from hptransfer.core.files import encode, json_text

if TYPE_CHECKING:
    from hptransfer.monitoring.summary import Summary


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["report"], help="report: what the file says; exit code 1 on an alarm")
    parser.add_argument("file", metavar="RUN.jsonl", help="what hptransfer.Monitor wrote")
    parser.add_argument("--reference", metavar="SMALL.jsonl", help="a finished smaller run to hold the curve against")
    parser.add_argument("--out", metavar="FILE.html", help="the page; default: beside RUN.jsonl")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    no_more(args)
    from hptransfer.monitoring.readings import read_run
    from hptransfer.monitoring.summary import summarise_run
    from hptransfer.reporting.monitor_page import write_monitor_page

    monitored = read_run(args.file)
    reference = read_run(args.reference) if args.reference else None
    summary = summarise_run(monitored, reference)
    page = write_monitor_page(summary, args.out or Path(args.file).with_suffix(".html"), reference=reference)
    show(json_text(_data(summary)) if args.json else f"{summary}\n\nPage: {page}")
    return 1 if summary.alarmed else 0


def _data(summary: Summary) -> dict[str, object]:
    names = ("edges", "noise", "layers", "weights", "updates", "looks", "alarm")
    return {"header": encode(summary.run.header), **{name: encode(getattr(summary, name)) for name in names}}
