"""How long the shell takes to answer, beside Python's start and `import torch` on the same machine.

    python scripts/bench_shell.py [--repeats 5] [--out benchmarks/shell.json]

Each command runs in a process of its own, the kinds taking turns, so that a busy machine slows all alike; the median of
its seconds is kept, and its ratio to that of `import torch`. Seconds of a CPU are kept beside: they do not see others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

CLI = [sys.executable, "-m", "hptransfer"]
KINDS: dict[str, list[str]] = {
    "python": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import hptransfer": [sys.executable, "-c", "import hptransfer"],
    "import torch, hptransfer and what plans": [
        *(sys.executable, "-c"),
        "import torch, hptransfer as hpt; hpt.make_plan, hpt.param_groups, hpt.parametrize_",
    ],
    "--version": [*CLI, "--version"],
    "--help": [*CLI, "--help"],
    "check --help": [*CLI, "check", "--help"],
    "unknown command": [*CLI, "chekc"],
    "unknown recipe": [*CLI, "check", "recipes/mpl.py"],
    "unknown option": [*CLI, "check", "recipes/gpt.py", "--txet", "x"],
    "one width": [*CLI, "check", "recipes/mlp.py", "--widths", "64", "--out", "/tmp/hptransfer-bench-shell"],
}
"""What is timed; the last one is only known to be wrong once the recipe, and with it torch, is loaded."""


def once(command: list[str]) -> tuple[float, float]:
    """(seconds on the clock, seconds of a CPU) of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/shell.json"))
    args = parser.parse_args()
    times = [{name: once(command) for name, command in KINDS.items()} for _ in range(args.repeats)]
    wall, cpu = ({name: statistics.median(run[name][i] for run in times) for name in KINDS} for i in (0, 1))
    rows = {
        name: {
            "seconds": round(wall[name], 3),
            "cpu_seconds": round(cpu[name], 3),
            "of_import_torch": round(cpu[name] / cpu["import torch"], 3),
        }
        for name in KINDS
    }
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    args.out.write_text(json.dumps({"repeats": args.repeats, "machine": machine, "commands": rows}, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:42s} {row['seconds']:7.2f} s  {row['cpu_seconds']:6.2f} s CPU  {row['of_import_torch']:6.2f} x")


if __name__ == "__main__":
    main()
