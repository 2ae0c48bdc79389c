"""How far the feed has come: what a tick leaves for the next one, as bounded text.

Times are whole seconds of Airbyte's clock, never of ours.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse_analytics.triggers.airbyte.identity import TAG, Ended
from lakehouse_analytics.triggers.airbyte.jobs import instant

VERSION = 2
#: Versions that are read: 1 knew jobs by their id and second alone, and no server.
READ = (1, VERSION)
#: Characters of the text, below what a sensor's cursor should hold.
LONGEST = 60_000


class CursorError(ValueError):
    """A text that is no cursor. The message says what is expected."""


@dataclass(frozen=True)
class Place:
    """Where a pass over the jobs was left.

    Attributes:
        since: Jobs that were updated at this second or later are asked for,
        offset: from this place in their order on.
        anchor: The job that was last at that place; another one there means that rows have shifted.
        began: The watermark when the pass began.
    """

    since: datetime
    offset: int
    anchor: int | None
    began: datetime


@dataclass(frozen=True)
class Cursor:
    """What has been seen.

    Attributes:
        floor: Every job that ended before is done with; none is asked for again.
        watermark: The latest end that was seen.
        seen: Jobs that ended at the floor or later and are done with, and until when each has to be remembered: its
            end, or the second of the request if Airbyte gives no end.
        place: Where the pass goes on; None when the last one came to its end.
        epoch: Tells the runs of a replay from those before; empty until somebody replays.
        server: The server that all of this is about, see `server_of`; empty in a cursor of version 1.
        stored: Number of the newest event that Dagster had stored when the last pass that came to its end began: what a
            tick stored whose cursor was lost has a higher one. None where it is not known.
        ticked: When the last tick began,
        asked_for_stalled: and when jobs that run too long were looked for: by our clock, in seconds since 1970.
    """

    floor: datetime
    watermark: datetime
    seen: Mapping[Ended, datetime] = field(default_factory=dict)
    place: Place | None = None
    epoch: str = ""
    server: str = ""
    stored: int | None = None
    ticked: float = 0.0
    asked_for_stalled: float = 0.0

    @staticmethod
    def starting(at: datetime, epoch: str = "", server: str = "") -> Cursor:
        """Of a feed that begins with jobs that end at an instant or later."""
        second = at.astimezone(UTC).replace(microsecond=0)
        return Cursor(floor=second, watermark=second, epoch=epoch, server=server)

    def set_back(self, at: datetime) -> Cursor:
        """For a server whose clock was set back: begin again at an instant, and remember what was seen."""
        second = at.astimezone(UTC).replace(microsecond=0)
        return replace(self, floor=second, watermark=second, place=None)

    def dumps(self) -> str:
        """The text; its length is bounded whatever was seen, at the price of the overlap."""
        fitting = self
        while len(text := fitting._text()) > LONGEST:
            fitting = fitting._shorter()
        return text

    def _text(self) -> str:
        rows: dict[tuple[int, str], list[Ended]] = defaultdict(list)
        for job, until in self.seen.items():
            rows[int((until - self.floor).total_seconds()), _kind(job)].append(job)
        fields: dict[str, Any] = {
            "version": VERSION,
            "floor": _written(self.floor),
            "watermark": _written(self.watermark),
            "seen": [_row(second, kind, jobs) for (second, kind), jobs in sorted(rows.items())],
            "epoch": self.epoch,
            "server": self.server,
            "stored": self.stored,
            "ticked": round(self.ticked),
            "asked_for_stalled": round(self.asked_for_stalled),
        }
        if self.place:
            place = self.place
            fields["place"] = [_written(place.since), place.offset, place.anchor, _written(place.began)]
        return json.dumps(fields, separators=(",", ":"))

    def _shorter(self) -> Cursor:
        """Without the oldest tenth of what was seen. Those jobs are asked for no more, nor others of their seconds."""
        ends = sorted(self.seen.values())
        floor = ends[len(ends) // 10] + timedelta(seconds=1)
        if self.place:
            floor = min(floor, self.place.since)  # the rest of that second is still to come
        seen = {job: until for job, until in self.seen.items() if until >= floor}
        if len(seen) == len(self.seen):
            # All in one second: the pass goes on behind them, and Dagster's history knows them.
            seen = {job: seen[job] for job in sorted(seen, key=lambda job: job[:2])[len(seen) // 10 + 1 :]}
        return replace(self, floor=max(floor, self.floor), seen=seen)

    @staticmethod
    def loads(text: str) -> Cursor:
        """Read what `dumps` wrote.

        Raises:
            CursorError: it is something else.
        """
        try:
            fields = _of_this_version(json.loads(text))
            floor = _read(fields["floor"])
            place = fields.get("place")
            return Cursor(
                floor=floor,
                watermark=_read(fields["watermark"]),
                seen=dict(entry for row in fields["seen"] for entry in _seen(floor, row)),
                place=place and Place(_read(place[0]), int(place[1]), place[2], _read(place[3])),
                epoch=str(fields["epoch"]),
                server=str(fields.get("server", "")),
                stored=None if fields.get("stored") is None else int(fields["stored"]),
                ticked=float(fields["ticked"]),
                asked_for_stalled=float(fields["asked_for_stalled"]),
            )
        except CursorError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            raise CursorError(
                "expected what the sensor wrote, or a time such as 2026-11-20T00:00Z to replay from"
            ) from None


def _of_this_version(fields: Any) -> Any:
    if fields["version"] not in READ:
        raise CursorError(f"it is of version {fields['version']}, and this code reads versions up to {VERSION}")
    return fields


def _kind(job: Ended) -> str:
    """`=` with an end, `?` without one, empty of version 1."""
    return "" if not job.tag else "=" if job.at else "?"


def _row(second: int, kind: str, jobs: list[Ended]) -> list[Any]:
    """Seconds after the floor, kind and tags, then ids as distances from each other: most take two or three digits."""
    jobs = sorted(jobs, key=lambda job: job[:2])
    return [second, kind + "".join(job.tag for job in jobs), *_distances([job.id for job in jobs])]


def _seen(floor: datetime, row: list[Any]) -> Iterator[tuple[Ended, datetime]]:
    until, written = floor + timedelta(seconds=row[0]), row[1:]
    # Version 1 has no kinds and no tags.
    kind, tags = (written[0][:1], written.pop(0)[1:]) if written and isinstance(written[0], str) else ("", "")
    for place, job_id in enumerate(_sums(written)):
        yield Ended(job_id, tags[TAG * place : TAG * (place + 1)], None if kind == "?" else until), until


def _distances(ids: list[int]) -> list[int]:
    return [number - before for before, number in zip([0, *ids], ids, strict=False)]


def _sums(distances: list[int]) -> list[int]:
    total, ids = 0, []
    for distance in distances:
        total += distance
        ids.append(total)
    return ids


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(text: str) -> datetime:
    found = instant(text)
    if found is None:
        raise ValueError
    return found
