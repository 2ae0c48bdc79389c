"""The body of a request: what a system reports about a load."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError, field_validator, model_validator

from lakehouse_analytics.common.validation import explain, reason
from lakehouse_analytics.contract.base import Section
from lakehouse_analytics.dbt.graph import Key
from lakehouse_analytics.triggers.base import Load
from lakehouse_analytics.triggers.events import ENDED, STARTED

#: Maximum size of a body in bytes, number of entries of `metadata`, and length of a text in it.
MAX_BODY, MAX_ENTRIES, MAX_TEXT = 65_536, 50, 10_000
ROW_COUNT = "dagster/row_count"
#: Largest integer of PostgreSQL and of most clients of Dagster's API.
_MAX_INTEGER = 2**63 - 1


class ReportError(ValueError):
    """The body of a request is not a report. The message is for the caller of the webhook."""


def _text(value: str) -> str:
    # PostgreSQL cannot store this character.
    if "\0" in value:
        raise ValueError("expected text without NUL characters")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_text)]
Integer = Annotated[int, Field(ge=-_MAX_INTEGER - 1, le=_MAX_INTEGER)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Report(Section):
    """What a system reports about a load. Every key is optional."""

    id: str | None = Field(None, min_length=1, max_length=200)
    rows: int | None = Field(None, ge=0, le=_MAX_INTEGER)
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    metadata: dict[Annotated[str, Field(min_length=1, max_length=200)], bool | Integer | Number | Text | None] = Field(
        default_factory=dict, max_length=MAX_ENTRIES
    )

    @field_validator("id")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise ValueError("expected printable characters, without spaces at the start or the end")
        return value

    @field_validator("metadata")
    @classmethod
    def _own_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in (STARTED, ENDED, "rows") or name.startswith("dagster/") or not name.isprintable():
                raise ValueError(
                    f"the name {name!r} cannot be used: rows, started and ended are keys of their own, and names that "
                    "begin with dagster/ are Dagster's"
                )
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Report:
        if self.started and self.ended and self.ended < self.started:
            raise ValueError("ended is before started")
        return self

    def load(self, key: Key) -> Load:
        """Return the load of a source table that this reports. Without an id, it gets one that is unique."""
        rows = {} if self.rows is None else {ROW_COUNT: self.rows}
        return Load(
            id=self.id or f"webhook-{uuid.uuid4()}",
            tables=[key],
            description="Reported by the system that loads the table",
            started=self.started,
            ended=self.ended or datetime.now(UTC),
            metadata={**self.metadata, **rows},
        )


def parse(body: bytes) -> Report:
    """Parse the body of a request. An empty body reports a load about which nothing else is known.

    Raises:
        ReportError: It is not JSON, or not a report. The message names each key, what was expected, and for an unknown
            key the most similar one.
    """
    if not body.strip():
        return Report()
    try:
        return Report.model_validate_json(body)
    except ValidationError as error:
        raise ReportError("; ".join(dict.fromkeys(_problems(error)))) from None


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        location = [str(part) for part in item["loc"]]
        if location[:1] == ["metadata"] and len(location) > 1:
            expected = f"text of at most {MAX_TEXT:,} characters, a number, true, false or null"
            yield f"metadata.{location[1][:60]}: expected {expected}"
        elif location and item["type"].startswith(("datetime", "timezone")):
            yield f"{location[0]}: expected a time with a time zone, such as 2026-01-31T06:00:00Z"
        elif location:
            key = repr(location[-1][:60]) if item["type"] == "extra_forbidden" else location[0]
            yield explain(item, key, Report.model_fields, others="keys")
        else:
            yield f"expected a JSON object: {reason(item)}" if "type" in item["type"] else reason(item)
