"""The Python blocks of docs/ that need an optional package: they are marked "not run: needs PACKAGE" and run by that
package's own tests."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def run_block(page: str, package: str) -> None:
    """Execute the one block of a page whose mark starts with this package."""
    marked = rf"<!-- not run: needs {package}\b[^\n]*-->\n+```python\n(.*?)^```$"
    found = re.findall(marked, (DOCS / page).read_text("utf-8"), re.S | re.M)
    assert len(found) == 1, f"{page} has {len(found)} blocks for {package}"
    exec(compile(found[0], f"{page}:{package}", "exec"), {"__name__": "__main__"})
