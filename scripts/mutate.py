"""Which changes of the code does the test suite let pass? Each mutant against the tests that run its line.

    python scripts/mutate.py hptransfer/core hptransfer/parametrization hptransfer/validation/verdict \\
        --tests tests/core tests/parametrization --sample 200 --seed 0 --out mutants.jsonl

The tests run once under coverage (--map keeps what came out), then for every mutant those that executed its statement,
the fastest first, until one fails; a statement that ran at import is tried on all tests of its file. Everything happens
in scratch copies of the tree. Each test run is a fork of a process that has imported third-party modules only. Finished
mutants are kept in --out, one JSON line each, and a second run goes on behind them; --retry runs survivors again, for
example with --wide, or with --tests and --map of new tests only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.covering import PYTEST, Coverage, measure
from scripts.mutants import Mutant, mutants

SKIPPED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "build", "dist", "runs", "*.egg-info")
CRASHED = 70
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A mutant of a file (its path in the tree), and the file's source as it stands."""

    file: str
    source: str
    mutant: Mutant

    @property
    def key(self) -> str:
        return f"{self.file}:{self.mutant.key}"

    def record(self, outcome: str, **more: Any) -> Record:
        """One line of --out."""
        m = self.mutant
        place = {"key": self.key, "file": self.file, "line": m.line, "kind": m.kind}
        return {**place, "before": m.before, "after": m.after, "outcome": outcome, **more}


@dataclass
class Child:
    """A forked process that runs something in a scratch tree."""

    pid: int
    deadline: float
    started: float

    @classmethod
    def start(cls, tree: Path, log: Path, limit: float, work: Callable[[], int]) -> Child:
        """Fork, enter the tree, and leave with what `work` returns; its output goes to the log."""
        now = time.monotonic()
        pid = os.fork()
        if pid:
            return cls(pid, now + limit, now)
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(tree)
            elsewhere = {str(Path.cwd()), str(tree), "", *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
            sys.path[:] = [str(tree), *(p for p in sys.path[1:] if p not in elsewhere)]
            os.environ["PYTHONPATH"] = str(tree)
            status = work()
            sys.stdout.flush()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            status = CRASHED
        os._exit(status)

    def status(self) -> int | None:
        """Its exit status, -1 where its time ran out, None while it runs."""
        pid, raw = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(raw) if os.WIFEXITED(raw) else 3
        if time.monotonic() < self.deadline:
            return None
        self.stop()
        return -1

    def stop(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def scratch(root: Path, tree: Path, paths: Sequence[str]) -> None:
    """A copy of the tree, compiled once; its bytecode is checked by content, so that no mutant runs an old one."""
    shutil.copytree(root, tree, ignore=SKIPPED, symlinks=True)
    packages = {str(tree / Path(p).parts[0]) for p in paths}
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *packages]
    subprocess.run(command, check=True)


def preload(tree: Path, paths: Sequence[str]) -> None:
    """Import what the packages import from elsewhere, so that no run has to. The packages themselves stay out."""
    names = sorted({Path(p).parts[0] for p in paths})
    code = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {str(tree)!r}); import {', '.join(names)}\n"
        f"here = [n for n, m in sys.modules.items() if str(getattr(m, '__file__', '')).startswith({str(tree)!r})]\n"
        "print(*(n for n in sys.modules if n not in before and n not in here))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tree).stdout
    for name in listed.split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def chosen(root: Path, paths: Sequence[str], sample: int | None, seed: int) -> list[Job]:
    """The mutants of all files, or a random sample of them, in an order that the seed fixes."""
    files = sorted({f for p in paths for f in ([root / p] if (root / p).is_file() else (root / p).rglob("*.py"))})
    sources = {str(file.relative_to(root)): file.read_text() for file in files}
    jobs = [Job(file, source, mutant) for file, source in sources.items() for mutant in mutants(source)]
    return random.Random(seed).sample(jobs, min(sample, len(jobs))) if sample is not None else jobs


def within(tests: list[str], seconds: dict[str, float], budget: float) -> list[str]:
    """The first tests that take no longer than the budget together, one at least."""
    kept, total = [], 0.0
    for test in tests:
        total += seconds[test]
        if kept and total > budget:
            break
        kept.append(test)
    return kept


@dataclass(frozen=True)
class Run:
    """A mutant in its tree, with the tests it is tried on; left_out: tests beyond the budget."""

    job: Job
    tree: Path
    child: Child
    tests: int
    left_out: int

    @classmethod
    def start(cls, job: Job, tree: Path, tests: list[str], left_out: int, limit: float) -> Run:
        (tree / job.file).write_text(job.mutant.applied(job.source))
        child = Child.start(tree, tree / "log", limit, lambda: int(pytest.main([*PYTEST, "-x", *tests])))
        return cls(job, tree, child, len(tests), left_out)

    def end(self, status: int) -> Record:
        """Its record, once the child has left; the tree is as before. Raises RuntimeError where no test ran."""
        (self.tree / self.job.file).write_text(self.job.source)
        log = (self.tree / "log").read_text(errors="replace")
        if status in {pytest.ExitCode.NO_TESTS_COLLECTED, CRASHED}:
            raise RuntimeError(f"{self.job.key}: the tests did not run: {log[-2000:]}")
        failed = [line for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return self.job.record(
            {0: "survived", -1: "timeout"}.get(status, "killed"),
            tests=self.tests,
            left_out=self.left_out,
            seconds=round(time.monotonic() - self.child.started, 1),
            by=failed[0].split(" - ")[0].partition(" ")[2] if failed else "",
        )


def run(
    jobs: Sequence[Job], known: Coverage, trees: list[Path], *, limit: float, budget: float, wide: bool
) -> Iterator[Record]:
    """Every job's record, as they finish; as many at a time as there are trees."""
    waiting, busy = list(reversed(jobs)), []
    try:
        while waiting or busy:
            while waiting and trees:
                job = waiting.pop()
                reaching = known.tests(job.file, job.mutant, wide=wide)
                tests = within(reaching, known.seconds, budget)
                if tests:
                    busy.append(Run.start(job, trees.pop(), tests, len(reaching) - len(tests), limit))
                else:
                    yield job.record("uncovered")
            time.sleep(0.02)
            for one in [*busy]:
                if (status := one.child.status()) is not None:
                    busy.remove(one)
                    trees.append(one.tree)
                    yield one.end(status)
    finally:
        for one in busy:
            one.child.stop()


def earlier(out: Path) -> dict[str, Record]:
    """The last record of every mutant of an earlier run."""
    records = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {r["key"]: r for r in records}


def listing(records: Sequence[Record]) -> str:
    """Counts, then every mutant that no test killed."""
    counts = Counter(r["outcome"] for r in records)
    alive = [r for r in records if r["outcome"] in {"survived", "uncovered"}]
    rows = [f"{r['outcome']}: {_shown(r)}" for r in sorted(alive, key=lambda r: (r["file"], r["line"]))]
    return "\n".join([f"{len(records)} mutants: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items())), *rows])


def _shown(r: Record) -> str:
    left = f"  ({r['left_out']} tests over the budget)" if r["outcome"] == "survived" and r["left_out"] else ""
    return f"{r['file']}:{r['line']}: {r['before']} -> {r['after']}{left}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", help="files and folders to mutate, relative to the tree")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="tests to choose from (default: tests)")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="mutants at a time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one mutant")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for one mutant, as measured")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--map", type=Path, help="keep which test runs which line in this file, and read it from there")
    parser.add_argument("--retry", action="store_true", help="run earlier survivors again")
    parser.add_argument("--wide", action="store_true", help="try a mutant on every test that runs anything of its file")
    return parser.parse_args()


def main() -> None:
    args, root = parsed(), Path.cwd()
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    jobs, done = chosen(root, args.paths, args.sample, args.seed), earlier(args.out)
    again = {"survived", "uncovered"} if args.retry else set()
    todo = [job for job in jobs if job.key not in done or done[job.key]["outcome"] in again]
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, args.out.open("a") as out:
        trees = [Path(folder).resolve() / str(k) for k in range(args.workers)]
        for tree in trees:
            scratch(root, tree, args.paths)
        preload(trees[0], args.paths)
        known = _coverage(args, trees[0], Path(folder))
        options = {"limit": args.limit, "budget": args.budget, "wide": args.wide}
        for k, line in enumerate(run(todo, known, trees, **options), 1):
            print(json.dumps(line), file=out, flush=True)
            done[line["key"]] = line
            print(f"[{k}/{len(todo)}] {line['outcome']:9} {_shown(line)}", flush=True)
    print(listing([done[job.key] for job in jobs]))


def _coverage(args: argparse.Namespace, tree: Path, folder: Path) -> Coverage:
    file = (args.map or folder / "map.json").resolve()
    if not file.exists():
        print(f"coverage of {' '.join(args.tests)} ...", flush=True)
        child = Child.start(tree, folder / "log", 1e9, lambda: measure(tree, args.paths, args.tests, file))
        while (status := child.status()) is None:
            time.sleep(0.1)
        tail = (folder / "log").read_text()[-1500:]
        print(tail.strip().splitlines()[-1] if status == 0 else tail, flush=True)
        if not file.exists():
            raise SystemExit("The tests did not run.")
    return Coverage.read(file)


if __name__ == "__main__":
    main()
