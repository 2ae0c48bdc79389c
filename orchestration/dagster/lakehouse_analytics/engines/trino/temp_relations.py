"""Finds temporary relations that killed builds have left on Trino, by their names.

dbt/macros/make_temp_relation.sql creates the names: `<model>__dbt_tmp[_<batch>]_<yyyymmddhhmmss>_<invocation>`. The
time is the start of the run in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

_NAME = re.compile(r".+__dbt_tmp(?:_\w+)?_(\d{14})_[0-9a-f]{8}")


def stale_temp_relations(names: Iterable[str], *, now: datetime, older_than: timedelta) -> list[str]:
    """Return the temporary relations of runs that started more than `older_than` before `now`.

    No running run needs them. Relations that end with `__dbt_tmp` or `__dbt_backup` without a time are never returned:
    their age is unknown, and a backup may be the only copy of a table whose run died between two renames.

    Args:
        names: Names of tables and views without schema, as Trino lists them.
        now: The current time, as an aware datetime.
        older_than: At least the maximum duration of a run.
    """
    return [name for name in names if (started := _started(name)) and now - started > older_than]


def _started(name: str) -> datetime | None:
    if not (match := _NAME.fullmatch(name)):
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # the number is not a time, so the relation is not ours
        return None
