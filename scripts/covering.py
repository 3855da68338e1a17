"""Which test executes which line, and how long it takes: what a mutant is tried on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from scripts.mutants import Mutant

PYTEST = ("-q", "--no-header", "-p", "no:cacheprovider")


@dataclass
class Coverage:
    """seconds: of each test that passed; lines: file -> line -> tests that executed it."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]

    def tests(self, file: str, mutant: Mutant, *, wide: bool = False) -> list[str]:
        """Those that executed its statement, fastest first.

        wide, and where the statement ran at import: those that executed anything of the file. (What several tests
        share, a fixture or a cache, counts as the first one's.)
        """
        (first, last), wide = mutant.lines, wide or mutant.top
        lines = self.lines.get(file, {})
        reached = {test for line, tests in lines.items() if wide or first <= line <= last for test in tests}
        if mutant.top and not reached:  # nothing but definitions: any test may read them
            reached = set(self.seconds)
        return sorted(reached & self.seconds.keys(), key=lambda test: (self.seconds[test], test))

    @classmethod
    def read(cls, file: Path) -> Coverage:
        """What `measure` wrote."""
        stored = json.loads(file.read_text())
        names = list(stored["seconds"])
        lines = {f: {int(n): [names[i] for i in who] for n, who in by.items()} for f, by in stored["lines"].items()}
        return cls(stored["seconds"], lines)


class Times:
    """A pytest plugin: the seconds of every test that passed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = round(report.duration, 3)


def measure(tree: Path, paths: Sequence[str], tests: Sequence[str], file: Path) -> int:
    """Run the tests under coverage in this process, write which test executed which line; returns pytest's status."""
    times, data = Times(), tree / ".coverage"
    os.environ["COVERAGE_FILE"] = str(data)
    folders = {str(Path(p) if (tree / p).is_dir() else Path(p).parent) for p in paths}
    args = [*(f"--cov={folder}" for folder in folders), "--cov-context=test", "--cov-report="]
    status = pytest.main([*PYTEST, *args, *tests], plugins=[times])
    covered = coverage.CoverageData(str(data))
    covered.read()
    number = {name: i for i, name in enumerate(times.seconds)}
    lines = {}
    for measured in covered.measured_files():
        by_line = covered.contexts_by_lineno(measured)
        lines[str(Path(measured).relative_to(tree))] = {
            line: sorted({number[c.partition("|")[0]] for c in contexts if c.partition("|")[0] in number})
            for line, contexts in by_line.items()
        }
    file.write_text(json.dumps({"seconds": times.seconds, "lines": lines}))
    return int(status)
