"""The layout of the tests themselves."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_no_folder_hides_an_installed_package() -> None:
    """`python -c` and `python -m` put the working directory first in sys.path, and the tests run in this folder."""
    names = {path.stem for path in TESTS.iterdir() if path.is_dir() or path.suffix == ".py"}
    installed = {*packages_distributions(), *sys.stdlib_module_names} - {"tests"}
    assert names >= {"unit", "definitions", "integration"}
    assert not names & installed
