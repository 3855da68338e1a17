"""Every strand's numbers hold, and fail where the theory's constant is off by a tenth, either way."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hptransfer.cli import main
from hptransfer.mechanics.programme.check import Check
from hptransfer.mechanics.programme.run import STRANDS, compared


@cache
def measured(name: str) -> dict[str, float]:
    return STRANDS[name].simulate(seed=0)


@pytest.mark.parametrize("name", STRANDS)
def test_the_theory_holds_in_simulation(name: str) -> None:
    checks = compared(STRANDS[name], STRANDS[name].theory(), measured(name))
    assert len(checks) >= 3 and all(check.ok for check in checks), [c for c in checks if not c.ok]


@pytest.mark.parametrize("constant", [0.9, 1.1])
@pytest.mark.parametrize("name", STRANDS)
def test_a_constant_that_is_a_tenth_off_fails_every_check(name: str, constant: float) -> None:
    checks = compared(STRANDS[name], STRANDS[name].theory(constant=constant), measured(name))
    assert not any(check.ok for check in checks), [c for c in checks if c.ok]


def test_another_seed_measures_something_else_and_still_holds() -> None:
    """The tolerance is no fit to one seed: the cheapest random strand under two more."""
    for seed in (1, 2):
        module = STRANDS["kernel_regression"]
        again = module.simulate(seed=seed)
        assert again != measured("kernel_regression")
        assert all(check.ok for check in compared(module, module.theory(), again))


def test_an_error_is_relative_and_signless() -> None:
    assert Check("x", "y", -2.0, -2.1, 0.06).ok and not Check("x", "y", 2.0, 2.2, 0.05).ok
    assert Check("x", "y", 2.0, np.inf, 0.5).ok is False


def test_the_command_prints_a_table_writes_a_page_and_refuses_unknown_strands(tmp_path, capsys) -> None:
    assert main(["mechanics", "--only", "linear_networks", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "predicted" in out and "PASS" in out and "FAIL" not in out
    page = (tmp_path / "mechanics.html").read_text()
    assert "<svg" in page and "4 of 4 numbers" in page and "mathdefault" not in page
    assert main(["mechanics", "--only", "alchemy"]) == 2
    assert "Unknown strand alchemy" in capsys.readouterr().err
