"""Every script of the gallery runs, prints something, and its assertions hold; the gallery's page lists each."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs_and_shows_what_it_asserts(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        pytest.skip(str(stop.code))
    assert capsys.readouterr().out.strip()
    assert "assert " in script.read_text("utf-8")
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_the_page_lists_every_script():
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "index.md").read_text("utf-8"))
    assert sorted(listed) == [path.name for path in SCRIPTS]
