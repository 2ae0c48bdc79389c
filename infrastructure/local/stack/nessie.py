"""Nessie, a REST catalog, over the same PostgreSQL and S3 server. It is optional: `stack.sh start rest` starts it."""

import os
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

from stack import download, postgres, s3
from stack.files import private_folder
from stack.java import java_program
from stack.layout import Layout, cache
from stack.process import Server
from stack.settings import HOST, Settings

NAME = "rest"
WAREHOUSE = "lakehouse"
REFERENCE = "main"


def url(settings: Settings) -> str:
    """The address for clients of Iceberg's REST catalogs."""
    return f"http://{HOST}:{settings.rest_port}/iceberg/{REFERENCE}"


def server(layout: Layout) -> Server:
    """The process."""
    return Server(NAME, layout.run / f"{NAME}.pid", layout.log(NAME), _mark(layout))


def start(layout: Layout, settings: Settings) -> None:
    """Start Nessie; fetches it first, where this user never ran it."""
    program = download.nessie(cache())
    data = layout.state / "data" / NAME
    private_folder(data / "tmp")
    storage = "nessie.catalog.service.s3.default-options"
    properties = {
        "quarkus.http.host": HOST,
        "quarkus.http.port": str(settings.rest_port),
        "quarkus.http.access-log.enabled": "false",
        "quarkus.management.host": HOST,
        "quarkus.management.port": "0",  # any that is free
        "nessie.version.store.type": "JDBC",
        "nessie.version.store.persist.jdbc.datasource": "postgresql",
        "quarkus.datasource.postgresql.jdbc.url": (
            f"jdbc:postgresql://{HOST}:{settings.postgres_port}/{postgres.NESSIE_DATABASE}"
        ),
        "quarkus.datasource.postgresql.username": postgres.USER,
        "nessie.catalog.default-warehouse": WAREHOUSE,
        f"nessie.catalog.warehouses.{WAREHOUSE}.location": s3.warehouse(NAME),
        f"{storage}.endpoint": f"http://{HOST}:{settings.s3_port}",
        f"{storage}.region": s3.REGION,
        f"{storage}.path-style-access": "true",
        f"{storage}.access-key": "urn:nessie-secret:quarkus:storage",
    }
    temporary = f"-Djava.io.tmpdir={data / 'tmp'}"
    command = [str(java_program()), "-Xmx512M", temporary, "--enable-native-access=ALL-UNNAMED"]
    command += [*(f"-D{name}={value}" for name, value in properties.items()), _mark(layout), "-jar", str(program)]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(data),
        "LC_ALL": "C.UTF-8",
        # Not as arguments: everybody on the machine can read those.
        "QUARKUS_DATASOURCE_POSTGRESQL_PASSWORD": settings.postgres_password,
        "STORAGE_NAME": settings.s3_access_key,
        "STORAGE_SECRET": settings.s3_secret_key,
    }
    server(layout).start(command, environment, data)


def ready(settings: Settings) -> bool:
    """Whether it answers."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url(settings)}/v1/config", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def _mark(layout: Layout) -> str:
    return f"-Dlakehouse.stack={layout.state / 'data' / NAME}"
