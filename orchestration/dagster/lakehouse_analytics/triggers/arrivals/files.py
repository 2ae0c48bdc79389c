"""The sensors that look for new files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from lakehouse_analytics.arrivals.files.storage import FileStorage, storage_of
from lakehouse_analytics.arrivals.files.versions import fingerprint
from lakehouse_analytics.common.names import apart, counted
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import UNREADABLE_FILES, asset_key, has_broken_row_count, max_runtime_tags
from lakehouse_analytics.settings import Settings

#: A load that failed, or could not read all files, is requested again after this time.
RETRY_AFTER = timedelta(minutes=15)
#: The tag by which Dagster finds the run of a request.
_RUN_KEY = "dagster/run_key"


@dataclass(frozen=True)
class FileCursor:
    """The cursor of a sensor. Its size does not depend on the number of files.

    Attributes:
        fingerprint: The fingerprint of the files at the last request.
        number: The number of the last request.
        at: Unix timestamp of the last request.
    """

    fingerprint: str = ""
    number: int = 0
    at: float = 0.0

    def dumps(self) -> str:
        """Return the text that Dagster stores."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str | None) -> FileCursor:
        """Parse the text that `dumps` wrote. Any other text counts as no cursor: the next load finds what is new."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()


def file_sensors(settings: Settings, sources: Iterable[Source]) -> list[dg.SensorDefinition]:
    """Return a sensor for the files of each source.

    A sensor lists the files, and requests a load when the listing has changed. The load compares the listing with the
    files that it has recorded, so each version of a file is loaded exactly once, whatever the sensor saw of it.

    Args:
        settings: The settings.
        sources: Sources that are loaded from files.
    """
    by_name = {"_".join(source.key): source for source in sources}
    names = apart(by_name, lambda name: re.sub(r"\W", "_", name, flags=re.ASCII) + "_files")
    return [_sensor(settings, source, names[name]) for name, source in by_name.items()]


def _sensor(settings: Settings, source: Source, name: str) -> dg.SensorDefinition:
    arrival = source.contract.arrives
    assert isinstance(arrival, FileArrival)  # noqa: S101
    storage = storage_of(arrival, settings.dbt_project_dir)
    key = asset_key(source)

    @dg.sensor(
        name=name,
        target=dg.AssetSelection.assets(key),
        minimum_interval_seconds=settings.files_interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Loads {key.to_user_string()} when files of {arrival.files} are new or changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look_for_files(context, storage, key, max_runtime_tags(settings.max_runtime))

    return sensor


def look_for_files(
    context: dg.SensorEvaluationContext, storage: FileStorage, key: dg.AssetKey, tags: dict[str, str]
) -> dg.SensorResult:
    """Request a load of a source if its files have changed since the last request, or if that load has failed.

    Args:
        context: The context of the sensor's tick.
        storage: The files.
        key: The asset of the source.
        tags: Tags of the run.

    Raises:
        ArrivalError: The files cannot be listed. The cursor is unchanged.
    """
    before = FileCursor.loads(context.cursor)
    found, number = fingerprint(storage.settled())
    if not number or (found == before.fingerprint and not _has_failed(context.instance, key, before)):
        reason = f"{counted(number, 'file')}, none of them new." if number else "There is no file."
        return dg.SensorResult(skip_reason=reason)
    after = FileCursor(found, before.number + 1, datetime.now(UTC).timestamp())
    request = dg.RunRequest(run_key=_run_key(key, after), asset_selection=[key], tags=tags)
    return dg.SensorResult(run_requests=[request], cursor=after.dumps())


def _has_failed(instance: dg.DagsterInstance, key: dg.AssetKey, cursor: FileCursor) -> bool:
    """Return whether the last requested load has failed some time ago, or could not read some files."""
    if datetime.now(UTC).timestamp() < cursor.at + RETRY_AFTER.total_seconds():
        return False
    runs = instance.get_runs(dg.RunsFilter(tags={_RUN_KEY: _run_key(key, cursor)}), limit=1)
    if not runs:
        return False
    run = runs[0]
    failed = run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    return (failed and not has_broken_row_count(run)) or (run.is_finished and UNREADABLE_FILES in run.tags)


def _run_key(key: dg.AssetKey, cursor: FileCursor) -> str:
    return f"{key.to_user_string()} {cursor.number} {cursor.fingerprint}"
