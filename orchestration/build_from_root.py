"""The build backend (PEP 517) of the checkout's root: setuptools, in the folder of the package."""

from __future__ import annotations

import os
from pathlib import Path

os.chdir(Path(__file__).parent / "dagster")

from setuptools.build_meta import *  # noqa: E402, F403
