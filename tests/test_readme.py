"""Every code block of README and docs runs: Python as it stands, hptransfer commands in a small form.

Python blocks of one page share their names, top to bottom, in an empty directory with recipes/ beside them. A block
under <!-- not run: REASON --> is left out. Other shell lines must be among those that .ci/run executes.
"""

import io
import re
import runpy
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest

from hptransfer.cli import main
from tests.support.versions import shards_on_cpu

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def path_of(page: Path) -> str:
    """A page's path in the repository, which names its tests."""
    return str(page.relative_to(ROOT))


FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.S | re.M)
SMALL = {  # appended to a command; the last option wins
    "check": "--quick --steps 4 --seeds 2 --widths 16,32 --lrs 2^-8..2^-6 --extend 0 --workers 1 --no-coord",
    "coord-check": "--widths 16,32,64 --steps 1 --seeds 2",
    "check depths": "--steps 4 --seeds 2 --depths 1,2 --lrs 2^-8..2^-6 --extend 0 --workers 1",
    "check batches": "--quick --steps 4 --seeds 2 --lrs 2^-8..2^-6 --extend 0 --workers 1 --no-coord",
    "check experts": "--quick --steps 4 --seeds 2 --experts 2,4 --lrs 2^-8..2^-6 --extend 0 --workers 1 --no-coord",
    "check active": "--quick --steps 4 --seeds 2 --active 1,2 --lrs 2^-8..2^-6 --extend 0 --workers 1 --no-coord",
    "equilibrium": "--widths 16,32,64 --steps 8 --seeds 2",
    "sweep": "--widths 16,32 --steps 4 --seeds 1 --lrs 2^-8,2^-7 --workers 1",
    "study": "--widths 16 --steps 4 --trials 2 --workers 1",
    "worker": "--patience 0.1",
    "tune": "--settings weight_decay --steps 4 --seeds 3 --lrs 2^-8..2^-6 --extend 0 --workers 1",
}
RUN_BY_CI = ("ci: user", "ci: setup", "ci: own-torch", "ci: parity", "ci: test")


class Block(NamedTuple):
    page: str
    mark: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(page.name, m["mark"] or "", m["language"], m["code"]) for m in FENCE.finditer(page.read_text("utf-8"))
    ]


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.fixture
def beside_recipes(tmp_path, monkeypatch) -> Path:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    return tmp_path


def without_comments(code: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


PYTHON = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=shards_on_cpu if p.name == "runtimes.md" else (), id=path_of(p)) for p in PYTHON]
)
def test_python_blocks_run_and_print_what_the_page_says(page, beside_recipes):
    """A text block right after a Python block is its output, compared word for word (long lines may be folded)."""
    names: dict = {"__name__": "__main__"}
    of_page = blocks(page)
    for block, following in zip(of_page, [*of_page[1:], None], strict=True):
        if block.language != "python" or block.mark.startswith("not run:"):
            continue
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.code, f"{path_of(page)}:python", "exec"), names)
        assert "nan" not in printed.getvalue()
        if following is not None and following.language == "text" and not following.mark:
            assert printed.getvalue().split() == following.code.split()


COMMANDS = [
    pytest.param(words, id=" ".join(words)[:60])
    for block in ALL
    if block.language == "bash" and not block.mark.startswith("not run:")
    for words in without_comments(block.code)
    if words[0] == "hptransfer"
]


@pytest.mark.parametrize("words", COMMANDS)
def test_hptransfer_commands_run(words, beside_recipes, capsys, monkeypatch):
    if words[1] == "report":
        main(["check", "recipes/mlp.py", *SMALL["check"].split(), "--out", words[2]])
    if words[1] == "worker":
        storage = words[words.index("--storage") + 1]
        main(["study", words[2], *SMALL["study"].split(), "--storage", storage])
    if "--text" in words:
        Path(words[words.index("--text") + 1]).write_text("a line of text\n" * 500)
    if "mine.py" in words and words[1] != "init":
        main(["init", "mine.py"])
    if words[1] == "judge":
        monkeypatch.setattr("sys.argv", ["own_sweep.py", words[2]])
        runpy.run_path(str(ROOT / "scripts" / "journeys" / "own_sweep.py"))
    if "--from" in words:
        enough = ["--widths", "64,128", "--steps", "20", "--lrs", "2^-10..2^-4", "--extend", "6", "--out"]
        main(["check", words[2], *SMALL["check"].split(), *enough, words[words.index("--from") + 1]])
    axis = next((word[2:] for word in words if f"check {word[2:]}" in SMALL and word[:2] == "--"), "")
    small = SMALL.get(f"{words[1]} {axis}" if axis else words[1], "")
    assert main([*words[1:], *small.split()]) in (0, 1, 3), capsys.readouterr().err


def test_every_other_shell_line_is_run_by_ci():
    for block in (b for b in ALL if b.language == "bash" and b.page == "README.md"):
        if block.mark.startswith("ci: "):
            assert block.mark in RUN_BY_CI
            assert f"run_block {block.mark.removeprefix('ci: ')}" in (ROOT / ".ci" / "run").read_text("utf-8")
        else:
            assert all(words[0] == "hptransfer" for words in without_comments(block.code)), block


def test_every_block_says_its_language_and_no_output_is_empty():
    for block in ALL:
        assert block.language in ("python", "bash", "text", "json"), block
        assert block.code.strip(), block


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_links_within_the_repository_resolve(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
