"""A client of ClickHouse: a server by its HTTP interface, or embedded (chdb). Both are the same client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lakehouse_analytics.common.text import brief
from lakehouse_analytics.exports.base import ExportError

if TYPE_CHECKING:
    import pyarrow as pa
    from clickhouse_connect.driver.client import Client

    from lakehouse_analytics.arrivals.connections import Connection

#: Seconds to wait for a connection, and for the response to a statement.
CONNECT_TIMEOUT, RESPONSE_TIMEOUT = 10, 3600
#: Codes of ClickHouse's errors after which a retry may succeed: timeouts, limits of queries, memory and parts.
_TRANSIENT = ("159", "202", "203", "209", "210", "241", "242", "252", "279", "319", "425", "439", "999")
#: What chdb reports if it cannot open a folder. It prints the reason to stderr only, usually that the folder is locked.
_UNOPENED = "Unable to open the chdb engine"
_INSERT = {
    "async_insert": 0,
    # On replicated engines, a batch that equals an earlier one would be dropped as a repeated insert.
    "insert_deduplicate": 0,
    # A null in a column that has none would be stored as 0 or an empty text.
    "input_format_null_as_default": 0,
}
#: How the options of an address are converted for the client.
_OPTIONS: dict[str, Any] = {
    "verify": lambda text: text.lower() not in ("false", "0"),
    "ca_cert": str,
    "client_cert": str,
}


class ClickHouseClient:
    """One database of ClickHouse. A context manager: leaving it closes the connection.

    Attributes:
        database: The name of the database.
        client: The client of the library.
    """

    client: Client

    def __init__(self, connection: Connection, database: str | None) -> None:
        """
        Args:
            connection: The address, of the scheme clickhouse, clickhouses or chdb.
            database: The database; None for the default of the connection.
        """
        self._connection = connection
        self.database = database or ("default" if connection.scheme == "chdb" else connection.database)

    def __enter__(self) -> Self:
        """Connect."""
        self.client = connect(self._connection)
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.client.close()

    def create_database(self) -> None:
        """Create the database if it does not exist."""
        # `create database` needs a right, even if the database exists.
        if not self.rows(f"select 1 from system.databases where name = {literal(self.database)}"):  # noqa: S608
            self.run(f"create database if not exists {quoted(self.database)}")

    def comments(self) -> dict[str, str]:
        """Return the comments of the tables, by name."""
        found = self.rows(f"select name, comment from system.tables where database = {literal(self.database)}")  # noqa: S608
        return {str(name): str(comment) for name, comment in found}

    def here(self, table: str) -> str:
        """Return the name of a table and the address, for messages."""
        return f"Table {self.database}.{table} in {self._connection.redacted}"

    def name(self, table: str) -> str:
        """Return the quoted name of a table, with the database."""
        return f"{quoted(self.database)}.{quoted(table)}"

    def run(self, sql: str, settings: dict[str, Any] | None = None) -> None:
        """Run a statement.

        Raises:
            ExportError: ClickHouse refused it, or did not answer. So do the other methods.
        """
        with self.errors():
            self.client.command(sql, settings=settings)

    def rows(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return the rows of a query."""
        with self.errors():
            return self.client.query(sql).result_rows

    def insert(self, table: str, rows: pa.Table) -> None:
        """Insert rows. Columns that they do not have are null."""
        with self.errors():
            self.client.insert_arrow(table, rows, database=self.database, settings=_INSERT)

    def exchange(self, table: str, other: str) -> None:
        """Swap the names of two tables in one step."""
        try:
            self.run(f"exchange tables {self.name(other)} and {self.name(table)}")
        except ExportError as error:
            if "Code: 48" not in str(error) and "NOT_IMPLEMENTED" not in str(error):
                raise
            raise ExportError(
                f"The database {self.database} cannot exchange two tables in one step: use one of the engine Atomic, "
                f"ClickHouse's default. {error}"
            ) from None

    def drop(self, table: str) -> None:
        """Drop a table if it exists."""
        self.run(f"drop table if exists {self.name(table)} sync")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert the errors of the library."""
        from clickhouse_connect.driver.exceptions import Error

        try:
            yield
        except Error as error:
            raise _export_error(self._connection, error) from None


def connect(connection: Connection) -> Client:
    """Return a client. The caller closes it.

    Raises:
        ExportError: ClickHouse cannot be reached, or refuses the credentials.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import Error

    try:
        if connection.scheme == "chdb":
            if connection.database:
                Path(connection.database).mkdir(parents=True, exist_ok=True)
            return clickhouse_connect.get_client(interface="chdb", path=connection.database or None)
        unknown = connection.options.keys() - _OPTIONS.keys()
        if unknown:
            raise ExportError(
                f"{connection.redacted}: unknown option {brief(sorted(unknown)[0])}; known are {', '.join(_OPTIONS)}."
            )
        secure = connection.scheme == "clickhouses"
        return clickhouse_connect.get_client(
            interface="https" if secure else "http",
            host=connection.host,
            port=connection.port or (8443 if secure else 8123),
            username=connection.user or "default",
            password=connection.password or "",
            database=connection.database,
            connect_timeout=CONNECT_TIMEOUT,
            send_receive_timeout=RESPONSE_TIMEOUT,
            **{name: _OPTIONS[name](text) for name, text in connection.options.items()},
        )
    except Error as error:
        raise _export_error(connection, error) from None
    except ImportError:
        raise ExportError(f"{connection.redacted}: the Python package chdb is not installed.") from None
    except OSError as error:
        raise ExportError(f"{connection.redacted}: {error.strerror or error}.") from None


def _export_error(connection: Connection, error: Exception) -> ExportError:
    from clickhouse_connect.driver.exceptions import OperationalError

    text = connection.redact(" ".join(str(error).split()))
    if _UNOPENED in text:
        return ExportError(
            f"{connection.redacted} cannot be opened: check whether another process has the folder open, and whether "
            "it can be written. chdb prints its reason to stderr.",
            transient=True,
        )
    code = text.partition("Code: ")[2].partition(".")[0]
    transient = code in _TRANSIENT or (isinstance(error, OperationalError) and not code)
    return ExportError(f"{connection.redacted}: {text[:1000]}", transient=transient)


def quoted(name: str) -> str:
    """Return an identifier quoted for ClickHouse."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """Return a string literal quoted for ClickHouse."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
