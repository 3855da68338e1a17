"""An Optuna storage by URL, fit for several worker processes: claims are atomic, waits instead of "locked" errors."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked

BUSY_SECONDS = 120
"""How long a process waits for another one's write to a SQLite file before it gives up."""


def open_storage(url: str) -> RDBStorage:
    """The storage at an Optuna URL: sqlite:///FILE, postgresql://..., mysql://...; its tables are made where missing.

    A SQLite file is put in write-ahead mode, and each of its transactions takes the write lock at its start: Optuna
    relies on row locks for "this trial is mine now", which SQLite does not have.
    Raises UsageError, on one line, where the URL is none or the database cannot be reached or is no Optuna storage.
    """
    target = _parsed(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if target.get_backend_name() == "sqlite":
        _make_parent(target)
        options = {"connect_args": {"timeout": BUSY_SECONDS, "isolation_level": None}}
    text = target.render_as_string(hide_password=False)
    try:
        with quiet():
            storage = RDBStorage(text, engine_kwargs=options)
            if target.get_backend_name() == "sqlite":
                _serialise(storage.engine)
            storage.get_all_studies()
    except Exception as error:
        raise UsageError(f"Cannot use storage {target.render_as_string()}: {_reason(error)}") from error
    return storage


def release(storage: RDBStorage) -> None:
    """Close this process's connections, as one must before forking; they are opened again when needed."""
    storage.remove_session()
    storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna says only what went wrong."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _parsed(url: str) -> URL:
    try:
        target = make_url(url)
    except (ArgumentError, ValueError, AttributeError) as error:
        raise UsageError(
            f"storage={masked(str(url))!r} is not a database URL. Use sqlite:///FILE.db, or postgresql://USER@HOST/NAME."
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
    """Write-ahead mode for every new connection; every transaction BEGINs IMMEDIATE, so claims are atomic."""

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


def _reason(error: BaseException) -> str:
    """The innermost cause on one line, with what to do where that is known."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = bounded(masked(str(getattr(error, "orig", None) or error))) or type(error).__name__
    if isinstance(error, ImportError):
        return f"{text}. Install its driver (pip install 'hptransfer[postgres]' for PostgreSQL)."
    return f"{text.rstrip('.')}. Check the URL, that the server runs and that you may write to it."
