"""What earlier attempts of a run have loaded, which a retry reports because their own events are missing."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from lakehouse_analytics.arrivals.files.load import FileTables
from lakehouse_analytics.arrivals.files.places import FILE, LOADED_AT
from lakehouse_analytics.arrivals.files.staging import BAD, UNREADABLE, FileReport


def loaded_since(tables: FileTables, moment: datetime) -> FileReport:
    """Return a report of the files that were loaded since a moment, without partitions and the number of all rows.

    It does not contain files that could not be read, because each load tries them again.

    Args:
        tables: The tables of the source.
        moment: The moment, timezone-aware.

    Raises:
        ArrivalError: A table cannot be read.
    """
    since = f"{LOADED_AT} >= TIMESTAMPTZ '{moment.isoformat()}'"
    report = FileReport()
    files = f"SELECT {FILE}, status, reason, rows, bad_rows, bytes FROM {{table}} WHERE {since}"  # noqa: S608
    for path, status, reason, rows, bad_rows, size in tables.files.query(files):
        if status == UNREADABLE:
            continue
        if status == BAD:
            report.bad_files[path] = reason
        else:
            report.files += 1
        report.rows += rows or 0
        report.bad_rows += bad_rows or 0
        report.bytes += size or 0
    bad = f"SELECT reason, count(*) FROM {{table}} WHERE {since} GROUP BY ALL"  # noqa: S608
    report.reasons = Counter(dict(tables.quarantine.query(bad))) if report.bad_rows else Counter()
    return report
