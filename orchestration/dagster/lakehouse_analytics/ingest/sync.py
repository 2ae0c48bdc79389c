"""Runs a sync from start to end: install the connector, discover, plan, stage, load."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.redact import Redactor
from lakehouse_analytics.common.text import suggestion
from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest import destination as destinations
from lakehouse_analytics.ingest import environment, plan, secrets
from lakehouse_analytics.ingest.config import Connection, load
from lakehouse_analytics.ingest.destination import Destination
from lakehouse_analytics.ingest.errors import IngestError, boundary
from lakehouse_analytics.ingest.process import Connector
from lakehouse_analytics.ingest.report import IngestReport, StreamReport
from lakehouse_analytics.ingest.staging import Staging, to_parquet

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings

Progress = Callable[[str], None]
DEFAULT = Path("connectors") / "faker.yaml"


def sync(settings: Settings, config_path: Path | None, overrides: dict[str, int], progress: Progress) -> IngestReport:
    """Sync a connection. See `run_ingest`."""
    from lakehouse_analytics.settings import repository_root

    connection = load(config_path or repository_root() / DEFAULT)
    destination = destinations.of(settings)
    with _exit_on_signals(), boundary(connection.name), destination.stage(connection) as directory:
        installed = environment.ensure(connection, settings.connectors_dir, progress)
        connector = Connector(connection.connector.executable, installed.command, directory, progress)
        spec = _spec(connector, installed.directory)
        return _sync(
            connection=connection,
            connector=connector,
            spec=spec,
            overrides=overrides,
            directory=directory,
            destination=destination,
            progress=progress,
        )


def _sync(
    *,
    connection: Connection,
    connector: Connector,
    spec: dict[str, Any],
    overrides: dict[str, int],
    directory: Path,
    destination: Destination,
    progress: Progress,
) -> IngestReport:
    started = datetime.now(UTC)
    config = _configured(connection, spec, overrides)
    public, hidden = secrets.split(spec, config)
    connector.redact = Redactor(hidden)
    known = destination.read(connection)
    planned = plan.make(connection, connector.discover(config), known, public)
    for stream in planned.streams.values():
        progress(f"{stream.stream.name}: {stream.mode}" + (f", because {stream.reason}" if stream.reason else ""))

    staging = Staging(directory, list(planned.streams), progress)
    with closing(connector.read(config, planned.catalog(), planned.state)) as messages:
        staging.consume(messages)
    for key, stream in planned.streams.items():
        started_at = time.monotonic()
        to_parquet(
            directory,
            stream.stream.name,
            staging.streams[key],
            partial(_query, columns=stream.columns, generation_id=stream.generation_id, sync_id=planned.sync_id),
            stream.key_columns,
        )
        staging.streams[key].ended += time.monotonic() - started_at
    totals = destination.load(connection, planned, staging, known)
    return IngestReport(
        connector=connection.connector.package,
        version=connection.connector.version,
        source=connection.name,
        schema=connection.schema_name,
        streams=tuple(
            StreamReport(
                stream=stream.stream.name,
                table=stream.table,
                mode=stream.mode,
                rows_read=staging.streams[key].rows,
                bytes_read=staging.streams[key].size,
                rows_total=totals[key],
                seconds=staging.streams[key].seconds,
                generation_id=stream.generation_id,
            )
            for key, stream in planned.streams.items()
        ),
        started=started,
    )


def _query(source: str, *, columns: tuple[sql.Column, ...], generation_id: int, sync_id: int) -> str:
    return sql.select(source, columns, generation_id=generation_id, sync_id=sync_id)


def _spec(connector: Connector, environment_directory: Path) -> dict[str, Any]:
    """Return the connector's spec.

    It is cached in its environment, because starting the connector to get it takes time.
    """
    cached = environment_directory / "spec.json"
    try:
        return dict(json.loads(cached.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        spec = connector.spec()
        with suppress(OSError):  # in a read-only image, it is requested again the next time
            cached.write_text(json.dumps(spec), encoding="utf-8")
        return spec


def _configured(connection: Connection, spec: dict[str, Any], overrides: dict[str, int]) -> dict[str, Any]:
    known = list(spec.get("properties") or {})
    for key in overrides:
        if key not in known:
            raise IngestError(
                f"--{key}: {connection.connector.package} has no config key {key!r}; {suggestion(key, known)}"
            )
    branches = any(word in spec for word in ("oneOf", "anyOf", "allOf"))
    for key in connection.config:
        # Keys with `__` belong to the CDK, and are not in the spec.
        if known and not branches and key not in known and not key.startswith("__"):
            raise IngestError(f"{connection.path}: unknown key 'config.{key}'; {suggestion(key, known)}")
    return connection.config | overrides


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Exit on SIGTERM and SIGHUP like on Ctrl-C, so that the connector is stopped and the staged files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Keep the handlers of the calling program, and ignored signals (nohup).
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
