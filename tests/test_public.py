"""Every public name exists, and importing the package stays light."""

import subprocess
import sys

import pytest

import hptransfer


@pytest.mark.parametrize("name", sorted(hptransfer._LAZY))
def test_every_lazy_name_is_there(name):
    assert callable(getattr(hptransfer, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hptransfer.nonsense


def test_importing_the_package_loads_neither_optuna_nor_matplotlib():
    code = "import sys, hptransfer; print(sorted({'optuna', 'matplotlib', 'transformers'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
