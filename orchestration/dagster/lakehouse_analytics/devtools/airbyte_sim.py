"""`lakehouse airbyte-sim` simulates Airbyte on loopback.

Its syncs are real: they run the connector of `lakehouse ingest`.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

import click

from lakehouse_analytics.devtools.airbyte_simulator import Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.ingest import IngestError, run_ingest
from lakehouse_analytics.ingest.config import Connection, load
from lakehouse_analytics.ingest.sync import DEFAULT
from lakehouse_analytics.settings import Settings, SettingsError, repository_root

PORT = 8006


class Syncs:
    """Runs the connector for each started job, one at a time. Each sync generates more users than the previous one.

    A connector without a `count` runs as its file says.
    """

    def __init__(
        self, settings: Settings, store: Store, config_path: Path | None, count: int | None, more: int
    ) -> None:
        self._settings, self._store, self._config_path = settings, store, config_path
        self._count, self._more, self._lock = count, more, threading.Lock()

    def run(self, connection: str, job: int) -> None:
        """Run a sync, then end the job with the outcome of the connector."""
        name = self._store.connections[connection]["name"]
        click.echo(f"job {job} of {name}: started")
        with self._lock:
            try:
                report = run_ingest(
                    self._settings, config_path=self._config_path, count=self._count, progress=lambda _: None
                )
            except Exception as error:
                self._store.end(job, "failed", rows=None, bytes=None)
                message = str(error) if isinstance(error, IngestError) else f"{type(error).__name__}: {error}"
                click.echo(f"job {job} of {name}: failed: {message}", err=True)
                return
            if self._count is not None:
                self._count += self._more
        rows, size = sum(s.rows_read for s in report.streams), sum(s.bytes_read for s in report.streams)
        self._store.end(job, rows=rows, bytes=size)
        click.echo(f"job {job} of {name}: succeeded, {rows:,} rows")


def first_count(connection: Connection, count: int | None, more: int) -> int | None:
    """Return the number of users in the first sync; None if the connector has no such option.

    It is larger than that of `lakehouse ingest`: with the same number, the first sync would move no rows after
    `make demo`, and with a smaller one, the row counts would fail.

    Args:
        connection: The connection, whose config has the number of `lakehouse ingest`.
        count: The number from the command line.
        more: Number of users added by each further sync.
    """
    if count is not None:
        return count
    ingested = connection.config.get("count")
    return ingested + more if isinstance(ingested, int) else None


@click.command("airbyte-sim")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The connection's YAML file, as in `lakehouse ingest`.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Port on 127.0.0.1.")
@click.option("--every", type=click.FloatRange(min=0), default=60.0, show_default=True,
              help="Seconds between two syncs; if 0, syncs run only on request.")  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), show_default="--more in addition to those of `lakehouse ingest`",
              help="Number of users in the first sync.")  # fmt: skip
@click.option(
    "--more",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of users added by each further sync.",
)
def command(config_path: Path | None, port: int, every: float, count: int | None, more: int) -> None:
    """Simulate Airbyte: serve its API on this machine, with syncs of a real connector.

    To see the sensor work, run `make dev` in another terminal, with LAKEHOUSE_AIRBYTE_URL as printed.
    """
    try:
        serve(config_path=config_path, port=port, every=every, count=count, more=more)
    except (IngestError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"Port {port} cannot be used ({error.strerror}): choose another --port.") from None


def serve(*, config_path: Path | None, port: int, every: float, count: int | None, more: int) -> None:
    """Serve until the process is stopped.

    Args:
        config_path: The connection's file, as in `lakehouse ingest`.
        port: Port on 127.0.0.1.
        every: Seconds between two syncs; if 0, syncs run only on request.
        count: Number of users in the first sync; None as in `first_count`.
        more: Number of users added by each further sync.

    Raises:
        IngestError: The file cannot be used.
        OSError: The port is in use.
    """
    settings = Settings.load()
    configured = load(config_path or repository_root() / DEFAULT)
    store = Store()
    connection = store.add_connection(configured.name, streams=[stream.name for stream in configured.streams])
    syncs = Syncs(settings, store, config_path, first_count(configured, count, more), more)
    with Simulator(store, port=port, run_sync=syncs.run) as simulator:
        simulator.requests = deque(maxlen=1)  # requests are not read here
        click.echo(
            f"Simulated Airbyte with one connection: {configured.name} ({connection})\n"
            f"  start Dagster  LAKEHOUSE_AIRBYTE_URL={simulator.url} make dev\n"
            f"  start a sync   job airbyte_sync in the UI, with the configuration {{ops: {{sync: {{config: "
            f"{{connection: {configured.name}}}}}}}}}"
        )
        stop = threading.Event()

        def sync_repeatedly() -> None:
            while not stop.wait(every):
                if not any(job.status == "running" for job in store.jobs.values()):
                    syncs.run(connection, store.start(connection))

        if every > 0:
            threading.Thread(target=sync_repeatedly, daemon=True).start()
        try:
            simulator.serve_forever()
        except KeyboardInterrupt:
            click.echo("Stopped.")
        finally:
            stop.set()
