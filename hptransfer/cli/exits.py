"""Exit codes, and the guard that keeps a recipe from choosing them."""

# pyright: strict
from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Mapping
from typing import NoReturn

DONE, FAILED, REFUSED, UNDECIDED, INTERRUPTED = 0, 1, 2, 3, 130
OF_VERDICT: Mapping[str, int] = {"PASS": DONE, "FAIL": FAILED, "INCONCLUSIVE": UNDECIDED}
"""The exit code of every command that ends in a verdict."""


@contextlib.contextmanager
def no_silent_exit() -> Generator[None, None, None]:
    """Inside, os._exit(0) by a recipe in this process leaves with REFUSED and says so; other processes are let go."""
    process, leave = os.getpid(), os._exit

    def guarded(status: int) -> NoReturn:
        if os.getpid() == process and status == 0:
            print("hptransfer: the recipe ended the process with os._exit(0) before a result.", file=sys.stderr)
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            leave(REFUSED)
        leave(status)

    replacement: Callable[[int], NoReturn] = guarded
    os._exit = replacement
    try:
        yield
    finally:
        os._exit = leave
