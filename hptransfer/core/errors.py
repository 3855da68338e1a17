"""The one error that means "the input was wrong": the command line prints it on one line and exits with 2."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad input. The message says what was wrong, with the value, what is allowed, and what to do."""
