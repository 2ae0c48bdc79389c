"""A PostgreSQL server of a test's own, by the programs that `make stack-up` uses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

sys.path.insert(0, str(Path(__file__).parents[4] / "infrastructure" / "local"))

from stack.postgres_programs import as_user, programs, server_user

ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def free_port() -> int:
    """A port of this machine that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class PostgresServer:
    """A server on loopback whose only user, `postgres`, needs no password."""

    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [*as_user(self.data.stat().st_uid), str(programs(self.data) / "postgres"), "-D", str(self.data)]
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.data / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=ENVIRONMENT, cwd="/", stdout=log, stderr=log)
        for _ in range(300):
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(self.url("postgres"), connect_timeout=3).close()
                return
            assert self.process.poll() is None, (self.data / "log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.data / "log").read_text())

    def stop(self) -> None:
        """Stop it, without waiting for its clients."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            self.process = None

    def url(self, database: str, user: str = "postgres") -> str:
        """The address of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def ask(self, statement: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement, in a session of its own."""
        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def new_database(self) -> str:
        """An empty database's name."""
        name = f"d{uuid.uuid4().hex}"
        self.ask(f"create database {name}")
        return name


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server on new data, for as long as the block runs."""
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    owner = server_user()
    os.chown(home, owner, -1)
    server = PostgresServer(home / "data", free_port())
    try:
        initdb = [*as_user(owner), str(programs(server.data) / "initdb"), "-D", str(server.data), "-U", "postgres"]
        initdb += ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initdb, env=ENVIRONMENT, cwd="/", check=True, capture_output=True)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
