"""Secrets in text that is kept or shown: passwords in URLs, and values of options and settings that are named so."""

# pyright: strict
from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"
_WORDS = r"(?:password|passwd|passphrase|pwd|secret|credentials?|(?:api|access|private|secret)[_-]?key)"
_KINDS = r"(?:hf|hub|auth|access|api|bearer|secret|refresh|session|wandb|github|gh|gitlab)"
_NAMED = rf"(?:[\w.-]*{_WORDS}|(?:[\w.-]*{_KINDS}[_-]?)?token)"
"""Names of secrets; `tokens`, `pad_token` and the like are none."""
_IN_URL = re.compile(r"(?P<head>\b[A-Za-z][\w+.-]*://[^\s:/@'\"]*:)[^\s/'\"]*(?:/[^\s/@'\"]*)*(?=@)")
_SETTING = re.compile(rf"(?P<head>(?<![\w-]){_NAMED}['\"]?\s*(?:=|:\s)\s*['\"]?)[^\s&'\",;]+", re.IGNORECASE)
_OPTION = re.compile(rf"--?{_NAMED}", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with *** in place of the password of every URL and of the value of every setting named as a secret."""
    return _SETTING.sub(rf"\g<head>{MASK}", _IN_URL.sub(rf"\g<head>{MASK}", text))


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """The same for a command's arguments, where the value of `--password` is an argument of its own."""
    after_secret = [False, *(bool(_OPTION.fullmatch(argument)) for argument in arguments)]
    return [MASK if secret else masked(argument) for argument, secret in zip(arguments, after_secret, strict=False)]
