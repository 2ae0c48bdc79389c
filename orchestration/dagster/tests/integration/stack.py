"""The local stack: the one that is up, and others that a test starts for itself."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from lakehouse_analytics.settings import repository_root

#: Read at once: tests run without the LAKEHOUSE_* of their surroundings.
STACK = repository_root() / os.environ.get("LAKEHOUSE_STACK_DIR", ".stack")


def stack_environment() -> dict[str, str]:
    """What `make stack-up` wrote. A missing stack is a failure: nothing here is skipped for want of an engine."""
    path = STACK / "env"
    if not path.is_file():
        pytest.fail(f"{path} does not exist: make stack-up first")
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words)


def start_part(name: str) -> None:
    """Start an optional part of the stack that is up, unless it runs already."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("LAKEHOUSE_")}
    tool = repository_root() / "infrastructure" / "local" / "stack.sh"
    environment = {**clean, "LAKEHOUSE_STACK_DIR": str(STACK)}
    done = subprocess.run([tool, "start", name], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def kill_part(name: str) -> None:
    """Kill an optional part of the stack at once, which the tool would do a second later."""
    process = psutil.Process(int((STACK / "run" / f"{name}.pid").read_text()))
    process.kill()
    process.wait(30)


@contextmanager
def empty_database() -> Iterator[str]:
    """The address of a database of the stack's PostgreSQL that lives as long as the block."""
    import psycopg2

    address = urlsplit(stack_environment()["PYICEBERG_CATALOG__LAKEHOUSE__URI"].replace("+psycopg2", ""))
    name = f"dagster_{uuid.uuid4().hex}"
    server = psycopg2.connect(address._replace(path="/postgres").geturl())
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"create database {name}")
        yield address._replace(path=f"/{name}").geturl()
        cursor.execute(f"drop database {name} with (force)")
    server.close()


PARTS = ("postgres", "s3", "trino")


@dataclass(frozen=True)
class Stack:
    """One of a test's own, in a folder."""

    state: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the tool as `make` does, unaware of any other stack that the environment names."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
        clean |= {"LAKEHOUSE_STACK_DIR": str(self.state), "LAKEHOUSE_STACK_TRINO_HEAP": "1G"}
        # It answers few queries, so optimized code does not pay.
        clean |= {"LAKEHOUSE_STACK_TRINO_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1", **environment}
        tool = repository_root() / "infrastructure" / "local" / "stack.sh"
        return subprocess.run([tool, *words], env=clean, capture_output=True, text=True, check=False)

    def do(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *words: str, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def env(self) -> dict[str, str]:
        return dict(shlex.split(line)[0].split("=", 1) for line in (self.state / "env").read_text().splitlines())

    @property
    def settings(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "settings.json").read_text()))

    @property
    def secrets(self) -> dict[str, str]:
        return {name: value for name, value in self.settings.items() if re.search("password|secret", name)}

    def pids(self) -> dict[str, int]:
        return {part: int((self.state / "run" / f"{part}.pid").read_text()) for part in PARTS}

    def sql(self, statement: str, *, scheme: str = "https", **login: Any) -> list[list[Any]]:
        """Ask Trino: with the password, unless another log-in is given."""
        from trino.auth import BasicAuthentication
        from trino.dbapi import connect

        with requests.Session() as session:
            session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
            session.verify = self.env["LAKEHOUSE_TRINO_CA_BUNDLE"]
            session.cert = login.pop("cert", None)
            user, password = self.env["LAKEHOUSE_TRINO_USER"], self.env["LAKEHOUSE_TRINO_PASSWORD"]
            port = self.settings[f"trino_{scheme}_port"]
            login = login or {"auth": BasicAuthentication(user, password)}
            connection = connect(host="localhost", port=port, http_scheme=scheme, http_session=session, **login)
            cursor = connection.cursor()
            cursor.execute(statement)
            return [list(row) for row in cursor.fetchall()]

    def arrow(self, table: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a table's rows, read by pyiceberg with only the settings of the file `env`."""
        from pyiceberg.catalog import load_catalog
        from pyiceberg.utils.config import Config

        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        config: dict[str, Any] = Config().get_catalog_config("lakehouse") or {}
        catalog = load_catalog("lakehouse", **config)
        return catalog.load_table(table).scan().to_arrow()


def configure_trino(
    state: Path, *, groups: Mapping[str, Any] | None = None, rules: Mapping[str, Any] | None = None
) -> Path:
    """Give a stack that is not started yet resource groups, and rules of access, which Trino reads every second.

    Returns:
        The file of the rules.
    """
    etc = state / "data" / "trino" / "etc"  # below Trino's working directory, where it looks for both
    etc.mkdir(parents=True, exist_ok=True)
    if groups is not None:
        (etc / "resource-groups.json").write_text(json.dumps(groups))
        (etc / "resource-groups.properties").write_text(
            f"resource-groups.configuration-manager=file\nresource-groups.config-file={etc / 'resource-groups.json'}\n"
        )
    if rules is not None:
        (etc / "rules.json").write_text(json.dumps(rules))
        (etc / "access-control.properties").write_text(
            f"access-control.name=file\nsecurity.config-file={etc / 'rules.json'}\nsecurity.refresh-period=1s\n"
        )
    return etc / "rules.json"


@contextmanager
def own_stack(state: Path, workers: int = 1) -> Iterator[Stack]:
    """A stack for as long as the block, whatever is done to it there; `workers` is its number of Trino processes."""
    stack = Stack(state)
    # Away from where other stacks look for free ports: they would take that of a part that is stopped for a while.
    first = random.randrange(20_000, 30_000)
    names = ("POSTGRES", "S3", "TRINO_HTTP", "TRINO_HTTPS")
    ports = {f"LAKEHOUSE_STACK_{name}_PORT": str(first + number) for number, name in enumerate(names)}
    try:
        started = stack.run("up", **ports, LAKEHOUSE_STACK_WORKERS=str(workers))
        output = started.stdout
        assert started.returncode == 0, output + started.stderr
        assert "a table was written, read and dropped" in output
        assert not [name for name, secret in stack.secrets.items() if secret in output]
        yield stack
    finally:
        stack.run("down")
    assert not [process.info for process in psutil.process_iter(["cmdline"]) if str(state) in str(process.info)]
