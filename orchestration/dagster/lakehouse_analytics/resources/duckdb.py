"""The embedded engine: one DuckDB file, opened for as long as a question takes."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.database import connect
from lakehouse_analytics.dbt_profile import ProfileError, is_secret
from lakehouse_analytics.retries import FOR_GOOD, Reason
from lakehouse_analytics.settings import Settings, SettingsError
from lakehouse_analytics.sql import literal

if TYPE_CHECKING:
    import duckdb


class DuckDBResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The DuckDB file that dbt builds, opened for as long as a question takes.

    Attributes:
        path: The DuckDB file.
        lock_timeout: Seconds to wait for another process.
        search_path: The folder that relative paths in views start from: dbt's working directory.
    """

    #: It has no queue.
    queue_timeout: ClassVar[float] = 0.0

    path: str
    lock_timeout: float = 60.0
    search_path: str = ""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own and return every row.

        The connection has what dbt's has: attached databases, and the folder of relative paths.

        Raises:
            DatabaseError: the file cannot be opened.
            duckdb.Error: the statement failed; with the attached databases that could not be opened.
        """
        import duckdb

        with connect(Path(self.path), timeout=self.lock_timeout) as connection:
            if self.search_path:
                connection.execute(f"SET file_search_path = {literal(self.search_path)}")
            problems = _attach(connection)
            try:
                return connection.execute(sql).fetchall()
            except duckdb.Error as error:
                if not problems:
                    raise
                raise type(error)("\n".join([str(error).strip(), *problems])) from None

    def wait_until_free(self, say: Callable[[str], None]) -> None:
        """Return once a writer could open the file, so that dbt does not start against a lock.

        `say` is told what is waited for.

        Raises:
            DatabaseError: still locked after `lock_timeout`, or not writable.
        """
        with connect(Path(self.path), read_only=False, timeout=self.lock_timeout, say=say):
            pass

    def judge(self, message: str) -> Reason:  # noqa: ARG002
        """No error of an embedded database passes by itself."""
        return FOR_GOOD

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:  # noqa: ARG002
        """No query waits for others."""
        return nullcontext()

    def query_url(self, query_id: str) -> str | None:  # noqa: ARG002
        """DuckDB keeps no page of a query."""
        return None

    def end_queries_of(self, run_id: str) -> None:
        """Queries of a process end with it."""


def _attach(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Open, for reading, what the profile attaches; returns what could not be opened.

    The profile is read here because an address may contain a password, which the fields of a resource would show.
    """
    import duckdb

    try:
        profile = Settings.load().profile
    except (SettingsError, ProfileError):
        return []  # the location would not have loaded: this resource was made by hand
    problems = []
    for what, statement in profile.attach_statements() if profile.adapter == "duckdb" else ():
        try:
            connection.execute(statement)
        except duckdb.Error as error:
            secret = any(is_secret(name) for name in profile.variables("attach"))
            reason = type(error).__name__ if secret else _redacted(str(error).strip().splitlines()[0], statement)
            problems.append(f"{what} of {profile.where} is not open while rows are counted: {reason}")
    return problems


def _redacted(reason: str, statement: str) -> str:
    """DuckDB's message without the passwords of the statement: it quotes the address that it could not open."""
    of_libpq = re.findall(r"(?i)passw\w*\s*=\s*([^\s']+)", statement)
    return Redactor([*secret_values(statement), *of_libpq])(reason)
