"""dbt as child processes: commands, their log as it happens, their results as data.

dagster-dbt's `DbtCliResource` does the same and more; it costs an import of dbt (2.2 CPU seconds and
88 MB) in every process that loads the code location, a `dbt --version` (3 to 4 CPU seconds) in every
run and dbt's own start-up in every command. `benchmarks/` measures it.
"""

import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from lakehouse_analytics.dbt.session import DbtProcess, Ended, Finished, Logged, Message, Request, start_process
from lakehouse_analytics.dbt.run_results import DbtResult, NodeResult

PARTIAL_PARSE = "partial_parse.msgpack"
#: dbt's `--vars`; see `Settings.dbt_vars`.
VARS = "LAKEHOUSE_DBT_VARS"
#: Levels of dbt's log that a run passes on.
LEVELS = ("info", "warn", "error")

Log = Callable[[str, str], None]


def run_to_end(process: DbtProcess, request: Request, log: Log) -> DbtResult:
    """Run one command that asks nothing, to its end.

    Args:
        process: Where dbt is.
        request: The command.
        log: As of `DbtSession.run`.
    """
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    nodes: dict[str, NodeResult] = {}
    errors: list[str] = []
    process.start(request, inbox.put)
    while not isinstance(message := inbox.get(), Ended):
        if isinstance(message, Finished):
            nodes[message.node.unique_id] = message.node
        elif isinstance(message, Logged):
            if message.level == "error":
                errors.append(message.message)
            log(message.level, message.message)
    return DbtResult(message.exit_code, nodes, (*(errors or message.errors),), (*message.stray,))


class DbtSession:
    """Runs dbt commands one after the other, in a process that imports dbt once."""

    def __init__(self, runner: "DbtRunner", adapter: str, environment: Mapping[str, str]) -> None:
        self._runner, self._adapter, self._environment = runner, adapter, environment
        self._process = start_process(adapter)

    def run(
        self, args: Sequence[str], log: Log, *, target_path: Path, hook: Mapping[str, str] | None = None
    ) -> DbtResult:
        """Run one dbt command to its end.

        Args:
            args: The command and its options, such as `["parse"]`.
            log: Called with the level and the message of each line. The level is dbt's (debug, info, warn, error), or
                `REPEATED`, or `STRAY` for lines that are not dbt's.
            target_path: For artifacts.
            hook: Arguments of `dbt_hooks.installed`.

        Returns:
            Exit code and node results. A dbt that crashed is a result too: see `DbtResult.crashed`.
        """
        if not self._process.alive:
            self.stop()
            self._process = start_process(self._adapter)
        request = self._runner.request(args, self._environment, target_path=str(target_path), hook=hook)
        return run_to_end(self._process, request, log)

    def stop(self) -> None:
        """End the process, and what it is doing."""
        self._process.stop()


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
        session = DbtSession(self, adapter, environment or {})
        try:
            yield session
        finally:
            session.stop()

    @property
    def manifest(self) -> str:
        """The parsed project that builds start from, so that no run parses it."""
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
        """A command for `dbt.session`.

        Args:
            args: The command and its options.
            environment: Variables of this run beside the runner's own.
            target_path: For artifacts; of a build from a plan only compiled SQL.
            plan: What to build, from the parsed project.
            hook: Arguments of `dbt_hooks.installed`.
            parsed: A command without a plan starts from the parsed project, too, instead of parsing by itself.
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
        # From the environment and not a field of the resource, whose fields are shown in Dagster's UI.
        variables = environment.get(VARS, "").strip()
        return ["--target", self.target, *(["--vars", variables] if variables else [])]

    def _flags(self, target_path: str, *, artifacts: bool) -> dict[str, str]:
        """dbt's global options, as its environment variables."""
        return {
            "DBT_PROJECT_DIR": self.project_dir,
            "DBT_PROFILES_DIR": self.profiles_dir,
            "DBT_TARGET_PATH": target_path,
            "DBT_LOG_PATH": target_path,
            # The log comes over the socket. Artifacts a project may have switched off.
            "DBT_LOG_LEVEL": "none",
            "DBT_LOG_LEVEL_FILE": "none",
            "DBT_WRITE_JSON": str(artifacts).lower(),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "DBT_USE_COLORS": "false",
        }
