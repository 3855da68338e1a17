"""Secrets in text that is kept or shown: passwords in URLs, and values of options and settings that are named so."""

# pyright: strict
from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"
_NAMED = r"[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|api[_-]?key|access[_-]?key)[\w.-]*"
_IN_URL = re.compile(r"(?P<head>\b[A-Za-z][\w+.-]*://[^\s:/@'\"]*:)[^\s/'\"]*(?:/[^\s/@'\"]*)*(?=@)")
_SETTING = re.compile(rf"(?P<head>\b{_NAMED}\s*[=:]\s*)(?P<quote>['\"]?)[^\s&'\",;]+", re.IGNORECASE)
_OPTION = re.compile(rf"--?{_NAMED}", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with *** in place of the password of every URL and of the value of every setting named as a secret."""
    hidden = _IN_URL.sub(rf"\g<head>{MASK}", text)
    return _SETTING.sub(rf"\g<head>\g<quote>{MASK}", hidden)


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """The same for a command's arguments, where the value of `--token` is an argument of its own."""
    after_secret = [False, *(bool(_OPTION.fullmatch(argument)) for argument in arguments)]
    return [MASK if secret else masked(argument) for argument, secret in zip(arguments, after_secret, strict=False)]
