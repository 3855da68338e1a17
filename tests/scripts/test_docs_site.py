"""What the site adds to its Markdown: links that lead somewhere, every public name, docstrings as lists."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import hptransfer as hpt
from scripts.check_links import broken

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def site_module(name: str) -> ModuleType:
    """A file of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", DOCS / "site" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, docstrings = site_module("hooks"), site_module("docstrings")
PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}


def test_every_public_name_has_one_entry_in_the_reference():
    entries = [n for text in PAGES.values() for n in re.findall(r"^::: hptransfer\.(\w+)$", text, re.M)]
    entries += re.findall(r"^::: hptransfer\.(\w+)$", hooks.more_page(PAGES), re.M)
    assert sorted(entries) == sorted(set(hpt.__all__) - {"theory", "__version__"})


def test_every_name_of_theory_has_an_entry():
    pages = hooks.theory_pages()
    assert sorted(Path(uri).stem for uri in pages) == sorted(hpt.theory.__all__)
    for area in hpt.theory.__all__:
        entries = re.findall(r"^::: hptransfer\.theory\.\w+\.(\w+)$", pages[f"reference/theory/{area}.md"], re.M)
        public = {name for name in vars(getattr(hpt.theory, area)) if name[0] != "_" and name != "annotations"}
        assert set(entries) <= public and len(entries) > 3


@pytest.mark.parametrize(
    ("here", "link", "becomes"),
    [
        ("peers.md", "[a](../tests/core/test_rules.py)", "[a](source/tests/core/test_rules.py.md)"),
        ("howto/data.md", "[a](../../recipes/mlp.py)", "[a](../source/recipes/mlp.py.md)"),
        ("examples/index.md", "[a](vit_muon.py)", "[a](vit_muon.md)"),
        ("reference/theory.md", "[a](../../hptransfer/theory/laws.py)", "[a](theory/laws.md)"),
        ("index.md", "[a](../CHANGELOG.md#x)", "[a](source/CHANGELOG.md.md#x)"),
        ("index.md", "[a](depth.md) [b](https://x.y/z) ![c](figures/mlp.svg) [d](#e)", None),
        ("index.md", "```python\n[a](../CHANGELOG.md)\n```", None),
    ],
)
def test_links_become_pages_and_others_stay(here, link, becomes):
    assert hooks.rewritten(link, Path(here), DOCS) == (becomes or link)


def test_a_page_stands_for_every_file_that_is_linked_to():
    made = hooks.source_pages(PAGES, DOCS)
    assert "source/CHANGELOG.md.md" in made and "source/recipes/mlp.py.md" in made
    linked = {
        uri
        for here, text in {**PAGES, **made}.items()
        for match in hooks.LINK.finditer(hooks.FENCE.sub("", text))
        if (uri := hooks.page_of(Path(here), match[2], DOCS)) and uri.startswith("source/")
    }
    assert linked == set(made)


def test_every_page_of_the_menu_is_there_and_every_other_page_joins_it():
    menu = re.findall(r"([\w/.-]+\.md)", (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2])
    generated = {"reference/more.md", "source/CHANGELOG.md.md"}
    assert len(menu) == len(set(menu)) and set(menu) <= set(PAGES) | generated
    nav = [{"Home": "index.md"}, {"Rest": [menu[1], {"Deeper": menu[2:]}]}]
    assert set(hooks.unplaced_pages(nav, DOCS)) == set(PAGES) - set(menu)


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("Do it.", set(), "Do it."),
        ("size: how\nlarge. a, b: more.", {"size", "a", "b"}, "- `size`: how large.\n- `a, b`: more."),
        ("Do it.\n\nNote: this is no part.", {"size"}, "Note: this is no part."),
        ("x: a thing. Raises UsageError where not.", {"x"}, "- `x`: a thing.\n\nRaises UsageError where not."),
        ("Do it.\n\nblocks.*.weight and m_in", set(), "blocks.\\*.weight and m\\_in"),
        ("Do it.\n\n    code * kept", set(), "    code * kept"),
    ],
)  # fmt: skip
def test_docstrings_become_lists_of_their_parts(text, names, said):
    assert docstrings.as_markdown(text, names).removeprefix("Do it.").strip("\n") == said.removeprefix("Do it.")


def test_the_docstring_of_make_plan_tells_its_parts_apart():
    shown = docstrings.as_markdown(
        inspect.getdoc(hpt.make_plan), {"model", "base", "verify", "example_inputs", "choices"}
    )
    assert re.findall(r"^- `(\w+)`", shown, re.M) == ["model", "verify", "example_inputs", "choices"]
    assert "\n\nRaises UsageError" in shown


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#here">b</a><a href="https://x.y">out</a>')
    (tmp_path / "b.html").write_text('<a id="here"></a><a href="a.html#top">a</a><img src="a.html">')
    assert broken(tmp_path) == []
    (tmp_path / "b.html").write_text('<a href="c.html">c</a><img src="d.png"><a href="/a.html">a</a>')
    assert broken(tmp_path) == [
        "a.html: b.html#here: no such anchor",
        "b.html: c.html: no such file",
        "b.html: d.png: no such file",
        "b.html: /a.html: an absolute path",
    ]
