"""Pydantic models of the contract, `meta.lakehouse`.

This module does not import Dagster. An unknown key or a value of the wrong type raises `ContractError`, which names
the file, the resource and the key, and suggests the nearest valid key. The JSON Schema for editors is generated from
these classes (`lakehouse schema`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from lakehouse_analytics.common.cron import smallest_interval
from lakehouse_analytics.common.names import unique_metadata_key
from lakehouse_analytics.common.text import brief, shortened
from lakehouse_analytics.common.validation import explain, reason
from lakehouse_analytics.contract.arrivals import ARRIVALS, Arrival, FileArrival, TableArrival
from lakehouse_analytics.contract.base import Cron, Duration, Section
from lakehouse_analytics.contract.exports import ExposureContract, Serves
from lakehouse_analytics.contract.partitions import PARTITIONS, Partition
from lakehouse_analytics.contract.partitions import Grain as Grain  # noqa: PLC0414  # the contract is imported from here

#: Medallion layers in build order; the groups of the asset graph.
LAYERS = ("bronze", "silver", "gold", "metrics")

Layer = Literal["bronze", "silver", "gold", "metrics"]
Severity = Literal["error", "warn"]
#: Findings that are reported when the project loads, and that `accept` can silence.
Accepted = Literal["not_atomic", "repeated_inserts", "stale_rows", "utc_batches"]


class ContractError(ValueError):
    """One or more contracts are invalid. The message has one line per mistake."""


def _source_names(value: object) -> object:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("expected the name of a source's table, such as shop.orders, or a list of them")
    return tuple(names)


def _to_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def is_owner(value: object) -> bool:
    """Return whether Dagster accepts the value as an owner: an email address, or `team:` and a name."""
    pattern = r"team:\S+|\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}\b"
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _owner(value: object) -> object:
    if not is_owner(value):
        raise ValueError("expected an email address or team:<name>")
    return value


class Drift(Section):
    """The drift check, which compares a row count with the median of earlier ones.

    The allowed distance is measured in median absolute deviations (MAD).
    """

    mads: float = Field(6.0, gt=0, allow_inf_nan=False, description="Allowed distance from the median, in scaled MADs.")
    min_history: int = Field(7, ge=3, description="Number of earlier counts that a comparison needs.")
    severity: Severity = Field("warn", description="`error` blocks the downstream tables; `warn` does not.")


class Rows(Section):
    """Row-count rules of one table. The check passes if all rules that are set are met."""

    not_empty: bool = Field(True, description="The table must have at least one row.")
    min: int | None = Field(None, ge=0, description="Minimum number of rows.")
    max: int | None = Field(None, ge=0, description="Maximum number of rows.")
    max_drop: float | None = Field(
        None, ge=0, le=1, description="Maximum loss of rows since the last passed check, as a fraction."
    )
    severity: Severity = Field("error", description="`error` blocks the downstream tables; `warn` does not.")
    drift: Drift | None = Field(None, description="A separate check that compares the count with earlier ones.")

    @model_validator(mode="after")
    def _min_at_most_max(self) -> Rows:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {brief(self.min)} is above max {brief(self.max)}")
        return self


class LoadFreshness(Section):
    """Freshness of a source's table. It becomes Dagster's freshness policy."""

    within: Duration = Field(description="Maximum age of the last build or load, such as 26h.")
    cron: Cron | None = Field(
        None, description="Deadline of the build. `within` is then the maximum time from the build to the deadline."
    )

    @model_validator(mode="after")
    def _at_least_a_minute(self) -> Self:
        if self.within < timedelta(minutes=1):
            raise ValueError("within: Dagster evaluates freshness every minute; use at least 1m")
        if self.cron and self.within > (interval := smallest_interval(self.cron)):
            raise ValueError(f"within: longer than the {interval} between two deadlines of cron {shortened(self.cron)}")
        return self


class Freshness(LoadFreshness):
    """Freshness of a table. It becomes Dagster's freshness policy."""

    column: str | None = Field(None, description="Time column of the data. Default: the model's `event_time`.")


class Airbyte(Section):
    """The Airbyte connection that fills a source."""

    connection: str = Field(min_length=1, description="Connection id (preferred) or exact name.")
    stream: str | None = Field(
        None, min_length=1, description="Stream that fills this table. It is checked against the connection."
    )
    allow_empty: bool = Field(
        False, description="A sync without rows is normal: its check passes, and the downstream tables are built."
    )
    stalled_after: Duration | None = Field(
        None, description="Duration after which a sync is stalled, such as 6h. Default: three times its usual duration."
    )


_NO_EFFECT = "Validated, but without effect in this version."


class Kubernetes(Section):
    """Resource requests of the run's pod, as Kubernetes quantities."""

    cpu: Annotated[str, Field(pattern=r"^\d+(\.\d+)?m?$")] | None = None
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")] | None = None


Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*(kB|MB|GB)$")]


class Maintenance(Section):
    """Maintenance of an Iceberg table: the operations, their thresholds, and the retention of snapshots."""

    enabled: bool = Field(True, description="`false` turns maintenance of the table off.")
    optimize: bool = Field(True, description="Compact small data files, and apply delete files.")
    small_file: Size = Field("64MB", description="Size below which a data file is small.")
    small_files: int = Field(
        20, ge=1, description="Compact if that saves at least this many files, or if there are this many delete files."
    )
    deleted: float = Field(0.1, gt=0, le=1, description="Compact if at least this fraction of the rows is deleted.")
    optimize_manifests: bool = Field(True, description="Compact small manifests.")
    small_manifests: int = Field(20, ge=1, description="Compact manifests if that saves at least this many.")
    expire_snapshots: bool = Field(True, description="Expire old snapshots, and delete the files that only they use.")
    retain: Duration | None = Field(
        None, description="Retention of snapshots. Default: 7d. It is never shorter than the configured minimum."
    )
    remove_orphan_files: bool = Field(True, description="Delete files that no snapshot uses, left by failed writes.")
    orphans: Duration | None = Field(
        None, description="Minimum age of an orphan file, and interval between two searches for them. Default: 7d."
    )
    analyze: bool | None = Field(
        None,
        description="Collect column statistics. Default: for incremental models, snapshots and raw tables. For a table "
        "that is rebuilt, Trino collects them while it writes.",
    )
    changed: float = Field(
        0.1, gt=0, le=1, description="Analyze if at least this fraction of the rows has changed since the last time."
    )


class ModelContract(Section):
    """The contract of a model, seed or snapshot."""

    layer: Layer | None = Field(
        None, description="Default: the first folder below models/ that is named after a layer."
    )
    rows: Rows | None = Field(None, description="Row-count rules. By default, an empty table is a warning.")
    distinct: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), strict=False, description="Columns whose distinct values are counted. Reported as unique_<column>."
    )
    freshness: Freshness | None = None
    owner: Annotated[str, BeforeValidator(_owner)] | None = Field(None, description="Email address or team:<name>.")
    automation: Literal["schedule", "eager"] = Field(
        "schedule", description="`eager`: rebuilt as soon as an upstream table is."
    )

    partition: Partition | None = Field(
        None,
        description="Length of a partition: the model is built in windows of its `event_time`, which start at its "
        "`begin`. Needs replace_window or microbatch. Or the column whose values are the partitions, such as "
        "{by: region, values: [IT, DE]}, or both: {grain: daily, by: region}. Needs replace_window.",
    )
    after: Annotated[tuple[str, ...], BeforeValidator(_source_names, json_schema_input_type=str | list[str])] = Field(
        (),
        description="Sources, such as shop.orders. A partition is scheduled once each has been synced since its end.",
    )
    accept: Annotated[
        tuple[Accepted, ...], BeforeValidator(_to_tuple, json_schema_input_type=Accepted | list[Accepted])
    ] = Field(
        (),
        description="Findings to accept for this model: `not_atomic` (readers on Trino can see it partially written), "
        "`repeated_inserts` (on_table_exists: skip), `stale_rows` (a partition keeps rows that its source no longer "
        "has), `utc_batches` (microbatch in a time zone other than UTC).",
    )
    pool: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description=f"Concurrency pool. {_NO_EFFECT}"
    )
    kubernetes: Kubernetes | None = Field(None, description=f"Resources of the run's pod. {_NO_EFFECT}")
    maintenance: Maintenance | None = Field(
        None, description="Maintenance of the Iceberg table, on by default. No effect on other engines."
    )
    reuse: bool | Literal["contents"] = Field(
        False,
        description="Do not build the table again as long as neither its code nor its inputs have changed. For models "
        "of the materializations `table` and `view`, and for seeds. `contents` also hashes the table after each build, "
        "also that of an incremental model, so that what reads it is not built if it has the same rows as before. "
        "DuckDB and PostgreSQL do so anyway.",
    )
    serve: Serves = Field(
        (), description="A copy of the table in ClickHouse or PostgreSQL, or a list of them. Made after each build."
    )

    @field_validator("distinct")
    @classmethod
    def _unique_in_metadata(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        reported: dict[str, str] = {}
        for column in value:
            name = unique_metadata_key(column)
            if name in reported:
                raise ValueError(f"{brief(reported[name])} and {brief(column)} would both be reported as {brief(name)}")
            reported[name] = column
        return value

    @property
    def has_row_count_gate(self) -> bool:
        """Whether a row-count check or drift check of the table is a gate."""
        rows = self.rows
        return bool(rows and "error" in (rows.severity, rows.drift and rows.drift.severity))

    def ineffective_keys(self) -> list[str]:
        """Return the keys that are set and valid but have no effect in this version. The caller warns about them."""
        return [key for key in ("pool", "kubernetes") if getattr(self, key) is not None]


class SourceContract(Section):
    """The contract of a dbt source or of one of its tables."""

    airbyte: Airbyte | None = None
    arrives: Arrival | None = Field(
        None, description="What fills the table, if not Airbyte: files, a table of a database, or another system."
    )
    maintenance: Maintenance | None = Field(
        None,
        description="Maintenance of the raw Iceberg table. Default: on for tables that Airbyte or `arrives` fills.",
    )
    freshness: LoadFreshness | None = Field(
        None, description="Maximum age of the last load of a table that Airbyte or `arrives` fills."
    )
    rows: Rows | None = Field(
        None, description="Row-count rules of a table that `arrives` loads from files or a database, after each load."
    )

    @model_validator(mode="after")
    def _filled_by_one(self) -> SourceContract:
        if self.rows and not self.is_loaded:
            raise ValueError("rows needs `arrives` with files or database: only these loads count the table")
        if self.airbyte and self.arrives:
            raise ValueError("arrives and airbyte are both set, but only one of them can fill the table")
        if self.copied_to and self.maintenance:
            raise ValueError("maintenance has no effect on a table in ClickHouse (arrives.to); remove it")
        return self

    @property
    def is_loaded(self) -> bool:
        """Whether the lakehouse loads the table itself, from files or a database."""
        return isinstance(self.arrives, FileArrival | TableArrival)

    @property
    def copied_to(self) -> TableArrival | None:
        """The arrival, if the table is not in the lakehouse, but copied straight to ClickHouse."""
        return self.arrives if isinstance(self.arrives, TableArrival) and self.arrives.to else None


C = TypeVar("C", ModelContract, SourceContract, ExposureContract)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings key by key. Values of `over` win."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse(
    kind: type[C],
    raw: Any,
    *,
    resource: str,
    files: Iterable[str],
    locate: Callable[[Sequence[object]], str | None] = lambda _: None,
) -> C:
    """Validate the raw `meta.lakehouse` of one resource.

    Args:
        kind: `ModelContract`, `SourceContract` or `ExposureContract`.
        raw: The value from dbt's manifest, or None if it is not set.
        resource: The resource as messages name it, such as `model stg_orders`.
        files: The files that may set the value, most likely first.
        locate: Returns the file and line of a key, given by its path below `meta.lakehouse`; None if it is not found.

    Raises:
        ContractError: The value is invalid. The message has one line per mistake.
    """
    if raw is None:
        default: C = _default_contract(kind)
        return default
    all_files = " or ".join(dict.fromkeys(files))
    if not isinstance(raw, Mapping):
        raise ContractError(f"{all_files}: {resource}: meta.lakehouse must be a mapping, not {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            place = locate(_keys_of(kind, item["loc"])[0]) or all_files
            lines.append(f"{place}: {resource}: {_explain(kind, dict(item))}")
        raise ContractError("\n".join(lines)) from None


@cache
def _default_contract(kind: type[C]) -> C:
    return kind()


def _explain(kind: type[BaseModel], item: dict[str, Any]) -> str:
    keys, section = _keys_of(kind, item["loc"])
    path = ".".join(["meta.lakehouse", *map(brief, keys)])
    item["msg"] = item["msg"].replace("tuple", "list")
    of_section = isinstance(item["input"], Mapping) and keys[-1:] in ([], ["arrives"])
    if item["type"] in ("extra_forbidden", "missing", "arrival_kind") or of_section:
        return explain(item, path, sorted(section.model_fields), quoted="`{}`".format, others="valid keys")
    return f"{path} is {shortened(item['input'])}: {reason(item)}"


#: The sections of the keys that have several kinds, by the kind's tag.
_TAGGED: Mapping[str, Mapping[str, type[BaseModel]]] = {"arrives": ARRIVALS, "partition": PARTITIONS}


def _keys_of(kind: type[BaseModel], location: tuple[Any, ...]) -> tuple[list[Any], type[BaseModel]]:
    """Return the keys of an error's location, and the section that has the last of them.

    In a location, the tag of a union follows its key: `("arrives", "files", "format")` is the key `arrives.format`, and
    `("partition", "column", "by")` is the key `partition.by`.
    """
    keys: list[Any] = []
    section = kind
    parts = iter(location)
    for part in parts:
        keys.append(part)
        section = kind
        if part in _TAGGED:
            kind = _TAGGED[part].get(next(parts, ""), kind)
        elif part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            choices = getattr(annotation, "__args__", (annotation,))
            kind = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), kind)
    return keys, section
