"""An Optuna storage by URL, fit for several worker processes: claims are atomic, waits instead of "locked" errors."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked
from hptransfer.validation.queue.journal import open_journal
from hptransfer.validation.queue.patience import LONGEST, SECONDS, Patient, is_away

BUSY_SECONDS = 120
"""How long a process waits for another one's write to a SQLite file before it gives up."""
ATTEMPTS = 6
"""Two processes may make the tables of a fresh database at the same moment: one of them fails, and looks again."""
KINDS = "sqlite:///FILE.db, journal:///FILE, grpc://HOST:PORT or postgresql://USER@HOST/NAME"


def open_storage(url: str, *, wait: bool = False) -> BaseStorage:
    """The storage at a URL; its tables are made where missing.

    url: any Optuna database URL (sqlite:///FILE, postgresql://..., mysql://...); journal:///FILE, Optuna's journal in
    one file; grpc://HOST:PORT, a server made with optuna.storages.run_grpc_proxy_server; or a directory, which is the
    journal of a check with that `out`. A server that goes away later is waited for (see patience.py); wait: one that
    is away now too, as where it has answered before.
    Raises UsageError, on one line, where the URL is none or the storage cannot be reached or is no Optuna storage.
    """
    target = _parsed(url)
    storage = _ready(target, until=time.monotonic() + (SECONDS if wait else 0))
    if target.get_backend_name() in ("sqlite", "journal"):
        return storage
    return Patient(storage)  # pyright: ignore[reportAbstractUsage]


def _ready(target: URL, *, until: float) -> BaseStorage:
    """The storage, once it has answered. until: when to give up waiting for a server that is away."""
    for attempt in itertools.count():
        try:
            with quiet():
                storage = _opened(target)
                storage.get_all_studies()
            return storage
        except UsageError:
            raise
        except Exception as error:
            again = is_away(error) and time.monotonic() < until
            if not again and (attempt >= ATTEMPTS - 1 or not _made_by_another(error)):
                raise UsageError(f"Cannot use storage {target.render_as_string()}: {_reason(error)}") from error
            time.sleep(min(0.2 * (attempt + 1), LONGEST))
    raise AssertionError("unreachable")


def release(storage: BaseStorage) -> None:
    """Close this process's connections, as one must before forking; they are opened again when needed."""
    inner = storage.inner if isinstance(storage, Patient) else storage
    database = getattr(inner, "_backend", inner)  # what optuna.storages.get_storage wraps in a cache
    if isinstance(database, RDBStorage):
        database.remove_session()
        database.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna says only what went wrong."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def journal_url(directory: Path) -> str:
    """The URL of the journal that a check keeps in its `out` directory."""
    return f"journal:///{directory.absolute() / 'trials.journal'}"


def _opened(target: URL) -> BaseStorage:
    kind = target.get_backend_name()
    if kind == "journal":
        return open_journal(Path(target.database or ""))
    if kind == "grpc":
        return _proxy(target)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        _make_parent(target)
        options = {"connect_args": {"timeout": BUSY_SECONDS, "isolation_level": None}}
    database = RDBStorage(target.render_as_string(hide_password=False), engine_kwargs=options)
    if kind == "sqlite":
        _serialise(database.engine)
    return get_storage(database)


def _proxy(target: URL) -> BaseStorage:
    if importlib.util.find_spec("grpc") is None:
        raise ImportError("No module named 'grpc'")
    from optuna.storages import GrpcStorageProxy

    with warnings.catch_warnings():  # experimental, says Optuna, since its version 4.2
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = GrpcStorageProxy(host=target.host or "localhost", port=target.port or 13000)
    storage.wait_server_ready(timeout=20)
    return storage


def _parsed(url: str) -> URL:
    if url and "://" not in url and Path(url).is_dir():
        url = journal_url(Path(url))
    try:
        target = make_url(url)
    except (ArgumentError, ValueError, AttributeError) as error:
        raise UsageError(
            f"storage={masked(str(url))!r} is not a database URL. Use {KINDS}, or the directory of a check."
        ) from error
    missing = importlib.util.find_spec("psycopg2") is None and importlib.util.find_spec("psycopg") is not None
    if target.drivername == "postgresql" and missing:
        return target.set(drivername="postgresql+psycopg")  # the driver that the extra "postgres" installs
    return target


def _make_parent(target: URL) -> None:
    if not target.database or target.database == ":memory:":
        raise UsageError("storage='sqlite://' keeps nothing and cannot be shared. Use sqlite:///FILE.db.")
    try:
        Path(target.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot make the directory of {target.database}: {error.strerror}.") from error


def _serialise(engine: Engine) -> None:
    """Write-ahead mode for every new connection; every transaction BEGINs IMMEDIATE, so claims are atomic.

    Optuna relies on row locks for "this trial is mine now", which SQLite does not have.
    """

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before know nothing of this


def _made_by_another(error: BaseException) -> bool:
    """Whether an exception says that another process made the same tables at the same moment."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "orig", None) or error).lower()
    return any(part in text for part in ("already exists", "unique constraint", "duplicate key", "no such table"))


def _reason(error: BaseException) -> str:
    """The innermost cause on one line, with what to do where that is known."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = bounded(masked(str(getattr(error, "orig", None) or error))) or type(error).__name__
    if isinstance(error, ImportError):
        return f"{text}. Install its driver (pip install 'hptransfer[postgres]' for PostgreSQL, grpcio for gRPC)."
    return f"{text.rstrip('.')}. Check the URL, that the server runs and that you may write to it."
