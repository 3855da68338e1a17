"""What README says of the shell's speed is what benchmarks/shell.json holds."""

from __future__ import annotations

import json
import re

from tests.test_readme import ROOT

COMMANDS = json.loads((ROOT / "benchmarks" / "shell.json").read_text("utf-8"))["commands"]


def test_readme_says_the_committed_seconds():
    told = re.search(
        r"--help` answers in ([\d.]+) s and a mistyped option in ([\d.]+) s, where `import torch` alone takes\s+"
        r"([\d.]+) s; `import hptransfer` adds ([\d.]+) s",
        (ROOT / "README.md").read_text("utf-8"),
    )
    seconds = {name: row["seconds"] for name, row in COMMANDS.items()}
    torch = seconds["import torch"]
    added = seconds["import torch, hptransfer and what plans"] - torch
    assert [*map(float, told.groups())] == [
        round(seconds["--help"], 2),
        round(seconds["unknown option"], 2),
        round(torch, 1),
        round(added, 2),
    ]


def test_the_shell_is_as_fast_as_a_stranger_expects():
    """Help in a second, bad input in three, `import hptransfer` half a second above torch, on the measured machine."""
    seconds = {name: row["seconds"] for name, row in COMMANDS.items()}
    assert max(seconds[name] for name in ("--help", "--version", "check --help")) < 1
    assert max(seconds[name] for name in ("unknown command", "unknown recipe", "unknown option")) < 3
    assert seconds["import torch, hptransfer and what plans"] - seconds["import torch"] < 0.5
