"""The sensor's cursor: the state that one poll passes to the next, as text of bounded length.

Times are whole seconds of Airbyte's clock, not of ours, unless stated otherwise.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse_analytics.triggers.airbyte.job_identity import TAG_LENGTH, JobEnd
from lakehouse_analytics.triggers.airbyte.jobs import parse_time

VERSION = 2
#: Versions that can be read. Version 1 identified jobs by id and second alone, and had no server.
READABLE_VERSIONS = (1, VERSION)
#: Maximum length of the text in characters, below the recommended maximum for a sensor's cursor.
MAX_LENGTH = 60_000


class CursorError(ValueError):
    """The text is not a valid cursor. The message says what is expected."""


@dataclass(frozen=True)
class Position:
    """The position in the list of jobs at which an unfinished pass continues.

    Attributes:
        since: The pass continues with jobs that changed at this second or later.
        offset: Position among these jobs.
        anchor: Id of the job that was last at that position; another job there means that rows have moved.
        began: The watermark when the pass began.
    """

    since: datetime
    offset: int
    anchor: int | None
    began: datetime


@dataclass(frozen=True)
class Cursor:
    """The state of the sensor.

    Attributes:
        floor: All jobs that ended before this time are processed, and not requested again.
        watermark: The latest end of a job so far.
        seen: Processed jobs that ended at the floor or later, and until when to keep each: its end, or the second of
            the request if Airbyte reports no end.
        position: Where the pass continues; None if the last one is finished.
        epoch: Distinguishes the runs of a replay from earlier runs; empty without a replay.
        server: The server that all of this refers to, see `server_digest`; empty in a cursor of version 1.
        stored: Storage id of the newest event in Dagster when the last finished pass began. A tick whose cursor was
            lost stored events with higher ids. None if unknown.
        ticked: Unix timestamp of the last tick's start, by our clock.
        stalled_checked: Unix timestamp of the last search for stalled jobs, by our clock.
    """

    floor: datetime
    watermark: datetime
    seen: Mapping[JobEnd, datetime] = field(default_factory=dict)
    position: Position | None = None
    epoch: str = ""
    server: str = ""
    stored: int | None = None
    ticked: float = 0.0
    stalled_checked: float = 0.0

    @staticmethod
    def starting(at: datetime, epoch: str = "", server: str = "") -> Cursor:
        """Return a cursor that begins with jobs that end at a time or later."""
        second = at.astimezone(UTC).replace(microsecond=0)
        return Cursor(floor=second, watermark=second, epoch=epoch, server=server)

    def rewound(self, at: datetime) -> Cursor:
        """Return the cursor for a server whose clock was set back: starts at a time, and keeps processed jobs."""
        second = at.astimezone(UTC).replace(microsecond=0)
        return replace(self, floor=second, watermark=second, position=None)

    def dumps(self) -> str:
        """Return the text. If it is too long, the oldest processed jobs are dropped, which shortens the overlap."""
        fitting = self
        while len(text := fitting._text()) > MAX_LENGTH:
            fitting = fitting._shortened()
        return text

    def _text(self) -> str:
        rows: dict[tuple[int, str], list[JobEnd]] = defaultdict(list)
        for job, until in self.seen.items():
            rows[int((until - self.floor).total_seconds()), _kind(job)].append(job)
        fields: dict[str, Any] = {
            "version": VERSION,
            "floor": _format_time(self.floor),
            "watermark": _format_time(self.watermark),
            "seen": [_row(second, kind, jobs) for (second, kind), jobs in sorted(rows.items())],
            "epoch": self.epoch,
            "server": self.server,
            "stored": self.stored,
            "ticked": round(self.ticked),
            "asked_for_stalled": round(self.stalled_checked),
        }
        if self.position:
            position = self.position
            fields["place"] = [
                _format_time(position.since), position.offset, position.anchor, _format_time(position.began)
            ]  # fmt: skip
        return json.dumps(fields, separators=(",", ":"))

    def _shortened(self) -> Cursor:
        """Return the cursor without the oldest tenth of the seen jobs.

        These, and others of the same seconds, are not requested again.
        """
        ends = sorted(self.seen.values())
        floor = ends[len(ends) // 10] + timedelta(seconds=1)
        if self.position:
            floor = min(floor, self.position.since)  # the rest of that second has not been read yet
        seen = {job: until for job, until in self.seen.items() if until >= floor}
        if len(seen) == len(self.seen):
            # All in one second: the pass continues after them, and Dagster's event log has them.
            seen = {job: seen[job] for job in sorted(seen, key=lambda job: job[:2])[len(seen) // 10 + 1 :]}
        return replace(self, floor=max(floor, self.floor), seen=seen)

    @staticmethod
    def loads(text: str) -> Cursor:
        """Parse the text that `dumps` wrote.

        Raises:
            CursorError: The text is not a valid cursor.
        """
        try:
            fields = _of_readable_version(json.loads(text))
            floor = _required_time(fields["floor"])
            position = fields.get("place")
            return Cursor(
                floor=floor,
                watermark=_required_time(fields["watermark"]),
                seen=dict(entry for row in fields["seen"] for entry in _seen(floor, row)),
                position=position and _position(position),
                epoch=str(fields["epoch"]),
                server=str(fields.get("server", "")),
                stored=None if fields.get("stored") is None else int(fields["stored"]),
                ticked=float(fields["ticked"]),
                stalled_checked=float(fields["asked_for_stalled"]),
            )
        except CursorError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            raise CursorError(
                "expected a cursor of this sensor, or a time such as 2026-11-20T00:00Z to replay from"
            ) from None


def _of_readable_version(fields: Any) -> Any:
    if fields["version"] not in READABLE_VERSIONS:
        raise CursorError(f"it has version {fields['version']}, and this code reads versions up to {VERSION}")
    return fields


def _position(fields: Any) -> Position:
    return Position(_required_time(fields[0]), int(fields[1]), fields[2], _required_time(fields[3]))


def _kind(job: JobEnd) -> str:
    """Return `=` for a job with an end, `?` for one without, and an empty string for a job of version 1."""
    return "" if not job.tag else "=" if job.at else "?"


def _row(second: int, kind: str, jobs: list[JobEnd]) -> list[Any]:
    """Return a row of `seen`.

    It has the seconds after the floor, kind and tags, then ids as differences, most of which have two or three digits.
    """
    jobs = sorted(jobs, key=lambda job: job[:2])
    return [second, kind + "".join(job.tag for job in jobs), *_differences([job.id for job in jobs])]


def _seen(floor: datetime, row: list[Any]) -> Iterator[tuple[JobEnd, datetime]]:
    until, written = floor + timedelta(seconds=row[0]), row[1:]
    # Version 1 has neither kinds nor tags.
    kind, tags = (written[0][:1], written.pop(0)[1:]) if written and isinstance(written[0], str) else ("", "")
    for n, job_id in enumerate(_sums(written)):
        yield JobEnd(job_id, tags[TAG_LENGTH * n : TAG_LENGTH * (n + 1)], None if kind == "?" else until), until


def _differences(ids: list[int]) -> list[int]:
    return [number - before for before, number in zip([0, *ids], ids, strict=False)]


def _sums(differences: list[int]) -> list[int]:
    total, ids = 0, []
    for difference in differences:
        total += difference
        ids.append(total)
    return ids


def _format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _required_time(text: str) -> datetime:
    found = parse_time(text)
    if found is None:
        raise ValueError
    return found
