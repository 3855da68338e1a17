"""Write a commented recipe to start from: put your model and data into it; until then it runs as it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hptransfer.cli.arguments import no_more
from hptransfer.cli.output import show
from hptransfer.cli.results.next_step import after_init
from hptransfer.core.errors import UsageError
from hptransfer.core.files import write_whole

TEMPLATES = Path(__file__).parents[1] / "templates"
KINDS = ("own", "hf", "vision")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="recipe.py", help="to write; default: recipe.py")
    parser.add_argument(
        "--model",
        choices=KINDS,
        default="own",
        help="own: a torch module of yours (default); hf: one of transformers'; vision: a ViT with Muon and AdamW",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    no_more(args)
    path = Path(args.file)
    if path.suffix != ".py":
        raise UsageError(f"{args.file}: a recipe is a Python file; write {path.name or 'recipe'}.py.")
    if path.exists() and not args.force:
        raise UsageError(f"{path} is there already. Give another name, or --force to replace it.")
    text = (TEMPLATES / f"{args.model}.py").read_text(encoding="utf-8")
    write_whole(path, text.replace("FILE.py", path.name).replace('name="FILE"', f'name="{path.stem}"'))
    show(f"Wrote {path}: the places to put your own model, data and loss into are marked with CHANGE.")
    show(after_init(path))
    if args.model == "hf":
        print("It needs transformers: pip install 'hptransfer[hf]'", file=sys.stderr)
    return 0
