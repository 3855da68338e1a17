"""Installed as `pip install -e` does, the package is the one that is imported, also beside its clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_editable(sys.argv[1]))"


@pytest.fixture(scope="module")
def beside_the_clone(tmp_path_factory) -> Path:
    """A folder with a clone called hptransfer, and in `site` what an editable installation of it leaves."""
    setuptools = pytest.importorskip("setuptools", minversion="68")
    assert setuptools
    folder = tmp_path_factory.mktemp("folder")
    clone, site = folder / "hptransfer", folder / "site"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "hptransfer", clone / "hptransfer", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=clone, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return folder


def imported(folder: Path, *, site: Path) -> str:
    code = f"import site; site.addsitedir({str(site)!r}); import hptransfer; print(hptransfer.__file__)"
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", code]  # -S: no other installation of ours is on the path
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_beside_its_clone_the_package_is_imported_and_not_the_clone(beside_the_clone, tmp_path):
    code = str(beside_the_clone / "hptransfer" / "hptransfer" / "__init__.py")
    for folder in (beside_the_clone, beside_the_clone / "hptransfer", tmp_path):
        assert imported(folder, site=beside_the_clone / "site") == code


def test_what_is_not_code_is_packaged():
    """Files that the package opens by name are in the wheel: setuptools takes those that pyproject.toml names."""
    tomllib = pytest.importorskip("tomllib")
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    packaged = {path for pattern in data["hptransfer"] for path in (ROOT / "hptransfer").glob(pattern)}
    code = {path for path in (ROOT / "hptransfer").rglob("*.py") if (path.parent / "__init__.py").exists()}
    others = {path for path in (ROOT / "hptransfer").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert others - code == packaged
