"""The code on the theory pages runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "theory"
NAMES = ("curvature", "stability", "quadratic", "critical_init", "ntk", "solvable", "edge_of_stability")


@pytest.mark.parametrize("name", NAMES)
def test_the_snippets_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), {"__name__": name})
    assert "nan" not in capsys.readouterr().out
