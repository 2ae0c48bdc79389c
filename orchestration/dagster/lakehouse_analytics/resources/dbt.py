"""dbt as a child process: one command, its log as it happens, its results as data.

dagster-dbt's `DbtCliResource` does the same and more; it costs an import of dbt (2.2 CPU seconds and
88 MB) in every process that loads the code location, and a `dbt --version` (3 to 4 CPU seconds) in
every run. `benchmarks/` measures it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from lakehouse_analytics.run_results import DbtResult, read_results

#: Seconds between SIGINT, on which dbt cancels its queries, and SIGKILL. Pods need a longer grace period.
TERMINATION_SECONDS = 25.0

Log = Callable[[str, str], None]


class DbtRunner(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs dbt commands against one project and target.

    Attributes:
        project_dir, profiles_dir, target: As dbt's options of those names.
        target_path: Where the manifest and dbt's partial parse lie; never written by a build.
        environment: Variables for dbt beside this process's own.
    """

    project_dir: str
    profiles_dir: str
    target: str
    target_path: str
    environment: dict[str, str] = Field(default_factory=dict)

    def run(self, args: Sequence[str], log: Log, *, target_path: Path | None = None) -> DbtResult:
        """Run one dbt command to its end.

        Args:
            args: The command and its options, such as `["build", "--select", "fqn:a.b"]`.
            log: Called with dbt's level (debug, info, warn, error) and message, as they come.
            target_path: For artifacts; default: a temporary folder, so that commands do not share one.

        Returns:
            Exit code and node results. A dbt that crashed is a result too: see `DbtResult.crashed`.
        """
        if target_path:
            return self._run(args, log, target_path)
        with tempfile.TemporaryDirectory(prefix="dbt-") as folder:
            partial_parse = Path(self.target_path) / "partial_parse.msgpack"
            if partial_parse.is_file():
                shutil.copy(partial_parse, folder)
            return self._run(args, log, Path(folder))

    def _run(self, args: Sequence[str], log: Log, target_path: Path) -> DbtResult:
        errors: list[str] = []
        process = subprocess.Popen(
            [_executable(), *args, "--target", self.target],
            cwd=self.project_dir,
            env={**os.environ, **self.environment, **self._flags(target_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for level, message in _events(process.stdout or ()):
                if level == "error":
                    errors.append(message)
                log(level, message)
            exit_code = process.wait()
        finally:
            _stop(process)
        return DbtResult(exit_code, read_results(target_path / "run_results.json"), tuple(errors))

    def _flags(self, target_path: Path) -> dict[str, str]:
        return {
            "DBT_PROJECT_DIR": self.project_dir,
            "DBT_PROFILES_DIR": self.profiles_dir,
            "DBT_TARGET_PATH": str(target_path),
            "DBT_LOG_PATH": str(target_path),
            "DBT_LOG_FORMAT": "json",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "DBT_USE_COLORS": "false",
            "PYTHONUNBUFFERED": "1",
        }


def _executable() -> str:
    # Beside this interpreter first: PATH may hold another environment's dbt.
    beside = Path(sys.executable).parent / "dbt"
    return str(beside) if beside.is_file() else "dbt"


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        text = line.rstrip()
        try:
            info = json.loads(text)["info"]
            yield str(info["level"]), str(info["msg"])
        except (ValueError, KeyError, TypeError):
            # Not dbt's JSON: a warning of Python or of an adapter's library.
            if text:
                yield "info", text


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(TERMINATION_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
