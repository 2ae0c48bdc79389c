"""Another folder as `lakehouse_analytics.defs`, for as long as a test."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import lakehouse_analytics
import pytest
from lakehouse_analytics.user_defs import PACKAGE


@contextmanager
def own_defs(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """Write the files; Python and Dagster import them as those of the package."""
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, PACKAGE, module)
        patch.setattr(lakehouse_analytics, PACKAGE.rpartition(".")[2], module, raising=False)
        try:
            yield folder
        finally:
            for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
                del sys.modules[name]
