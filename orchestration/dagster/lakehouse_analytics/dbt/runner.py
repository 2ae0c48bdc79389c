"""Runs dbt commands in a child process, with their log lines and results as data.

dagster-dbt's `DbtCliResource` does the same and more, but costs an import of dbt (2.2 CPU seconds and 88 MB) in every
process that loads the code location, a `dbt --version` (3 to 4 CPU seconds) in every run, and dbt's start-up in every
command. `benchmarks/` measures this.
"""

import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from lakehouse_analytics.dbt.run_results import DbtResult, NodeResult
from lakehouse_analytics.dbt.session import (
    CommandEnded,
    DbtProcess,
    LogLine,
    Message,
    NodeFinished,
    Request,
    start_process,
)

PARTIAL_PARSE = "partial_parse.msgpack"
#: Environment variable with dbt's `--vars`. See `Settings.dbt_vars`.
VARS = "LAKEHOUSE_DBT_VARS"
#: Levels of dbt's log lines that a run logs.
LEVELS = ("info", "warn", "error")

Log = Callable[[str, str], None]


def run_to_end(process: DbtProcess, request: Request, log: Log) -> DbtResult:
    """Run a command without a plan, and return its result.

    Args:
        process: dbt's process.
        request: The command.
        log: Called with the level and the message of each line. See `DbtSession.run`.
    """
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    nodes: dict[str, NodeResult] = {}
    errors: list[str] = []
    process.start(request, inbox.put)
    while not isinstance(message := inbox.get(), CommandEnded):
        if isinstance(message, NodeFinished):
            nodes[message.node.unique_id] = message.node
        elif isinstance(message, LogLine):
            if message.level == "error":
                errors.append(message.message)
            log(message.level, message.message)
    return DbtResult(message.exit_code, nodes, (*(errors or message.errors),), (*message.stray,))


class DbtSession:
    """Runs dbt commands one after the other in a single process, which imports dbt only once."""

    def __init__(self, runner: "DbtRunner", adapter: str, environment: Mapping[str, str]) -> None:
        self._runner, self._adapter, self._environment = runner, adapter, environment
        self._process = start_process(adapter)

    def run(
        self,
        args: Sequence[str],
        log: Log,
        *,
        target_path: Path,
        hook: Mapping[str, str] | None = None,
        parsed: bool = False,
    ) -> DbtResult:
        """Run one dbt command and wait for its end.

        Args:
            args: The command and its options, such as `["parse"]`.
            log: Called with the level and the message of each line. The level is one of dbt's (debug, info, warn,
                error), `REPEATED`, or `STRAY` for lines that dbt did not log.
            target_path: The folder for artifacts.
            hook: Options of `hooks.install_hook`.
            parsed: Whether the command starts from the parsed project, instead of parsing.

        Returns:
            The exit code and the results of the nodes. If dbt crashed, there is a result as well; see
            `DbtResult.crashed`.
        """
        if not self._process.is_alive:
            self.stop()
            self._process = start_process(self._adapter)
        request = self._runner.request(args, self._environment, target_path=str(target_path), hook=hook, parsed=parsed)
        return run_to_end(self._process, request, log)

    def stop(self) -> None:
        """Stop the process, and the command that it runs."""
        self._process.stop()


class DbtRunner(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs dbt commands for one project and target.

    Attributes:
        project_dir: The folder of the project.
        profiles_dir: The folder of `profiles.yml`.
        target: The name of the target.
        target_path: The folder of the manifest and of dbt's partial parse. Builds never write to it.
        environment: Environment variables for dbt in addition to this process's own.
        database_environment: Environment variables for commands that use the database, so not for `dbt deps`.
    """

    project_dir: str
    profiles_dir: str
    target: str
    target_path: str
    environment: dict[str, str] = Field(default_factory=dict)
    database_environment: dict[str, str] = Field(default_factory=dict)

    @contextmanager
    def session(self, adapter: str = "", environment: Mapping[str, str] | None = None) -> Iterator[DbtSession]:
        """Start a child process that imports dbt and, if it is known, the adapter.

        Args:
            adapter: The name of the adapter, such as `duckdb`.
            environment: Environment variables of this session's commands in addition to the runner's own.

        Yields:
            The session. Its process is stopped at the end of the block.
        """
        session = DbtSession(self, adapter, environment or {})
        try:
            yield session
        finally:
            session.stop()

    @property
    def manifest(self) -> str:
        """The path of the parsed project that builds start from, so that no run has to parse it."""
        return str(Path(self.target_path) / PARTIAL_PARSE)

    def request(
        self,
        args: Sequence[str],
        environment: Mapping[str, str],
        *,
        target_path: str,
        plan: Mapping[str, object] | None = None,
        hook: Mapping[str, str] | None = None,
        parsed: bool = False,
    ) -> Request:
        """Return a command for dbt's process.

        Args:
            args: The command and its options.
            environment: Environment variables of this run in addition to the runner's own.
            target_path: The folder for artifacts. A build from a plan only writes compiled SQL.
            plan: What to build, starting from the parsed project.
            hook: Options of `hooks.install_hook`.
            parsed: Whether a command without a plan starts from the parsed project as well, instead of parsing.
        """
        whole = {**os.environ, **self.environment, **environment}
        levels = ("debug", *LEVELS) if os.getenv("DEBUG") else LEVELS
        return Request(
            args=[*args, *self._options(whole)],
            folder=self.project_dir,
            environment={**whole, **self._flags(target_path, artifacts=plan is None)},
            manifest=self.manifest if parsed or plan is not None else None,
            plan=plan,
            hook=hook,
            levels=levels,
        )

    def _options(self, environment: Mapping[str, str]) -> list[str]:
        # Not a field of the resource, because Dagster's UI displays those.
        variables = environment.get(VARS, "").strip()
        return ["--target", self.target, *(["--vars", variables] if variables else [])]

    def _flags(self, target_path: str, *, artifacts: bool) -> dict[str, str]:
        """Return dbt's global options as environment variables."""
        return {
            "DBT_PROJECT_DIR": self.project_dir,
            "DBT_PROFILES_DIR": self.profiles_dir,
            "DBT_TARGET_PATH": target_path,
            "DBT_LOG_PATH": target_path,
            # Log lines are sent over the socket. A project may have turned artifacts off.
            "DBT_LOG_LEVEL": "none",
            "DBT_LOG_LEVEL_FILE": "none",
            "DBT_WRITE_JSON": str(artifacts).lower(),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "DBT_USE_COLORS": "false",
        }
