"""The key `arrives` of a source's contract: what fills the source's tables, besides Airbyte."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.common.text import brief
from lakehouse_analytics.contract.base import Cron, Duration, Section, TableElsewhere

FileFormat = Literal["csv", "jsonl", "parquet"]
#: Formats by the extension of a file. `.gz` may follow, except for Parquet.
EXTENSIONS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
#: How a schedule, a table and a name of a variable may be written.
_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"


def _columns(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


ColumnNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_columns, json_schema_input_type=str | list[str]),
]


def _date(value: object) -> object:
    """Accept a date as YAML parses it, or as text."""
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a date such as 2026-01-31") from None
    return value


class FileArrival(Section):
    """Files in a folder or under a prefix of a bucket that are loaded into a table."""

    files: str = Field(
        min_length=1,
        description="Path or address of the files: `s3://bucket/prefix/…`, or a folder relative to the dbt project. "
        "`*` stands for any characters except `/`, `**` for any, `{date:%Y-%m-%d}` for the date of a file.",
    )
    format: FileFormat | None = Field(None, description="Default: by the extension. A file may be compressed (.gz).")
    delimiter: str | None = Field(None, min_length=1, max_length=4, description="CSV: separates values. Default: `,`.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Types of columns, such as {price: decimal(12,4)}. A row with a value of another type goes to the "
        "quarantine. Default: text for CSV and JSON lines, and the type in the file for Parquet.",
    )
    split_by: str | None = Field(
        None, min_length=1, description="Column whose values are a second dimension of the partitions, such as market."
    )
    begin: Annotated[date, BeforeValidator(_date, json_schema_input_type=str)] | None = Field(
        None, description="First date of the partitions. Required for files with a date in their path."
    )
    after_load: Literal["keep", "move"] = Field(
        "keep", description="`move` moves a loaded file to the folder `_loaded` below the first folder of `files`."
    )
    max_bad_rows: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A file with a larger fraction of bad rows is bad as a whole: nothing of it is loaded.",
    )

    @field_validator("files")
    @classmethod
    def _one_date(cls, value: str) -> str:
        pattern = FilePattern(value)
        if value.count("{") != (pattern.date_format is not None):
            raise ValueError("expected at most one {date:…}, and no other braces")
        if pattern.date_format and not {"%Y", "%m", "%d"} <= set(re.findall("%.", pattern.date_format)):
            raise ValueError("the format of {date:…} must have %Y, %m and %d")
        return value

    @model_validator(mode="after")
    def _complete(self) -> FileArrival:
        if self.date_format and not self.begin:
            raise ValueError("begin is missing: files with a date in their path need the first date of the partitions")
        if self.split_by and self.split_by.lower() == "date":
            raise ValueError("split_by is the name of the other dimension, the date in the path; choose another column")
        if self.split_by and not self.date_format:
            raise ValueError("split_by needs a date in the path of the files, such as {date:%Y-%m-%d}")
        if not self.format and not self._by_extension():
            known = ", ".join(EXTENSIONS)
            raise ValueError(f"format is missing: the extension of {brief(self.files)} is none of {known}")
        return self

    def _by_extension(self) -> FileFormat | None:
        name = self.files.removesuffix(".gz")
        return next((kind for extension, kind in EXTENSIONS.items() if name.endswith(extension)), None)

    @property
    def file_format(self) -> FileFormat:
        """The format of the files."""
        found = self.format or self._by_extension()
        assert found is not None  # noqa: S101  # validated
        return found

    @property
    def date_format(self) -> str | None:
        """The format of the date in the path, as for `strptime`; None if the path has none."""
        return FilePattern(self.files).date_format


class TableArrival(Section):
    """A table of an operational database that is copied into a table of the lakehouse."""

    database: str = Field(
        pattern=_NAME,
        description="Name of the connection: LAKEHOUSE_CONNECTION_<NAME> has its address, such as "
        "postgresql://user:password@host/database.",
    )
    table: str | None = Field(
        None, min_length=1, description="Table, such as public.customers. Default: the name of the dbt source's table."
    )
    mode: Literal["full", "incremental"] = Field(
        "full", description="`incremental` reads the rows whose `update_key` is higher than in the last sync."
    )
    update_key: str | None = Field(
        None, min_length=1, description="Column that grows with each insert and update, such as updated_at."
    )
    primary_key: ColumnNames = Field((), description="Columns that identify a row.")
    lag: Duration = Field(
        timedelta(minutes=5),
        description="How far before the highest `update_key` a sync starts, for transactions that commit late.",
    )
    deletes: str = Field(
        "ignore",
        description="Rows that the source deletes: `ignore` keeps them, `reconcile` compares the primary keys of both "
        "tables in each sync, `soft(deleted_at)` reads the column that marks them: not null, true or not 0.",
    )
    schema_changes: Literal["add", "warn", "fail"] = Field(
        "add",
        description="New columns of the source: `add` them, omit them and `warn`, or `fail`, also if a column "
        "disappears or changes its type.",
    )
    to: str | None = Field(
        None,
        pattern=_NAME,
        description="Copy straight to ClickHouse, past the lakehouse: name of the connection, whose "
        "LAKEHOUSE_CONNECTION_<NAME> has an address such as clickhouse://user:password@host/database or "
        "chdb:///path/to/folder. No model can read the source then.",
    )
    to_table: TableElsewhere | None = Field(
        None,
        description="With `to`, name of the table: <table> or <database>.<table>. Default: the name of the dbt "
        "source's table, in the database of the connection.",
    )
    schedule: Cron | None = Field(None, description="Cron schedule of the sync. Default: none, launch it by its job.")

    @field_validator("deletes")
    @classmethod
    def _known_deletes(cls, value: str) -> str:
        if not re.fullmatch(r"ignore|reconcile|soft\([^()]+\)", value):
            raise ValueError("expected ignore, reconcile, or soft(<column>) such as soft(deleted_at)")
        return value

    @model_validator(mode="after")
    def _complete(self) -> TableArrival:
        if self.mode == "incremental" and not self.update_key:
            raise ValueError("update_key is missing: mode incremental needs the column that grows with each update")
        if self.mode == "incremental" and not self.primary_key:
            raise ValueError("primary_key is missing: mode incremental replaces rows by their key")
        if self.mode == "full" and self.deletes == "reconcile":
            raise ValueError("deletes: reconcile has no effect with mode full, which replaces all rows")
        if self.to_table and not self.to:
            raise ValueError("to is missing: to_table names a table of the connection that `to` names")
        return self

    @property
    def deleted_column(self) -> str | None:
        """The column that marks deleted rows; None if they are not marked."""
        return self.deletes[len("soft(") : -1] if self.deletes.startswith("soft(") else None


class ReportedArrival(Section):
    """A table that another system fills. It reports each load to `lakehouse webhook`."""

    webhook: Literal[True] = Field(description="`true`: loads are reported by POST /arrived/<source>/<table>.")


#: The kinds of arrivals, by the key that selects each.
ARRIVALS: dict[str, type[BaseModel]] = {"files": FileArrival, "database": TableArrival, "webhook": ReportedArrival}


def _kind_of(value: Any) -> str | None:
    if isinstance(value, BaseModel):
        return next((key for key, kind in ARRIVALS.items() if isinstance(value, kind)), None)
    found = [key for key in ARRIVALS if isinstance(value, dict) and key in value]
    return found[0] if len(found) == 1 else None


Arrival = Annotated[
    Annotated[FileArrival, Tag("files")]
    | Annotated[TableArrival, Tag("database")]
    | Annotated[ReportedArrival, Tag("webhook")],
    Discriminator(
        _kind_of,
        custom_error_type="arrival_kind",
        custom_error_message="expected exactly one of the keys files, database and webhook, which says what fills it",
    ),
]
