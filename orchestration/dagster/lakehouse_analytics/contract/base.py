"""The types that the sections of the contract share."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lakehouse_analytics.common.cron import is_cron

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


#: Maximum length of a name in another database. PostgreSQL's is 63 bytes, and a staged table's name has a suffix.
MAX_NAME = 40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Maximum of every duration in contracts and settings: a hundred years.
MAX_DURATION = timedelta(days=36_500)


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
    if duration > MAX_DURATION:
        # Durations are added to dates and subtracted from them, and the result must stay in the range of `datetime`.
        raise ValueError(f"expected at most {MAX_DURATION.days}d")
    return duration


def _cron(value: object) -> object:
    if not isinstance(value, str) or not is_cron(value):
        raise ValueError("expected a cron expression such as '0 6 * * *'")
    return value


Duration = Annotated[
    timedelta, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^[0-9]+\s*[smhdw]$")])
]


Cron = Annotated[str, BeforeValidator(_cron)]


def _table_elsewhere(value: str) -> str:
    parts = value.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError("expected <table> or <schema>.<table>, of letters, digits and _")
    if any(len(part) > MAX_NAME for part in parts):
        raise ValueError(f"expected names of at most {MAX_NAME} characters")
    if "__lakehouse_" in value:
        raise ValueError("__lakehouse_ is part of the names of staged tables; choose another name")
    return value


#: The name of a table in another database: <table> or <schema>.<table>.
TableElsewhere = Annotated[str, AfterValidator(_table_elsewhere)]


class Section(BaseModel):
    """A section of a contract: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
