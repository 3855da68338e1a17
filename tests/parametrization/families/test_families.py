"""The role oracle over unmodified transformers families: a few in the default run, all of them with -m slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import FAMILIES, Heads
from families.known import KNOWN
from families.trial import attempt

from scripts.bench_families import markdown

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
transformers.utils.logging.set_verbosity_error()

ROOT = Path(__file__).parents[3]
ROWS = json.loads((ROOT / "benchmarks" / "families.json").read_text())["families"]
FAST = ("nemotron", "electra", "poolformer", "bamba")
TRIALS = [
    pytest.param(name, heads, id=f"{name}-{heads}", marks=[] if name in FAST and heads == "fixed" else pytest.mark.slow)
    for name, family in FAMILIES.items()
    for heads in family.modes
]


@pytest.mark.parametrize(("name", "heads"), TRIALS)
def test_the_oracle_agrees_with_the_plan(name: str, heads: Heads) -> None:
    """Or the outcome is the known one: a family that comes to pass must leave the list of those that do not."""
    widths = (32, 64, 128) if name in FAST and heads == "fixed" else (64, 128, 256)
    trial = attempt(FAMILIES[name], heads, widths=widths)
    known = KNOWN.get((name, heads))
    if known is not None:
        assert trial.verdict == known.verdict, trial.reason
        pytest.xfail(f"{known.verdict}: {known.why}")
    assert trial.verdict == "PASS", trial.reason


def test_what_was_measured_and_does_not_pass_is_known() -> None:
    measured = {(row["family"], row["heads"]): row["verdict"] for row in ROWS}
    expected = {trial: known.verdict for trial, known in KNOWN.items() if trial in measured}
    assert {trial: verdict for trial, verdict in measured.items() if verdict != "PASS"} == expected
    assert {name for name, _ in measured} <= set(FAMILIES) and {name for name, _ in KNOWN} <= set(FAMILIES)


def test_the_page_shows_the_figures_of_the_benchmark() -> None:
    assert markdown(ROWS) in (ROOT / "docs" / "families.md").read_text()
