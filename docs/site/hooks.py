"""What MkDocs needs beyond Markdown: pages for the files that pages link to, for theory's names and for the gallery.

The documentation is written so that its links work in the repository too: `../tests/core/test_rules.py` is a file
there, and becomes a page of source here.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()([^)#\s:]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```$", re.S | re.M)
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".json": "json"}


def on_config(config: Any) -> Any:
    """Pages that mkdocs.yml does not place yet come last in the menu."""
    unplaced = unplaced_pages(config.nav, Path(config.docs_dir))
    if unplaced:
        config.nav.append({"More": unplaced})
    return config


def unplaced_pages(nav: Any, docs: Path) -> list[str]:
    """The pages of the documentation that the menu does not name."""

    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from named(inner)

    return sorted({str(path.relative_to(docs)) for path in docs.rglob("*.md")} - set(named(nav)))


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    docs = Path(config.docs_dir)
    pages = {
        str(path.relative_to(docs)): path.read_text("utf-8")
        for path in sorted(docs.rglob("*.md"))
        if "site" not in path.relative_to(docs).parts[:1]
    }
    texts = {**theory_pages(), **gallery_pages(), **source_pages(pages, docs), "reference/more.md": more_page(pages)}
    for uri, text in texts.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside the documentation, and to Python files, into links to their pages."""
    here = Path(page.file.src_uri)
    return rewritten(markdown, here, Path(config.docs_dir))


def rewritten(markdown: str, here: Path, docs: Path) -> str:
    """The page with such links changed; here: its path within docs. Code blocks stay as they are."""

    def swap(match: re.Match[str]) -> str:
        uri = page_of(here, match[2], docs)
        if uri is None:
            return match[0]
        return f"{match[1]}{os.path.relpath(uri, here.parent)}{match[3] or ''})"

    parts = re.split(f"({FENCE.pattern})", markdown, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else LINK.sub(swap, part) for part in parts)


def page_of(here: Path, target: str, docs: Path) -> str | None:
    """The page that stands for a link's target, or None where it needs none."""
    path = Path(os.path.normpath(docs / here.parent / target))
    if path.is_relative_to(docs / "examples") and path.suffix == ".py":
        return f"examples/{path.stem}.md"
    if path.parent == ROOT / "hptransfer" / "theory" and path.is_file():
        return f"reference/theory/{path.stem}.md"
    if path.is_relative_to(docs) or not path.is_relative_to(ROOT) or not path.is_file():
        return None
    return f"source/{path.relative_to(ROOT)}.md"


def source_pages(pages: dict[str, str], docs: Path) -> dict[str, str]:
    """A page for every file outside the documentation that some page links to, and for those that these link to."""
    made: dict[str, str] = {}
    waiting = [(Path(uri), text) for uri, text in pages.items()]
    while waiting:
        here, text = waiting.pop()
        for match in LINK.finditer(FENCE.sub("", text)):
            uri = page_of(here, match[2], docs)
            if uri and uri.startswith("source/") and uri not in made:
                made[uri] = source_page(ROOT / uri.removeprefix("source/").removesuffix(".md"), docs)
                waiting.append((Path(uri), made[uri]))
    return made


def source_page(path: Path, docs: Path) -> str:
    """A file as a page: Markdown as it is, its links made relative to the page; anything else in a code block."""
    name, text = path.relative_to(ROOT), path.read_text("utf-8")
    if path.suffix == ".md":
        depth = len(Path("source", name).parent.parts)

        def moved(match: re.Match[str]) -> str:
            target = Path(os.path.normpath(path.parent / match[2]))
            back = target.relative_to(docs) if target.is_relative_to(docs) else Path("..", target.relative_to(ROOT))
            return f"{match[1]}{Path(*['..'] * depth, back)}{match[3] or ''})"

        return LINK.sub(moved, text)
    return f"# `{name}`\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def gallery_pages() -> dict[str, str]:
    """A page per example: its docstring, then its code."""
    pages: dict[str, str] = {}
    for path in sorted((ROOT / "docs" / "examples").glob("*.py")):
        text = path.read_text("utf-8")
        title, _, rest = (ast.get_docstring(ast.parse(text)) or path.stem).partition("\n")
        code = text[text.index('"""', 3) + 3 :].strip()
        run = f"Run it with `python docs/examples/{path.name}`."
        pages[f"examples/{path.stem}.md"] = (
            f"# {title.rstrip('.')}\n\n{rest.strip()}\n\n{run}\n\n```python\n{code}\n```\n"
        )
    return pages


def theory_pages() -> dict[str, str]:
    """A page per module of hptransfer.theory: its docstring and every name in it."""
    pages: dict[str, str] = {}
    for path in sorted((ROOT / "hptransfer" / "theory").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        about = (ast.get_docstring(tree) or "").split("(docs/")[0].strip().rstrip(".")
        entries = "\n\n".join(
            f"::: hptransfer.theory.{path.stem}.{name}" for name in sorted(exported(tree), key=str.lower)
        )
        pages[f"reference/theory/{path.stem}.md"] = f"# hptransfer.theory.{path.stem}\n\n{about}.\n\n{entries}\n"
    return pages


def exported(tree: ast.Module) -> Iterator[str]:
    """The names that a module passes on: `from x import name as name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname == alias.name)


def more_page(pages: dict[str, str]) -> str:
    """Public names that no page of the reference has yet, so that none is missing."""
    names = sorted(public_names() - referenced(pages))
    entries = "\n\n".join(f"::: hptransfer.{name}" for name in names) or "Every public name is on the other pages."
    return f"# More\n\n{entries}\n"


def public_names() -> set[str]:
    """`hptransfer.__all__`, read without importing anything; theory has pages of its own."""
    for node in ast.parse((ROOT / "hptransfer" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value)) - {"theory", "__version__"}
    raise SystemExit("hptransfer/__init__.py has no __all__")


def referenced(pages: dict[str, str]) -> set[str]:
    """The public names that a page of the reference documents."""
    return {name for text in pages.values() for name in re.findall(r"^::: hptransfer\.(\w+)$", text, re.M)}
