"""Prepares DAGSTER_HOME on a single machine: the folder, its `dagster.yaml` and the pool limits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened
from lakehouse_analytics.engines.registry import ENGINES

if TYPE_CHECKING:
    from dagster import DagsterInstance

TEMPLATE = Path(__file__).parents[2] / "dagster.yaml"


class HomeError(RuntimeError):
    """DAGSTER_HOME cannot be used."""


def open_home() -> DagsterInstance:
    """Prepare DAGSTER_HOME and open its instance. An existing `dagster.yaml` is not changed.

    Raises:
        HomeError: DAGSTER_HOME is not set or not writable, or it has no `dagster.yaml` and there is none to copy.
    """
    named = os.getenv("DAGSTER_HOME")
    if not named:
        raise HomeError("DAGSTER_HOME is not set. Set it to the folder for Dagster's runs; `make` uses .dagster_home.")
    try:
        home = Path(named).expanduser().absolute()
    except RuntimeError:
        raise HomeError(f"DAGSTER_HOME is {shortened(named)}: no such user's home; set it to a folder.") from None
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            if not TEMPLATE.is_file():
                raise HomeError(
                    f"DAGSTER_HOME {home} has no dagster.yaml, and only a checkout of this project has one to copy: "
                    "put the dagster.yaml of your instance there."
                )
            shutil.copy(TEMPLATE, home / "dagster.yaml")
    except OSError as error:
        raise HomeError(
            f"DAGSTER_HOME {brief(home, MAX_TEXT)} is not writable ({error.strerror}): set it to a folder that is."
        ) from None
    os.environ["DAGSTER_HOME"] = str(home)

    from dagster import DagsterInstance

    from lakehouse_analytics.keys import EXPORTS_POOL

    instance = DagsterInstance.get()
    # `pools.default_limit` is not sufficient: it lets several runs start at once when a pool is used for the first
    # time.
    storage = instance.event_log_storage
    for pool in sorted({engine.pool for engine in ENGINES.values() if engine.pool}):
        storage.set_concurrency_slots(pool, 1)
    # A server can serve several exports at once, so a limit that someone has set stays.
    if EXPORTS_POOL not in {one.name for one in storage.get_pool_limits() if not one.from_default}:
        storage.set_concurrency_slots(EXPORTS_POOL, 1)
    return instance
