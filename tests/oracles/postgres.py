"""A PostgreSQL server of one's own for the length of a test, where PostgreSQL is installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def find_initdb() -> str | None:
    """The initdb program, on the path or where Debian keeps it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return shutil.which("initdb") or (str(found[-1]) if found else None)


@contextlib.contextmanager
def server(directory: Path) -> Iterator[str]:
    """The URL of a fresh server on a free local port; it runs as another user where this one is root."""
    with restartable(directory) as (url, _):
        yield url


@contextlib.contextmanager
def restartable(directory: Path) -> Iterator[tuple[str, Callable[[float], None]]]:
    """The URL of a fresh server, and what stops it as a crash would, for so many seconds."""
    initdb = find_initdb()
    assert initdb is not None
    user = next((u for u in ("postgres", "nobody") if os.geteuid() == 0 and _exists(u)), None)
    data = Path("/tmp") / f"hptransfer-postgres-{os.getpid()}"  # a path that the other user may enter
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data.mkdir()
    if user is not None:
        shutil.chown(data, user)
    options = {"check": True, "user": user, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    control = str(Path(initdb).with_name("pg_ctl"))
    try:
        subprocess.run([initdb, "-D", str(data), "-U", "tester", "-A", "trust"], **options)
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        subprocess.run([control, "-D", str(data), "-w", "-o", settings, "start"], **options)
        try:

            def restart(seconds: float) -> None:
                subprocess.run([control, "-D", str(data), "-m", "immediate", "stop"], **options)
                time.sleep(seconds)
                subprocess.run([control, "-D", str(data), "-w", "-o", settings, "start"], **options)

            yield f"postgresql://tester@127.0.0.1:{port}/postgres", restart
        finally:
            subprocess.run([control, "-D", str(data), "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)
        return True
    return False
