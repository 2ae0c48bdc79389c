"""One server of each kind for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mariadb_server import MariaDBServer, mariadb_server
from postgres_server import PostgresServer, postgres_server
from source_databases import SourceDatabase, Sync


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB server."""
    with mariadb_server() as server:
        yield server


@pytest.fixture(params=["PostgreSQL", "MariaDB"])
def source(request: pytest.FixtureRequest) -> SourceDatabase:
    """An empty database of each kind."""
    return SourceDatabase.on(request.getfixturevalue("postgres" if request.param == "PostgreSQL" else "mariadb"))


@pytest.fixture
def sync(source: SourceDatabase, tmp_path: Path) -> Sync:
    """The table `t` of an empty database, which does not exist yet."""
    return Sync(source, tmp_path)
