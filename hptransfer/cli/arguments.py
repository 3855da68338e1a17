"""Arguments that several subcommands share: recipes with their own options, widths, learning rates, seeds, output."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, get_args

from hptransfer.cli.exits import OF_VERDICT
from hptransfer.cli.output import show
from hptransfer.cli.results.formats import Format
from hptransfer.cli.results.next_step import after_numeric_check
from hptransfer.core.errors import UsageError, nearest
from hptransfer.core.files import json_text
from hptransfer.core.secrets import masked_arguments
from hptransfer.core.training.recipe_file import declared_options, recipe_file

if TYPE_CHECKING:
    from hptransfer.checks.coord.report import CoordReport
    from hptransfer.checks.equilibrium.report import EquilibriumReport
    from hptransfer.core.training.recipe import Recipe

MAX_LRS = 200
_POWER = re.compile(r"2(?:\^|\*\*)([+-]?\d+(?:\.\d*)?)")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="FILE.py or FILE.py:name; its own options may follow, as --text FILE"
    )
    parser.add_argument("--quick", action="store_true", help="the recipe's own smaller setting")


def add_grid(
    parser: argparse.ArgumentParser, *, steps_help: str = "optimizer steps of one run; default: the recipe's"
) -> None:
    parser.add_argument("--widths", type=widths, metavar="W,W,...", help="default: the recipe's")
    parser.add_argument(
        "--seeds", type=seeds, metavar="N", help="how many, or a list such as 0,1,5; default: the recipe's"
    )
    parser.add_argument("--steps", type=int, metavar="N", help=steps_help)
    add_device(parser)


def add_depths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depths", type=widths, metavar="D,D,...", help="vary the depth in place of the width")


def refuse_two_axes(args: argparse.Namespace) -> None:
    """Raise UsageError where both widths and depths are given."""
    if args.widths and args.depths:
        raise UsageError("Give --widths or --depths, not both: one axis is varied, the other stays at the base's.")


def seed_count(args: argparse.Namespace) -> int | None:
    """--seeds of a check that draws the seeds 0 to N - 1 itself. Raises UsageError on a list of seeds."""
    if args.seeds is not None and not isinstance(args.seeds, int):
        given = ",".join(map(str, args.seeds))
        raise UsageError(f"--seeds {given}: this check takes a count N and uses the seeds 0 to N-1.")
    return args.seeds


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")


def add_lrs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lrs",
        type=lrs,
        metavar="LRS",
        help="2^-10..2^-4 (every octave), 2^-10..2^-4:0.5 (every half), or 1e-3,3e-3,...",
    )
    add_workers(parser)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=get_args(Format), default="table", help="of the result; default: table")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")


def widths(text: str) -> tuple[int, ...]:
    """ "64,128" -> (64, 128)."""
    return _whole_numbers(text, "64,128,256")


def seeds(text: str) -> int | tuple[int, ...]:
    """ "3" -> 3 (that many seeds); "0,4" -> (0, 4)."""
    found = _whole_numbers(text, "3, or 0,1,2")
    return found if "," in text else found[0]


def _whole_numbers(text: str, example: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.rstrip(",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers; write {example}") from None


def lrs(text: str) -> tuple[float, ...]:
    """ "2^-10..2^-4" (by octaves), "2^-10..2^-4:0.5" (by half octaves) or "1e-3,2^-9" -> learning rates."""
    if ".." not in text:
        return tuple(_lr(part) for part in text.rstrip(",").split(","))
    ends, _, step_text = text.partition(":")
    first, last = (math.log2(_lr(end)) for end in ends.split("..", 1))
    try:
        step = float(step_text or 1)
    except ValueError:
        step = math.nan
    if not (step > 0 and first <= last):
        raise argparse.ArgumentTypeError(f"{text!r}: write LOW..HIGH or LOW..HIGH:STEP, with a step in octaves above 0")
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > MAX_LRS:
        raise argparse.ArgumentTypeError(f"{text!r} makes {count} learning rates; at most {MAX_LRS} are allowed")
    return tuple(2.0 ** (first + i * step) for i in range(count))


def _lr(text: str) -> float:
    power = _POWER.fullmatch(text.strip())
    try:
        value = 2.0 ** float(power[1]) if power else float(text)
    except (ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a learning rate; write 2^-7 or 0.003")
    return value


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that was asked for, with its own options set and, under --quick, made small.

    A recipe file may have `options`, a dict of name -> help; `--name VALUE` then reaches it as the environment variable
    HPTRANSFER_NAME, also in worker processes. Raises UsageError on options that neither we nor the recipe know.
    """
    from hptransfer.core.training.recipe import load_recipe

    chosen = recipe_options(args)
    for name, value in chosen.items():
        os.environ[f"HPTRANSFER_{name.upper().replace('-', '_')}"] = value
    recipe = load_recipe(args.recipe)
    _refuse_unknown(chosen, _options_of(args.recipe), args)
    return recipe.quickened() if args.quick else recipe


def recipe_options(args: argparse.Namespace) -> dict[str, str]:
    """The recipe's own options among the arguments, name -> value; nothing is imported or run to tell.

    Raises UsageError where there is no such recipe file, or it says without being run that an option is none of its.
    """
    path, _ = recipe_file(args.recipe)
    chosen = _recipe_options(args.rest, args.parser)
    known = declared_options(path)
    if known is not None:
        _refuse_unknown(chosen, known, args)
    return chosen


def _refuse_unknown(chosen: Mapping[str, str], known: Mapping[str, str], args: argparse.Namespace) -> None:
    for name in chosen:
        if name not in known:
            raise UsageError(_unknown(name, args.parser, known, args.recipe))


def _options_of(spec: str) -> Mapping[str, str]:
    """The options that an already loaded recipe file declares: name -> help."""
    return getattr(sys.modules.get(f"hptransfer_recipe_{recipe_file(spec)[0].stem}"), "options", {})


def no_more(args: argparse.Namespace) -> None:
    """Refuse leftover arguments, for a subcommand without a recipe."""
    if args.rest:
        raise UsageError(_unknown(args.rest[0].lstrip("-"), args.parser, {}, None))


def names(text: str) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pairs(text: str) -> dict[str, str]:
    """ "size=width,loss=final" -> {"size": "width", "loss": "final"}, for options that take names with values."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(middle and ours.strip() and theirs.strip() for ours, middle, theirs in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE,..., as size=width,loss=val_loss")
    return {ours.strip(): theirs.strip() for ours, _, theirs in parts}


def _recipe_options(rest: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """["--text", "FILE", "--n=3"] -> {"text": "FILE", "n": "3"}."""
    left, found = list(rest), {}
    while left:
        head = left.pop(0)
        name, given, value = head.removeprefix("--").partition("=")
        if not head.startswith("--") or not (given or (left and not left[0].startswith("--"))):
            raise UsageError(
                _unknown(name, parser, {}, None) if head.startswith("--") else f"unexpected argument {head!r}."
            )
        found[name] = value if given else left.pop(0)
    return found


def _unknown(name: str, parser: argparse.ArgumentParser, known: Mapping[str, str], recipe: str | None) -> str:
    ours = [option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")]
    likely = nearest(name, [*ours, *known])
    hint = "." if likely is None else f"; did you mean --{likely}?"
    takes = f" {recipe} takes {', '.join(f'--{k}' for k in known) or 'no options of its own'}." if recipe else ""
    return f"unknown option --{name}{hint}{takes}"


def output_directory(args: argparse.Namespace, recipe: Recipe) -> Path:
    """--out, or hptransfer-out/<recipe>; made and tried. Raises UsageError where nothing can be written there."""
    return output_folder(args.out, recipe.name, suffix="-quick" if args.quick else "")


def output_folder(given: str | None, name: str, *, suffix: str = "") -> Path:
    """The folder that was given, or hptransfer-out/<name>; made and tried.

    Raises UsageError where nothing can be written there, or the name cannot name a folder.
    """
    out = Path(given) if given else _default_output(name, suffix)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror}). Give a writable directory.") from error
    return out


def _default_output(name: str, suffix: str) -> Path:
    """hptransfer-out/<name>. Raises UsageError where the name is no single, plain part of a path."""
    parts = {*Path(name).parts, *PureWindowsPath(name).parts}
    if parts != {name} or name in {".", ".."} or not name.isprintable() or name != name.strip():
        raise UsageError(f"The name {name!r} cannot name a folder of hptransfer-out. Give --out DIR.")
    return Path("hptransfer-out") / (name + suffix)


def command_line(args: argparse.Namespace) -> str:
    """The command as one would type it, without its secrets."""
    return shlex.join(["hptransfer", *masked_arguments(args.given)])


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def grid_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of a sweep's grid and workers."""
    names = ("widths", "depths", "batches", "tokens", "experts", "active", "expert_widths")
    names = (*names, "lrs", "seeds", "steps", "workers")
    return given(**{name: getattr(args, name, None) for name in names})


def present(report: CoordReport | EquilibriumReport, path: Path, args: argparse.Namespace) -> int:
    """Save a report, print it, and return the exit code of its verdict."""
    report.save(path)
    show(json_text(report.to_json()) if args.json else f"{report}\n\n{after_numeric_check(report.verdict, args)}")
    print(f"Wrote {path}", file=sys.stderr)
    return OF_VERDICT[report.verdict]


@contextmanager
def restored_environment() -> Iterator[None]:
    """Leaves os.environ as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
