"""`meta.lakehouse`: what an analytics engineer says of a model, typed and validated.

No Dagster in here. Unknown keys and wrong types raise `ContractError`, which names the file,
the model and the key, and offers the nearest valid key. The JSON Schema for editors is made from
these classes (`lakehouse schema`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from lakehouse_analytics.common.cron import is_cron, smallest_interval
from lakehouse_analytics.common.names import unique_metadata_key
from lakehouse_analytics.common.text import brief, shortened

#: Medallion layers in build order; the groups of the asset graph.
LAYERS = ("bronze", "silver", "gold", "metrics")

Layer = Literal["bronze", "silver", "gold", "metrics"]
Severity = Literal["error", "warn"]
#: Properties of a model that are reported when the project loads, and that `accept` accepts.
Accepted = Literal["not_atomic", "repeated_inserts", "stale_rows", "utc_batches"]
#: Lengths of the windows that a model's history is cut into.
Grain = Literal["hourly", "daily", "weekly", "monthly"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


#: Of all durations, in contracts and in settings: a hundred years.
LONGEST = timedelta(days=36_500)


class ContractError(ValueError):
    """`meta.lakehouse` of some models is wrong. One line a mistake."""


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhdw])", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("expected a duration such as 30m, 26h or 7d")
    try:
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        duration = timedelta.max
    if duration > LONGEST:
        # Every duration is added to a moment or taken from one, which must stay one that a calendar has.
        raise ValueError(f"expected at most {LONGEST.days}d")
    return duration


def _cron(value: object) -> object:
    if not isinstance(value, str) or not is_cron(value):
        raise ValueError("expected a cron expression such as '0 6 * * *'")
    return value


def _listed(value: object) -> object:
    said = [value] if isinstance(value, str) else value
    if not isinstance(said, list | tuple) or not all(isinstance(item, str) and item for item in said):
        raise ValueError("expected the name of a source's table, such as shop.orders, or a list of them")
    return tuple(said)


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def is_owner(value: object) -> bool:
    """Whether Dagster takes the value for an owner: an e-mail address or `team:name`."""
    rule = r"team:\S+|\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}\b"
    return isinstance(value, str) and re.fullmatch(rule, value) is not None


def _owner(value: object) -> object:
    if not is_owner(value):
        raise ValueError("expected an e-mail address or team:<name>")
    return value


Duration = Annotated[
    timedelta, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^[0-9]+\s*[smhdw]$")])
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Drift(_Section):
    """Row count against the check's own history: median and median absolute deviation (MAD)."""

    mads: float = Field(6.0, gt=0, allow_inf_nan=False, description="Allowed distance from the median, in scaled MADs.")
    min_history: int = Field(7, ge=3, description="Earlier counts needed before anything is judged.")
    severity: Severity = Field("warn", description="`error` stops what lies downstream; `warn` does not.")


class Rows(_Section):
    """Row-count rules of one table. All that are set must hold."""

    not_empty: bool = Field(True, description="At least one row.")
    min: int | None = Field(None, ge=0, description="At least so many rows.")
    max: int | None = Field(None, ge=0, description="At most so many rows.")
    max_drop: float | None = Field(
        None, ge=0, le=1, description="Largest allowed loss since the last passed check, as a fraction."
    )
    severity: Severity = Field("error", description="`error` stops what lies downstream; `warn` does not.")
    drift: Drift | None = Field(None, description="Compare with the table's own history, in a check of its own.")

    @model_validator(mode="after")
    def _ordered(self) -> Rows:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {brief(self.min)} is above max {brief(self.max)}")
        return self


class Freshness(_Section):
    """How late a table may be. Becomes Dagster's freshness policy."""

    within: Duration = Field(description="Largest age of the last build, such as 26h.")
    cron: Annotated[str, BeforeValidator(_cron)] | None = Field(
        None, description="Deadline; `within` then says how long before it the build may lie."
    )
    column: str | None = Field(None, description="Time column of the data; default: the model's `event_time`.")

    @model_validator(mode="after")
    def _at_least_a_minute(self) -> Freshness:
        if self.within < timedelta(minutes=1):
            raise ValueError("within: Dagster evaluates freshness by the minute, use at least 1m")
        if self.cron and self.within > (interval := smallest_interval(self.cron)):
            raise ValueError(f"within: longer than the {interval} between two deadlines of cron {shortened(self.cron)}")
        return self


class Airbyte(_Section):
    """The Airbyte connection that fills a source."""

    connection: str = Field(min_length=1, description="Connection id (preferred) or exact name.")
    stream: str | None = Field(
        None, min_length=1, description="Name of the stream that fills this table; checked against the connection."
    )
    allow_empty: bool = Field(
        False, description="A sync that moves no rows is usual: it passes, and what reads the table is built."
    )
    stalled_after: Duration | None = Field(
        None, description="A sync that runs longer is stalled, such as 6h. Default: three times the usual length."
    )


_LATER = "Validated; has no effect in this version."


class Kubernetes(_Section):
    """Resources asked of Kubernetes, in its own quantities."""

    cpu: Annotated[str, Field(pattern=r"^\d+(\.\d+)?m?$")] | None = None
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)?([KMGT]i?)?$")] | None = None


Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*(kB|MB|GB)$")]


class Maintenance(_Section):
    """Maintenance of an Iceberg table: what is done, from which point on, and how long old states are kept."""

    enabled: bool = Field(True, description="`false`: the table is not maintained.")
    optimize: bool = Field(True, description="Merge small files and apply delete files.")
    small_file: Size = Field("64MB", description="Data files below this size are small.")
    small_files: int = Field(
        20, ge=1, description="Merge when it makes so many files fewer, or so many delete files have gathered."
    )
    deleted: float = Field(0.1, gt=0, le=1, description="Merge when delete files mark this fraction of the rows.")
    optimize_manifests: bool = Field(True, description="Merge small manifests.")
    small_manifests: int = Field(20, ge=1, description="Merge manifests when it makes so many fewer.")
    expire_snapshots: bool = Field(True, description="Forget old states, and delete files that only they had.")
    retain: Duration | None = Field(
        None, description="Every state of this past time can still be read. Default 7d; never below the floor."
    )
    remove_orphan_files: bool = Field(True, description="Delete files that no state ever had, left by failed writes.")
    orphans: Duration | None = Field(
        None, description="Age from which a file can be an orphan, and time between two searches. Default 7d."
    )
    analyze: bool | None = Field(
        None,
        description="Collect column statistics. Default: of incremental models, snapshots and raw tables; Trino "
        "collects those of a table that it rebuilds as it writes.",
    )
    changed: float = Field(0.1, gt=0, le=1, description="Analyze when this fraction of the rows changed since.")


class ModelContract(_Section):
    """`meta.lakehouse` of a model, a seed or a snapshot."""

    layer: Layer | None = Field(None, description="Default: the first folder under models/ that is a layer.")
    rows: Rows | None = Field(None, description="Row-count checks; without it an empty table is a warning.")
    distinct: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), strict=False, description="Columns whose distinct values are counted, reported as unique_<column>."
    )
    freshness: Freshness | None = None
    owner: Annotated[str, BeforeValidator(_owner)] | None = Field(None, description="E-mail address or team:<name>.")
    automation: Literal["schedule", "eager"] = Field(
        "schedule", description="`eager`: rebuilt as soon as anything upstream is."
    )

    partition: Grain | None = Field(
        None,
        description="Built by windows of its `event_time`, from its `begin` on; needs replace_window or microbatch.",
    )
    after: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        (),
        description="Sources, such as shop.orders, that must have synced since a window's end before it is scheduled.",
    )
    accept: Annotated[
        tuple[Accepted, ...], BeforeValidator(_several, json_schema_input_type=Accepted | list[Accepted])
    ] = Field(
        (),
        description="Findings accepted for this model: `not_atomic` (readers on Trino can see it half-written), "
        "`repeated_inserts` (on_table_exists: skip), `stale_rows` (a partition keeps rows that its source no longer "
        "has), `utc_batches` (microbatch in a time zone other than UTC).",
    )
    pool: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        None, description=f"Concurrency pool. {_LATER}"
    )
    kubernetes: Kubernetes | None = Field(None, description=f"Resources of the run's pod. {_LATER}")
    maintenance: Maintenance | None = Field(
        None, description="Maintenance of the Iceberg table; good defaults without it. No effect on other engines."
    )

    @field_validator("distinct")
    @classmethod
    def _reported_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        reported: dict[str, str] = {}
        for column in value:
            name = unique_metadata_key(column)
            if name in reported:
                raise ValueError(f"{brief(reported[name])} and {brief(column)} would both be reported as {brief(name)}")
            reported[name] = column
        return value

    @property
    def gates_by_rows(self) -> bool:
        """Whether a row count, or its drift, stops what lies downstream."""
        rows = self.rows
        return bool(rows and "error" in (rows.severity, rows.drift and rows.drift.severity))

    def without_effect(self) -> list[str]:
        """Keys that are set, valid, and not acted upon by this version: the caller warns of them."""
        return [key for key in ("pool", "kubernetes") if getattr(self, key) is not None]


class SourceContract(_Section):
    """`meta.lakehouse` of a dbt source or of one of its tables."""

    airbyte: Airbyte | None = None
    maintenance: Maintenance | None = Field(
        None, description="Maintenance of the raw Iceberg table. Default: only of tables that Airbyte fills."
    )


C = TypeVar("C", ModelContract, SourceContract)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; `over` wins, key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse(kind: type[C], raw: Any, *, resource: str, files: Iterable[str]) -> C:
    """Validate the raw `meta.lakehouse` of one resource.

    Args:
        kind: `ModelContract` or `SourceContract`.
        raw: The value as dbt's manifest has it; None means nothing was said.
        resource: For messages, such as `model stg_orders`.
        files: Where the value may have been written, most likely first.

    Raises:
        ContractError: one line for each mistake.
    """
    if raw is None:
        nothing: C = _nothing_said(kind)
        return nothing
    where = f"{' or '.join(dict.fromkeys(files))}: {resource}"
    if not isinstance(raw, Mapping):
        raise ContractError(f"{where}: meta.lakehouse must be a mapping, not {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {_explain(kind, dict(item))}" for item in error.errors(include_url=False)]
        raise ContractError("\n".join(lines)) from None


@cache
def _nothing_said(kind: type[C]) -> C:
    return kind()


def _explain(kind: type[BaseModel], item: dict[str, Any]) -> str:
    path = ".".join(["meta.lakehouse", *map(brief, item["loc"])])
    if item["type"] == "extra_forbidden":
        valid = sorted(_fields_at(kind, item["loc"][:-1]))
        near = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(valid)}"
        return f"unknown key {path}; {hint}"
    message = item["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if item["type"] == "missing":
        return f"{path} is missing"
    return f"{path} is {shortened(item['input'])}: {message[0].lower()}{message[1:]}"


def _fields_at(kind: type[BaseModel], path: tuple[Any, ...]) -> Iterable[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation
        choices = getattr(annotation, "__args__", (annotation,))
        kind = next(c for c in choices if isinstance(c, type) and issubclass(c, BaseModel))
    return kind.model_fields
