"""Installs a connector into its own Python environment with uv, from a lock file with hashes, once per lock file."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.errors import IngestError

_STAMP = "lakehouse-lock"


@dataclass(frozen=True)
class Environment:
    """An installed connector."""

    directory: Path
    executable: str

    @property
    def command(self) -> list[str]:
        """The command that starts the connector, without arguments."""
        return [str(self.directory / "bin" / "python"), str(self.directory / "bin" / self.executable)]


def ensure(connection: Connection, connectors_dir: Path, progress: Callable[[str], None]) -> Environment:
    """Return the connector's environment, and install it first if it is missing or its lock file changed.

    The stamp is written last, so an interrupted installation is repeated. The package index is only needed to install.

    Raises:
        IngestError: uv or a permission is missing, or the installation failed (with the end of uv's output).
    """
    directory = connectors_dir.absolute() / connection.name
    environment = Environment(directory, connection.connector.executable)
    stamp = _stamp(connection, directory)
    if _is_ready(environment, stamp):
        return environment
    try:
        connectors_dir.mkdir(parents=True, exist_ok=True)
        with _exclusive(connectors_dir / f".{connection.name}.lock"):
            if not _is_ready(environment, stamp):
                _install(connection, directory, progress)
                if not Path(environment.command[1]).is_file():
                    raise IngestError(
                        f"{connection.path}: key 'connector.executable': {connection.connector.package} "
                        f"{connection.connector.version} installs no {environment.executable!r}"
                    )
                (directory / _STAMP).write_text(stamp, encoding="utf-8")
    except OSError as error:
        raise IngestError(
            f"cannot write the connector's environment at {directory} (LAKEHOUSE_CONNECTORS_DIR): {error.strerror}"
        ) from None
    return environment


def find_uv() -> list[str]:
    """Return the command that runs uv: from PATH, `.tools/bin` of the checkout, or as a module of this Python.

    Raises:
        IngestError: uv was not found.
    """
    from lakehouse_analytics.settings import repository_root

    if on_path := shutil.which("uv"):
        return [on_path]
    tool = repository_root() / ".tools" / "bin" / "uv"
    if os.access(tool, os.X_OK):
        return [str(tool)]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise IngestError("uv is needed to install the connector: not on PATH, not at .tools/bin/uv, not a Python module")


def _stamp(connection: Connection, directory: Path) -> str:
    # Scripts and links in an environment contain absolute paths, so a checkout that was moved needs a new one.
    parts = (connection.lock_path.read_bytes(), (connection.connector.python or "").encode(), str(directory).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_ready(environment: Environment, stamp: str) -> bool:
    try:
        # `exists` follows links, so it detects that the environment's base Python was removed.
        return (environment.directory / _STAMP).read_text(encoding="utf-8") == stamp and all(
            Path(part).exists() for part in environment.command
        )
    except OSError:
        return False


def _install(connection: Connection, directory: Path, progress: Callable[[str], None]) -> None:
    connector = connection.connector
    uv = find_uv()
    progress(f"Installing {connector.package} {connector.version} into {directory} (once)")
    python = connector.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.rmtree(directory, ignore_errors=True)
    _run([*uv, "venv", "--quiet", "--no-project", "--python", python, str(directory)], connector.package)
    target = ["--python", str(directory / "bin" / "python"), "--requirement", str(connection.lock_path)]
    _run([*uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", *target], connector.package)


def _run(command: list[str], package: str) -> None:
    # Without VIRTUAL_ENV, so that uv does not use our environment for the connector.
    environ = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        output = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise IngestError(f"installing {package} failed: uv: {output[-600:]}")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
