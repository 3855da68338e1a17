"""A recipe's file before it is run: where it lies, and which options of its own it says it has. Imports no torch."""

# pyright: strict
from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from hptransfer.core.errors import UsageError, meant, nearest


def recipe_file(spec: str) -> tuple[Path, str]:
    """The file and the name in it that `path/to/FILE.py[:name]` means; the name is "recipe" where none is given.

    Raises UsageError where there is no such file, with the nearest one beside it or in recipes/.
    """
    path_text, _, name = spec.partition(":") if not Path(spec).exists() else (spec, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise UsageError(
            f"No recipe file at {path_text!r}{_instead(path)} Give the path of a Python file, as FILE.py or "
            "FILE.py:name; `hptransfer init` writes one to start from."
        )
    return path, name or "recipe"


def _instead(path: Path) -> str:
    """The file that may have been meant, as recipes/mlp.py by mlp or recipes/mpl.py; "." where none is like it."""
    folders = [folder for folder in (Path("recipes"), Path("."), path.parent) if folder.is_dir()]
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.py"))}
    likely = nearest(path.stem, files)
    return meant(None if likely is None else str(files[likely]))


def declared_options(path: Path) -> Mapping[str, str] | None:
    """`options` of a recipe file, name -> help; {} where it has none; None where only running it would tell."""
    try:
        text = path.read_text(encoding="utf-8")
        body = ast.parse(text).body
    except (OSError, ValueError, SyntaxError):
        return None
    given = [node.value for node in body if isinstance(node, ast.Assign) and _names_options(node.targets)]
    others = len(re.findall(r"(?<!\w)options(?!\w)", text)) > len(given) or "import *" in text
    if others or len(given) > 1:
        return None
    try:
        return cast(Mapping[str, str], ast.literal_eval(given[0])) if given else {}
    except ValueError:
        return None


def _names_options(targets: list[ast.expr]) -> bool:
    return [node.id for node in targets if isinstance(node, ast.Name)] == ["options"]
