"""The resource for Trino. Each statement has its own connection."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
from pydantic import PrivateAttr, SecretStr

from lakehouse_analytics.dbt.query_tags import Provenance
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import FetchAll, TableReader
from lakehouse_analytics.engines.comparison import Comparison
from lakehouse_analytics.engines.schema_session import SchemaSession
from lakehouse_analytics.engines.trino.client import QueryResult, execute, wait_until_ready
from lakehouse_analytics.engines.trino.comparison import TrinoComparison
from lakehouse_analytics.engines.trino.connection import TrinoConnection
from lakehouse_analytics.engines.trino.errors import Failure, classify_dbt
from lakehouse_analytics.engines.trino.queries import kill_query, list_queries, queue_reported
from lakehouse_analytics.engines.trino.reading import read_files, read_query
from lakehouse_analytics.engines.trino.schemas import TrinoSchemas
from lakehouse_analytics.engines.trino.session import TrinoServer
from lakehouse_analytics.engines.trino.views import view_versions
from lakehouse_analytics.iceberg.catalog import check_client
from lakehouse_analytics.iceberg.row_counts import MetadataCounts
from lakehouse_analytics.settings import Settings

#: Trino's default for `query.max-stage-count`. The session property `query_max_stage_count` overrides it.
MAX_STAGES = 150
_LOGGER = logging.getLogger(__name__)
#: Minimum number of tables: for fewer, one statement takes less time than importing pyiceberg.
METADATA_THRESHOLD = 20


def of(settings: Settings) -> "TrinoResource":
    """Return the resource that the settings describe."""
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
        """Return the resource that the settings describe.

        Raises:
            CatalogError: The client of the Iceberg catalog is not installed.
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
        """Remember the run: queries have its tags, and the token must be valid until the run ends."""
        if context.run is None:
            return
        self._client_tags = Provenance(context.run.run_id, context.run.job_name).client_tags
        self._run_log = context.log
        record = context.instance and context.instance.get_run_record_by_id(context.run.run_id)
        # The time limit starts with the run: a late retry of a step must not require a token beyond the run's end.
        began = datetime.fromtimestamp(record.start_time, UTC) if record and record.start_time else datetime.now(UTC)
        self._token_needed_until = began + timedelta(seconds=self.max_runtime)

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of one statement.

        Raises:
            TrinoError: The statement failed; see `execute`.
        """
        return self.execute(sql).rows

    def execute(self, sql: str, client_tags: Sequence[str] = ()) -> QueryResult:
        """Run one statement with the run's tags and further ones.

        Raises:
            TrinoError: The statement failed; the error has the query id. It is a `TrinoUnavailableError` if other
                statements would fail as well.
        """
        log = (self._run_log or _LOGGER).warning
        return execute(self.server(), sql, (*self._client_tags, *client_tags), log)

    @property
    def max_stages(self) -> int:
        """Maximum number of stages of a statement."""
        return (
            int(self.session_properties.get("query_max_stage_count", MAX_STAGES)) - 1
        )  # one stage combines the others

    def known_counts(self, relations: Collection[Relation], *, of: int) -> Mapping[Relation, int]:
        """Return exact row counts from the metadata of Iceberg tables, if pyiceberg's catalog is configured.

        Args:
            relations: Tables and views.
            of: Number of tables that the run counts in total. For few tables, pyiceberg is not imported.

        Raises:
            CatalogError: The catalog cannot be read, or is not the one that Trino reads.
        """
        if not self.iceberg_catalog or of < METADATA_THRESHOLD:
            return {}
        self._metadata = self._metadata or MetadataCounts(
            self.iceberg_catalog, database=self.catalog, fetch_all=self.fetch_all
        )
        return self._metadata.rows(relations)

    def table_versions(self, relations: Collection[Relation], fetch_all: FetchAll | None) -> Mapping[Relation, str]:  # noqa: ARG002
        """Return the versions of Iceberg tables from their metadata, if pyiceberg's catalog is configured.

        Raises:
            CatalogError: The catalog cannot be read, or is not the one that Trino reads.
            TrinoError: The definitions of views cannot be read.
        """
        if not self.iceberg_catalog or not relations:
            return {}
        self._metadata = self._metadata or MetadataCounts(
            self.iceberg_catalog, database=self.catalog, fetch_all=self.fetch_all
        )
        found = self._metadata.versions(relations)
        others = {relation for relation in relations if relation not in found}
        return {**found, **view_versions(self.fetch_all, others)}

    @contextmanager
    def read_table(self, relation: Relation, name: str) -> Iterator[TableReader]:
        """Read a whole table with bounded memory, while the block runs.

        If row counts come from the metadata of Iceberg tables, its files are read, too; otherwise by a query.
        """
        if self.iceberg_catalog:
            with read_files(self.iceberg_catalog, relation) as reader:
                if reader is not None:
                    yield reader
                    return
        with read_query(self.server(), name, self._client_tags) as reader:
            yield reader

    @contextmanager
    def comparison(self) -> Iterator[Comparison]:
        """Open a session for comparisons of tables."""
        yield TrinoComparison(self.server(), self._client_tags)

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:  # noqa: ARG002
        """Open a session for schemas. Each statement is its own transaction."""
        yield TrinoSchemas(self.server(), self._client_tags)

    def wait_until_free(self, log: Callable[[str], None] = _LOGGER.warning) -> None:
        """Wait until Trino has started and responds to a query on the catalog.

        Args:
            log: Called with a message that says what it waits for.

        Raises:
            TrinoUnavailableError: Trino is not ready within `start_timeout` seconds. Raised at once if waiting cannot
                help.
        """
        wait_until_ready(self.server(), log)

    def classify_error(self, message: str) -> Failure:
        """Return the classification of dbt's message about a failed node."""
        failure = classify_dbt(message)
        # dbt explains failures that are not Trino's.
        return replace(failure, advice="") if failure.name == "UNKNOWN" else failure

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """Log while the block runs that queries of a run are waiting in the queue of a resource group."""
        return queue_reported(self.server(), run_id, log)

    def kill_queries(self, run_id: str) -> None:
        """Kill the queries that a run's dead dbt process has left in Trino: they could run for minutes and then commit.

        This happens over HTTP, because a statement could wait in the queue behind the queries that it is to kill. If a
        gateway does not forward these requests, statements kill the queries. Failures are logged.
        """
        reason = "its dbt process is dead"
        try:
            queries = [query for query in list_queries(self.server()) if query.belongs_to(run_id) and not query.ended]
        except Exception as error:
            _LOGGER.info("Trino does not list the queries of run %s (%s): using a statement instead", run_id, error)
            self._end_by_statements(run_id, reason)
            return
        for query in queries:
            if not query.source.startswith("dbt"):
                continue
            _LOGGER.warning("Killing query %s of run %s: %s", query.id, run_id, reason)
            try:
                kill_query(self.server(), query.id, reason)
            except Exception as error:
                _LOGGER.warning("Query %s of run %s may still be running: %s", query.id, run_id, error)

    def _end_by_statements(self, run_id: str, reason: str) -> None:
        of_run = f"source like 'dbt%' and query like '%{UUID(run_id)}%'"
        try:
            for (query_id,) in self.fetch_all(
                f"select query_id from system.runtime.queries where {of_run} and state not in ('FINISHED', 'FAILED')"  # noqa: S608  # a UUID
            ):
                _LOGGER.warning("Killing query %s of run %s: %s", query_id, run_id, reason)
                self.execute(f"call system.runtime.kill_query('{query_id}', '{reason}')")
        except Exception as error:
            _LOGGER.warning("Queries of run %s may still be running: %s", run_id, error)

    def query_url(self, query_id: str) -> str:
        """Return the URL of a query's page in Trino's UI."""
        return f"{(self.ui_url or self.address).rstrip('/')}/ui/query.html?{query_id}"

    def server(self) -> TrinoServer:
        """Return the connection for the client, with the secret from this process's environment."""
        connection = {name: getattr(self, name) for name in TrinoConnection.model_fields}
        return TrinoServer(**connection, secret=_secret(self.auth), token_needed_until=self._token_needed_until)


def _secret(auth: str) -> SecretStr | None:
    if auth not in ("password", "jwt"):
        return None
    settings = Settings.load()
    return settings.trino_password if auth == "password" else settings.trino_jwt
