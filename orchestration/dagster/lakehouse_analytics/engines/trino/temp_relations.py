"""Temporary relations that killed builds left behind on Trino, recognized by their names.

Pure. The names come from dbt/macros/make_temp_relation.sql: `<model>__dbt_tmp[_<batch>]_<yyyymmddhhmmss>_<invocation>`,
the time in UTC being the start of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

_NAME = re.compile(r".+__dbt_tmp(?:_\w+)?_(\d{14})_[0-9a-f]{8}")


def stale_temporaries(names: Iterable[str], *, now: datetime, older_than: timedelta) -> list[str]:
    """The temporary relations of runs that started more than `older_than` before `now`: no run that lives needs them.

    `__dbt_tmp` and `__dbt_backup` without a time are never among them: their age is unknown, and a backup may be
    the only copy of a table whose run died between two renames.

    Args:
        names: names of tables and views, without schema, as Trino lists them.
        now: an aware datetime.
        older_than: at least the longest run.
    """
    return [name for name in names if (started := _started(name)) and now - started > older_than]


def _started(name: str) -> datetime | None:
    if not (match := _NAME.fullmatch(name)):
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # a number that is no time: not ours
        return None
