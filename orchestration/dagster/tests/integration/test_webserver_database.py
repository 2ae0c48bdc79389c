"""The webserver's pooled connections after a restart of PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from lakehouse_analytics.settings import repository_root

from tests.dagster_ui import DagsterUI, free_port, poll

from .stack import empty_database

pytestmark = [pytest.mark.integration, pytest.mark.trino]  # for the stack's PostgreSQL

VALUES = repository_root() / "infrastructure" / "kubernetes" / "dagster" / "values.yaml"
RECYCLE = int(yaml.safe_load(VALUES.read_text())["dagsterWebserver"]["dbPoolRecycle"])
LOCATION = """
import dagster as dg


@dg.job
def nothing():
    pass


defs = dg.Definitions(jobs=[nothing])
"""


class Webserver(DagsterUI):
    """A webserver without daemons, so that it is ready once its location is loaded."""

    def loaded(self) -> bool:
        try:
            entry: dict[str, Any] = self.ask(
                "query($name: String!) { workspaceLocationEntryOrError(name: $name) { "
                "... on WorkspaceLocationEntry { loadStatus } } }",
                name=self.location,
            )
        except OSError:
            return False
        return entry.get("loadStatus") == "LOADED"


@contextmanager
def webserver(folder: Path, address: str, recycle: int) -> Iterator[Webserver]:
    """`dagster-webserver` on an instance in PostgreSQL, with one job, as the chart starts it."""
    written = {"storage": {"postgres": {"postgres_url": address}}, "telemetry": {"enabled": False}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(written))
    (folder / "location.py").write_text(LOCATION)
    port = free_port()
    program = Path(sys.executable).with_name("dagster-webserver")
    command: list[str | Path] = [program, "-h", "127.0.0.1", "-p", str(port), "-f", folder / "location.py"]
    with (folder / "log").open("w") as log:
        serving = subprocess.Popen(
            [*command, "--db-pool-recycle", str(recycle)],
            env={**os.environ, "DAGSTER_HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
        try:
            ui = Webserver(f"http://127.0.0.1:{port}/graphql", "location.py")
            poll(ui.loaded, seconds=120, what="the webserver", because=(folder / "log").read_text)
            yield ui
        finally:
            serving.terminate()
            serving.wait(timeout=60)


def close_connections(address: str) -> int:
    """Close every connection to the database at the server, as its restart does; how many there were."""
    with psycopg2.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        [closed] = cursor.fetchone() or (0,)
    connection.close()
    return int(closed)


def launch_after_a_restart(folder: Path, recycle: int) -> str:
    with empty_database() as address, webserver(folder, address, recycle) as ui:
        ui.launch("nothing")  # opens connections in the pools of runs and of events
        time.sleep(RECYCLE + 1)
        assert close_connections(address) >= 2
        return ui.launch("nothing")


def test_the_first_launch_after_a_restart_of_postgresql_succeeds(tmp_path: Path) -> None:
    assert launch_after_a_restart(tmp_path, RECYCLE)


@pytest.mark.nightly
def test_with_the_default_of_dagster_it_fails(tmp_path: Path) -> None:
    """Why values.yaml sets `dbPoolRecycle`. If this passes, Dagster has learned to check its connections."""
    with pytest.raises(AssertionError, match="500"):
        launch_after_a_restart(tmp_path, 3600)
