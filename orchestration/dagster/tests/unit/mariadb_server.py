"""A MariaDB server of a test's own: the machine's, or the one that `make` unpacks into .tools (mariadb.sh)."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from postgres_server import free_port

UNPACKED = Path(__file__).parents[4] / ".tools" / "mariadb"
USER, PASSWORD = "etl", "p@ss/w:rd%"


def program() -> Path:
    """The server's program. Without one, the test fails in CI, and is skipped elsewhere."""
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:{UNPACKED}/usr/sbin")
    if found:
        return Path(found).resolve()
    reason = "there is no mariadbd: install MariaDB's server, or on Debian and Ubuntu run the tests by `make test`"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class MariaDBServer:
    """A server on loopback, with a user that may do everything."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def _command(self, *options: str) -> list[str]:
        share = next(path for name in ("mariadb", "mysql") if (path := program().parents[1] / "share" / name).is_dir())
        command = [str(program()), "--no-defaults", f"--datadir={self.home / 'data'}", f"--user={getpass.getuser()}"]
        return [*command, f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}", *options]

    def _environment(self) -> dict[str, str]:
        libraries = [str(path) for path in (*UNPACKED.glob("usr/lib/*-linux-gnu"), *UNPACKED.glob("lib/*-linux-gnu"))]
        ours = program().is_relative_to(UNPACKED)
        return {"TZ": "Asia/Kolkata"} | ({"LD_LIBRARY_PATH": ":".join(libraries)} if ours else {})

    def install(self) -> None:
        """Write the system tables, and the user."""
        (self.home / "data").mkdir()
        (self.home / "tmp").mkdir()
        command = self._command("--bootstrap")
        share = Path(next(word for word in command if word.startswith("--lc-messages-dir=")).partition("=")[2])
        scripts = [next(share.glob(f"m*_{name}.sql")) for name in ("system_tables", "performance_tables")]
        escaped = PASSWORD.replace("'", "''")
        statements = "\n".join(
            [
                "create database mysql;",
                "use mysql;",
                *(script.read_text() for script in scripts),
                "flush privileges;",
                f"create user {USER}@'%' identified by '{escaped}';",
                f"grant all on *.* to {USER}@'%' with grant option;",
                "",
            ]
        )
        subprocess.run(
            command, input=statements.encode(), env=self._environment(), check=True, capture_output=True, timeout=120
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.home / 'socket'}"]
        options += [f"--tmpdir={self.home / 'tmp'}", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        options += ["--innodb-flush-method=nosync", "--innodb-doublewrite=0", "--max-allowed-packet=64M"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(*options), env=self._environment(), cwd="/", stdout=log, stderr=log
            )
        for _ in range(300):
            with suppress(pymysql.err.OperationalError):
                self.connect("mysql").close()
                return
            assert self.process.poll() is None, (self.home / "log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.home / "log").read_text())

    def stop(self) -> None:
        """Stop it."""
        if self.process:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def url(self, database: str) -> str:
        """The address of a database."""
        password = "".join(f"%{byte:02x}" for byte in PASSWORD.encode())
        return f"mariadb://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> Any:
        """A session that commits each statement."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database=database, autocommit=True
        )

    def ask(self, statement: str, *parameters: object, database: str = "mysql") -> tuple[tuple[Any, ...], ...]:
        """The rows of a statement, in a session of its own."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return tuple(cursor.fetchall())
        finally:
            connection.close()

    def new_database(self) -> str:
        """An empty database's name."""
        name = f"d{uuid.uuid4().hex}"
        self.ask(f"create database {name} character set utf8mb4")
        return name


@contextmanager
def mariadb_server() -> Iterator[MariaDBServer]:
    """A server on new data, for as long as the block runs. Its time zone is not UTC."""
    program()
    server = MariaDBServer(Path(tempfile.mkdtemp(prefix="mariadb-")), free_port())
    try:
        server.install()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)
