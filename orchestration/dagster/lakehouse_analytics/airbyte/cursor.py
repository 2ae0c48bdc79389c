"""How far the feed has come: what a tick leaves for the next one, as bounded text.

Times are whole seconds of Airbyte's clock, never of ours.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse_analytics.airbyte.jobs import instant

VERSION = 1
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
        seen: Jobs that ended at the floor or later and are done with, with their ends.
        place: Where the pass goes on; None when the last one came to its end.
        epoch: Tells the runs of a replay from those before; empty until somebody replays.
        ticked: When the last tick began,
        asked_for_stalled: and when jobs that run too long were looked for: by our clock, in seconds since 1970.
    """

    floor: datetime
    watermark: datetime
    seen: Mapping[int, datetime] = field(default_factory=dict)
    place: Place | None = None
    epoch: str = ""
    ticked: float = 0.0
    asked_for_stalled: float = 0.0

    @staticmethod
    def starting(at: datetime, epoch: str = "") -> Cursor:
        """Of a feed that begins with jobs that end at an instant or later."""
        second = at.astimezone(UTC).replace(microsecond=0)
        return Cursor(floor=second, watermark=second, epoch=epoch)

    def dumps(self) -> str:
        """The text; its length is bounded whatever was seen, at the price of the overlap."""
        fitting = self
        while len(text := fitting._text()) > LONGEST:
            fitting = fitting._shorter()
        return text

    def _text(self) -> str:
        by_second: dict[int, list[int]] = defaultdict(list)
        for job_id, ended in self.seen.items():
            by_second[int((ended - self.floor).total_seconds())].append(job_id)
        fields: dict[str, Any] = {
            "version": VERSION,
            "floor": _written(self.floor),
            "watermark": _written(self.watermark),
            # Seconds after the floor, then ids as distances from each other: most take two or three characters.
            "seen": [[second, *_distances(sorted(ids))] for second, ids in sorted(by_second.items())],
            "epoch": self.epoch,
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
        seen = {job_id: ended for job_id, ended in self.seen.items() if ended >= floor}
        if len(seen) == len(self.seen):
            # All in one second: the pass goes on behind them, and Dagster's history knows them.
            seen = {job_id: seen[job_id] for job_id in sorted(seen)[len(seen) // 10 + 1 :]}
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
                seen={
                    job_id: floor + timedelta(seconds=second)
                    for second, *distances in fields["seen"]
                    for job_id in _sums(distances)
                },
                place=place and Place(_read(place[0]), int(place[1]), place[2], _read(place[3])),
                epoch=str(fields["epoch"]),
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
    if fields["version"] != VERSION:
        raise CursorError(f"it is of version {fields['version']}, and this code reads version {VERSION}")
    return fields


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
