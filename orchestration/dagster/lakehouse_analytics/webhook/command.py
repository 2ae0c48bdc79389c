"""The command `lakehouse webhook`."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from lakehouse_analytics.settings import Settings
    from lakehouse_analytics.webhook.sources import ReportedSources


@click.command()
@click.option("--host", help="Address to listen on, instead of LAKEHOUSE_WEBHOOK_HOST.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, instead of LAKEHOUSE_WEBHOOK_PORT.")
def webhook(host: str | None, port: int | None) -> None:
    """Let other systems report that they have loaded a table: POST /arrived/<source>/<table>.

    Needs LAKEHOUSE_WEBHOOK_TOKEN, and sources with `arrives: {webhook: true}` in their contract. SIGTERM stops it after
    the requests that it has begun.
    """
    from lakehouse_analytics.contract.models import ContractError
    from lakehouse_analytics.dbt.project import ManifestError
    from lakehouse_analytics.settings import Settings, SettingsError

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("lakehouse_analytics.webhook").setLevel(logging.INFO)
    try:
        settings = Settings.load(complete=False)
        sources = _sources(settings) if settings.webhook_token else None
    except (ContractError, ManifestError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    token = settings.webhook_token
    if token is None or sources is None:
        raise click.ClickException(
            "LAKEHOUSE_WEBHOOK_TOKEN is not set. Set it to a secret that callers send, such as the output of "
            "`openssl rand -hex 32`."
        )
    address = (host or settings.webhook_host, port or settings.webhook_port)
    with _instance() as instance:
        _serve(instance, address, token.get_secret_value(), sources)


def _sources(settings: Settings) -> ReportedSources:
    from lakehouse_analytics.dbt.manifest import read
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.webhook.sources import ReportedSources

    project = DbtProject.from_settings(settings)
    graph = read(project.manifest(), project.configuration(), project_dir=project.project_dir)
    sources = ReportedSources.of(graph.sources.values())
    if not sources.keys:
        raise click.ClickException(
            "No source of the dbt project has `arrives: {webhook: true}` in its meta.lakehouse, so no load could be "
            "reported."
        )
    return sources


def _instance() -> DagsterInstance:
    from dagster import DagsterInstance
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import SQLAlchemyError

    if not os.getenv("DAGSTER_HOME"):
        raise click.ClickException(
            "DAGSTER_HOME is not set. Set it to the folder of the instance that stores the loads; `make` uses "
            ".dagster_home."
        )
    # libpq waits for minutes otherwise, and callers with it.
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    try:
        return DagsterInstance.get()
    except (SQLAlchemyError, DagsterPostgresException) as error:
        reason = error.__cause__ or error
        first = (str(reason).splitlines() or [""])[0]
        raise click.ClickException(f"Dagster's storage does not answer: {first}") from None


def _serve(instance: DagsterInstance, address: tuple[str, int], token: str, sources: ReportedSources) -> None:
    from lakehouse_analytics.webhook.recorder import Recorder
    from lakehouse_analytics.webhook.server import WebhookServer

    try:
        server = WebhookServer(address, token, sources, Recorder(instance, sources.keys.values()))
    except OSError as error:
        raise click.ClickException(
            f"{address[0]}:{address[1]}: {error.strerror}. Set --host or --port, or LAKEHOUSE_WEBHOOK_HOST or _PORT."
        ) from None

    def stop(*_: Any) -> None:
        # `shutdown` waits for `serve_forever`, which this handler interrupts.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    click.echo(f"Listening on {address[0]}:{server.server_port} for loads of {sources.names}", err=True)
    server.serve_forever()
    server.server_close()
