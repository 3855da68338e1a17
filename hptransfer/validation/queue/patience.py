"""A storage on a server, waited for while it is away: a database that restarts does not end a study.

A call that failed because the server could not be reached is made again. It may have been done all the same: a trial
made twice is run once (see queue.py), and one claimed by a call whose answer was lost is settled as its holder's death.
"""

from __future__ import annotations

import time
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

SECONDS = 120.0
"""How long a server that is away is waited for."""
FIRST, LONGEST = 0.1, 5.0
"""Seconds between two attempts: the first, doubled up to the longest."""


class Patient(BaseStorage):
    """Another storage, whose calls are repeated while its server cannot be reached."""

    def __init__(self, inner: BaseStorage, *, seconds: float = SECONDS) -> None:
        self.inner, self.seconds = inner, seconds


def is_away(error: BaseException) -> bool:
    """Whether an exception says that the server could not be reached, not that the call was wrong."""
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_away(error.__cause__)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
    code = getattr(error, "code", None)  # grpc.RpcError; grpc itself is optional
    return callable(code) and getattr(code(), "name", "") in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def _patient(name: str) -> Any:
    def call(self: Patient, *args: Any, **kwargs: Any) -> Any:
        until, pause = time.monotonic() + self.seconds, FIRST
        while True:
            try:
                return getattr(self.inner, name)(*args, **kwargs)
            except Exception as error:
                if not is_away(error) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    call.__name__ = name
    return call


for _name in sorted(BaseStorage.__abstractmethods__):
    setattr(Patient, _name, _patient(_name))
Patient.__abstractmethods__ = frozenset()  # every one was given a body above
