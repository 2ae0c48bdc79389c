"""The resource for Trino. Each statement has a connection of its own."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
from pydantic import PrivateAttr, SecretStr

from lakehouse_analytics.dbt.query_tags import Provenance
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.trino.client import QueryResult, execute, wait_until_ready
from lakehouse_analytics.engines.trino.connection import TrinoConnection
from lakehouse_analytics.engines.trino.errors import Failure, classify_dbt
from lakehouse_analytics.engines.trino.queries import kill_query, list_queries, queue_reported
from lakehouse_analytics.engines.trino.session import TrinoServer
from lakehouse_analytics.iceberg.catalog import check_client
from lakehouse_analytics.iceberg.row_counts import MetadataCounts
from lakehouse_analytics.settings import Settings

#: `query.max-stage-count`, Trino's default. The session property of that name changes it for us.
MAX_STAGES = 150
_LOGGER = logging.getLogger(__name__)
#: For fewer tables, one statement takes less time than importing pyiceberg.
WORTH_IT = 20


def of(settings: Settings) -> "TrinoResource":
    """The resource of an environment."""
    return TrinoResource.of(settings)


class TrinoResource(TrinoConnection, dg.ConfigurableResource):  # type: ignore[type-arg]
    """A Trino coordinator. `settings.py` documents the fields.

    Dagster's UI shows the fields of a resource, so the password and the token are not among them. They are read from
    the environment of the process that connects.
    """

    ui_url: str | None = None
    max_runtime: int = 21_600
    iceberg_catalog: str | None = None

    _token_needed_until: datetime | None = PrivateAttr(default=None)
    _client_tags: tuple[str, ...] = PrivateAttr(default=())
    _run_log: dg.DagsterLogManager | None = PrivateAttr(default=None)
    _metadata: MetadataCounts | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings) -> "TrinoResource":
        """The resource of an environment.

        Raises:
            CatalogError: the client of the Iceberg catalog is not installed.
        """
        if settings.iceberg_catalog:  # ingest writes with it, wherever row counts come from
            check_client(settings.iceberg_catalog)
        return cls(
            **dict(settings.trino_connection),
            ui_url=settings.trino_ui_url,
            max_runtime=settings.max_runtime,
            iceberg_catalog=settings.iceberg_catalog if settings.iceberg_row_counts == "metadata" else None,
        )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note the run: queries have its tags, and the token must be valid until it ends."""
        if context.run is None:
            return
        self._client_tags = Provenance(context.run.run_id, context.run.job_name).client_tags
        self._run_log = context.log
        record = context.instance and context.instance.get_run_record_by_id(context.run.run_id)
        # From the run's start: a step that is retried late must not need a token beyond the end of the run.
        began = datetime.fromtimestamp(record.start_time, UTC) if record and record.start_time else datetime.now(UTC)
        self._token_needed_until = began + timedelta(seconds=self.max_runtime)

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of one statement.

        Raises:
            TrinoError: as `execute`.
        """
        return self.execute(sql).rows

    def execute(self, sql: str, client_tags: Sequence[str] = ()) -> QueryResult:
        """Run one statement, with the run's tags and further ones.

        Raises:
            TrinoError: with the query's id; `TrinoUnavailableError` if other statements would fail as well.
        """
        log = (self._run_log or _LOGGER).warning
        return execute(self.server(), sql, (*self._client_tags, *client_tags), log)

    @property
    def max_stages(self) -> int:
        """Maximum number of stages of a statement."""
        return int(self.session_properties.get("query_max_stage_count", MAX_STAGES)) - 1  # one puts them together

    def known_counts(self, relations: Collection[Relation], *, of: int) -> Mapping[Relation, int]:
        """Exact row counts from the metadata of Iceberg tables, where pyiceberg's catalog is configured.

        Args:
            relations: Tables and views.
            of: Number of tables that the run counts: for few, pyiceberg is not imported.

        Raises:
            CatalogError: the catalog cannot be read, or is not the one that Trino reads.
        """
        if not self.iceberg_catalog or of < WORTH_IT:
            return {}
        self._metadata = self._metadata or MetadataCounts(
            self.iceberg_catalog, database=self.catalog, fetch_all=self.fetch_all
        )
        return self._metadata.rows(relations)

    def wait_until_free(self, log: Callable[[str], None] = _LOGGER.warning) -> None:
        """Return once Trino has started and responds to a query on the catalog; `log` gets what it waits for.

        Raises:
            TrinoUnavailableError: not within `start_timeout` seconds, or at once if waiting cannot help.
        """
        wait_until_ready(self.server(), log)

    def classify_error(self, message: str) -> Failure:
        """Classify dbt's message of a failed node."""
        failure = classify_dbt(message)
        # dbt explains failures that are not Trino's.
        return replace(failure, advice="") if failure.name == "UNKNOWN" else failure

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """While the block runs, log that queries of a run wait in the queue of a resource group."""
        return queue_reported(self.server(), run_id, log)

    def kill_queries(self, run_id: str) -> None:
        """Kill the queries that a dead dbt of a run has left in Trino, where they could run for minutes and commit.

        Over HTTP, because a statement could wait in the queue behind the queries that it is to kill; by statements if a
        gateway does not forward this. Failures are logged.
        """
        reason = "its dbt is dead"
        try:
            queries = [query for query in list_queries(self.server()) if query.belongs_to(run_id) and not query.ended]
        except Exception as error:
            _LOGGER.info("Trino does not list the queries of run %s (%s): asking by a statement", run_id, error)
            self._end_by_statements(run_id, reason)
            return
        for query in queries:
            if not query.source.startswith("dbt"):
                continue
            _LOGGER.warning("Query %s of run %s is ended: %s", query.id, run_id, reason)
            try:
                kill_query(self.server(), query.id, reason)
            except Exception as error:
                _LOGGER.warning("Query %s of run %s may run on: %s", query.id, run_id, error)

    def _end_by_statements(self, run_id: str, reason: str) -> None:
        of_run = f"source like 'dbt%' and query like '%{UUID(run_id)}%'"
        try:
            for (query_id,) in self.fetch_all(
                f"select query_id from system.runtime.queries where {of_run} and state not in ('FINISHED', 'FAILED')"  # noqa: S608  # a UUID
            ):
                _LOGGER.warning("Query %s of run %s is ended: %s", query_id, run_id, reason)
                self.execute(f"call system.runtime.kill_query('{query_id}', '{reason}')")
        except Exception as error:
            _LOGGER.warning("Queries of run %s may run on: %s", run_id, error)

    def query_url(self, query_id: str) -> str:
        """The page of a query in Trino's UI."""
        return f"{(self.ui_url or self.address).rstrip('/')}/ui/query.html?{query_id}"

    def server(self) -> TrinoServer:
        """The connection for the client, with the secret from this process's environment."""
        connection = {name: getattr(self, name) for name in TrinoConnection.model_fields}
        return TrinoServer(**connection, secret=_secret(self.auth), token_needed_until=self._token_needed_until)


def _secret(auth: str) -> SecretStr | None:
    if auth not in ("password", "jwt"):
        return None
    settings = Settings.load()
    return settings.trino_password if auth == "password" else settings.trino_jwt
