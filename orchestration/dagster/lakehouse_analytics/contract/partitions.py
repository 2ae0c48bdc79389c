"""The key `partition` of a model's contract: windows of time, the values of a column, or both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from lakehouse_analytics.common.text import shortened
from lakehouse_analytics.contract.base import Section

#: Lengths of a partition.
Grain = Literal["hourly", "daily", "weekly", "monthly"]
#: `<column>_refresh` is the name of a job, and these names have other meanings.
_RESERVED = frozenset({"hourly", "daily", "weekly", "monthly", "bronze", "full"})
#: The dimension of time, if a table is partitioned by a column as well.
DATE_DIMENSION = "date"
#: Dagster does not accept these in a partition key.
_NOT_IN_KEYS = re.compile(r"\.\.\.|[\x00-\x1f\x7f]")


def is_partition_value(value: str) -> bool:
    """Return whether Dagster accepts a value as a partition key."""
    return bool(value) and not _NOT_IN_KEYS.search(value)


def _values(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    for item in value:
        if isinstance(item, bool):
            message = "a value is true or false, as which YAML reads NO, yes and on: write it in quotes"
            raise ValueError(message)  # noqa: TRY004  # pydantic reports no other error
    return tuple(str(item) if isinstance(item, int) else item for item in value)


class ColumnPartition(Section):
    """Partitions by the values of a column, or by time and a column: a run replaces the rows of its values."""

    by: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Column of the model, such as region.")
    values: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1)], ...],
            BeforeValidator(_values, json_schema_input_type=list[str | int]),
            Field(min_length=1),
        ]
        | None
    ) = Field(
        None,
        description="All values of the column. Default: the values that were added to Dagster, or those of the "
        "upstream source that is split by the same column.",
    )

    grain: Grain | None = Field(
        None,
        description="Length of a partition, if the model is partitioned by time as well: each partition is a window of "
        "its `event_time` and a value of the column.",
    )

    @model_validator(mode="after")
    def _dimensions(self) -> ColumnPartition:
        if self.grain and self.by == DATE_DIMENSION:
            raise ValueError(f"`by: {DATE_DIMENSION}` is the name of the dimension of time: rename the column")
        for value in (self.values or ()) if self.grain else ():
            if "|" in value:
                raise ValueError(
                    f"the value {shortened(value)} has `|`, which separates the dimensions of a partition key"
                )
        return self

    @field_validator("by")
    @classmethod
    def _usable_name(cls, value: str) -> str:
        if value.lower() in _RESERVED:
            raise ValueError(f"the job of these models would be {value.lower()}_refresh, which has another meaning")
        return value.lower()

    @field_validator("values")
    @classmethod
    def _partition_keys(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for item in value or ():
            if not is_partition_value(item):
                raise ValueError(
                    f"the value {shortened(item)} has `...` or a control character, which Dagster does not accept"
                )
        if value and (repeated := [item for item in value if value.count(item) > 1]):
            raise ValueError(f"the value {shortened(repeated[0])} is listed more than once")
        return value


#: The kinds of partitions that are sections, by their tag.
PARTITIONS: dict[str, type[Section]] = {"column": ColumnPartition}


def _kind_of(value: object) -> str:
    return "column" if isinstance(value, Mapping | ColumnPartition) else "grain"


Partition = Annotated[
    Annotated[Grain, Tag("grain")] | Annotated[ColumnPartition, Tag("column")], Discriminator(_kind_of)
]
