"""dbt as child processes: commands, their log as it happens, their results as data.

dagster-dbt's `DbtCliResource` does the same and more; it costs an import of dbt (2.2 CPU seconds and
88 MB) in every process that loads the code location, a `dbt --version` (3 to 4 CPU seconds) in every
run and dbt's own start-up in every command. `benchmarks/` measures it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
from pydantic import Field

from lakehouse_analytics.dbt.session import REPEATED, REPEATED_EVENTS, STRAY, Request
from lakehouse_analytics.dbt_server import TERMINATION_SECONDS
from lakehouse_analytics.run_results import COMPILED_CODE, DbtResult, read_results

PARTIAL_PARSE = "partial_parse.msgpack"
#: dbt's `--vars`; see `Settings.dbt_vars`.
VARS = "LAKEHOUSE_DBT_VARS"
#: Levels of dbt's log that a run passes on.
LEVELS = ("info", "warn", "error")
#: It names a file of a temporary folder, which is gone when the run ends.
_COMPILED_PATH = "SQLCompiledPath"
NOT_STARTED = "dbt could not be started: what it said stands in this process's error output"

Log = Callable[[str, str], None]


class DbtSession:
    """Runs dbt commands one after the other, with dbt imported once. See `dbt_server`."""

    def __init__(
        self, runner: "DbtRunner", control: socket.socket, environment: Mapping[str, str], folder: Path
    ) -> None:
        self._runner, self._control, self._environment = runner, control, environment
        self._parsed = folder / PARTIAL_PARSE
        if (built := Path(runner.target_path) / PARTIAL_PARSE).is_file():
            shutil.copy(built, self._parsed)
        self._answers = control.makefile("r")

    def run(
        self, args: Sequence[str], log: Log, *, target_path: Path | None = None, hook: Mapping[str, str] | None = None
    ) -> DbtResult:
        """Run one dbt command to its end.

        Args:
            args: The command and its options, such as `["build", "--select", "fqn:a.b"]`.
            log: Called with the level and the message of each line. The level is dbt's (debug, info, warn, error), or
                `REPEATED`, or `STRAY` for lines that are not dbt's.
            target_path: For artifacts; default: a temporary folder, so that commands do not share one.
            hook: Arguments of `dbt_hooks.install`, which is called in dbt's process before the command.

        Returns:
            Exit code and node results. A dbt that crashed is a result too: see `DbtResult.crashed`.
        """
        if target_path:
            return self._run(args, log, target_path, hook)
        with tempfile.TemporaryDirectory(prefix="dbt-") as folder:
            ours = Path(folder) / PARTIAL_PARSE
            if self._parsed.is_file():
                shutil.copy(self._parsed, ours)
            result = self._run(args, log, Path(folder))
            # dbt parses all anew where the connection is another than at the image's build: once a run, not each time.
            if ours.is_file() and not result.crashed:
                shutil.move(ours, self._parsed)
            return result

    def _run(
        self, args: Sequence[str], log: Log, target_path: Path, hook: Mapping[str, str] | None = None
    ) -> DbtResult:
        environment = {**os.environ, **self._runner.environment, **self._environment}
        command = {
            "args": [*args, *self._runner._options(environment)],
            "cwd": self._runner.project_dir,
            "env": {**environment, **self._runner.flags(target_path)},
            "hook": hook,
        }
        errors: list[str] = []
        stray: deque[str] = deque(maxlen=20)
        try:
            lines = self._send(command)
        except OSError:  # the server is gone before it took the command
            return DbtResult(-1, {}, (NOT_STARTED,))
        pid: int | None = None
        with lines:
            try:
                pid = self._answer()
                for line in lines:
                    level, name, message = _event(line.rstrip())
                    if level == "error":
                        errors.append(message)
                    if name == _COMPILED_PATH:
                        continue
                    if name in REPEATED_EVENTS:
                        level = REPEATED
                    elif level == STRAY:
                        stray.append(message)
                    if message:
                        log(level, message)
                exit_code = self._answer()
            except BaseException:
                self._interrupt(pid, lines)
                raise
        if pid is None:
            errors.append(NOT_STARTED)
        nodes = read_results(target_path / "run_results.json")
        return DbtResult(-1 if exit_code is None else exit_code, nodes, tuple(errors), tuple(stray))

    def _send(self, command: object) -> TextIO:
        reader, writer = os.pipe()
        try:
            socket.send_fds(self._control, [b"!"], [writer])
            self._control.sendall(json.dumps(command).encode() + b"\n")
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return os.fdopen(reader, errors="replace")

    def _answer(self) -> int | None:
        with suppress(ConnectionError):
            line = self._answers.readline()
            return int(line) if line else None
        return None

    def _interrupt(self, pid: int | None, lines: TextIO) -> None:
        # Not started yet: it will start, because the server has the command, and must not be left alone.
        pid = pid or self._answer()
        if pid is None:
            return
        _signal(pid, signal.SIGINT)
        kill = threading.Timer(TERMINATION_SECONDS, _signal, (pid, signal.SIGKILL))
        kill.start()
        try:
            # To the end: a dbt that nobody reads stands still.
            while lines.readline():
                pass
            self._answer()
        finally:
            kill.cancel()


class DbtRunner(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs dbt commands against one project and target.

    Attributes:
        project_dir, profiles_dir, target: As dbt's options of those names.
        target_path: Where the manifest and dbt's partial parse lie; never written by a build.
        environment: Variables for dbt beside this process's own.
        database_environment: Variables for commands that talk to the database; not for `dbt deps`.
    """

    project_dir: str
    profiles_dir: str
    target: str
    target_path: str
    environment: dict[str, str] = Field(default_factory=dict)
    database_environment: dict[str, str] = Field(default_factory=dict)

    @contextmanager
    def session(self, adapter: str = "", environment: Mapping[str, str] | None = None) -> Iterator[DbtSession]:
        """Start importing dbt, and the adapter's module where it is known, in a child process.

        Args:
            adapter: The adapter's name, as `duckdb`.
            environment: Variables of this session's commands beside the runner's own.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                server = subprocess.Popen(
                    [sys.executable, "-m", "lakehouse_analytics.dbt_server", str(theirs.fileno()), adapter],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C reaches dbt once, from us
                )
            try:
                with tempfile.TemporaryDirectory(prefix="dbt-") as folder:
                    yield DbtSession(self, ours, environment or {}, Path(folder))
            finally:
                with suppress(OSError):  # the server may be gone already
                    ours.shutdown(socket.SHUT_RDWR)
                server.wait()

    @property
    def manifest(self) -> str:
        """The parsed project that builds start from, so that no run parses it."""
        return str(Path(self.target_path) / PARTIAL_PARSE)

    def request(
        self, args: Sequence[str], environment: Mapping[str, str], *, target_path: str, plan: Mapping[str, Any]
    ) -> Request:
        """A build for `dbt.session`.

        Args:
            args: The command and its options.
            environment: Variables of this run beside the runner's own.
            target_path: For compiled SQL.
            plan: What to build.
        """
        whole = {**os.environ, **self.environment, **environment}
        # Results and the log come over the socket.
        said = {"DBT_WRITE_JSON": "false", "DBT_LOG_LEVEL": "none", "DBT_LOG_LEVEL_FILE": "none"}
        levels = ("debug", *LEVELS) if os.getenv("DEBUG") else LEVELS
        return Request(
            args=[*args, *self._options(whole)],
            folder=self.project_dir,
            environment={**whole, **self.flags(Path(target_path)), **said},
            manifest=self.manifest,
            plan=plan,
            levels=levels,
        )

    def _options(self, environment: Mapping[str, str]) -> list[str]:
        # From the environment and not a field of the resource, whose fields are shown in Dagster's UI.
        variables = environment.get(VARS, "").strip()
        return ["--target", self.target, *(["--vars", variables] if variables else [])]

    def flags(self, target_path: Path) -> dict[str, str]:
        """dbt's global options, as its environment variables."""
        return {
            "DBT_PROJECT_DIR": self.project_dir,
            "DBT_PROFILES_DIR": self.profiles_dir,
            "DBT_TARGET_PATH": str(target_path),
            "DBT_LOG_PATH": str(target_path),
            "DBT_LOG_FORMAT": "json",
            # Artifacts and the log file are how we read what dbt did; a project may have switched them off.
            "DBT_WRITE_JSON": "true",
            "DBT_LOG_FORMAT_FILE": "json",
            "DBT_LOG_LEVEL_FILE": "debug",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "DBT_USE_COLORS": "false",
            **({"DBT_LOG_LEVEL": "debug"} if os.getenv("DEBUG") else {}),
        }


def _event(line: str) -> tuple[str, str, str]:
    """Level, name and message of dbt's event."""
    try:
        info = json.loads(line)["info"]
        return str(info["level"]), str(info.get("name")), COMPILED_CODE.sub("", str(info["msg"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not dbt's JSON: a warning of Python or of an adapter's library.
        return STRAY, "", line


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
