"""The file `env`: what a client of the stack needs, as shell lines."""

import shlex
from collections.abc import Mapping

from stack import nessie, postgres, s3, trino_config
from stack.layout import Layout
from stack.settings import HOST, Settings


def variables(layout: Layout, settings: Settings) -> dict[str, str]:
    """Variables of the code location and of pyiceberg, which reads its own."""
    iceberg = f"PYICEBERG_CATALOG__{trino_config.CATALOG.upper()}__"
    rest = f"PYICEBERG_CATALOG__{trino_config.REST_CATALOG.upper()}__"
    return {
        "LAKEHOUSE_STACK_DIR": str(layout.state),
        "LAKEHOUSE_STACK_POSTGRES_URL": postgres.url(settings, postgres.DAGSTER_DATABASE),
        "LAKEHOUSE_TRINO_HOST": "localhost",
        "LAKEHOUSE_TRINO_PORT": str(settings.trino_https_port),
        "LAKEHOUSE_TRINO_HTTP_SCHEME": "https",
        "LAKEHOUSE_TRINO_USER": trino_config.USER,
        "LAKEHOUSE_TRINO_PASSWORD": settings.trino_password,
        "LAKEHOUSE_TRINO_CA_BUNDLE": str(layout.tls / "ca.pem"),
        "LAKEHOUSE_TRINO_CATALOG": trino_config.CATALOG,
        "LAKEHOUSE_TRINO_UI_URL": ui(settings),
        "LAKEHOUSE_ICEBERG_CATALOG": trino_config.CATALOG,
        f"{iceberg}TYPE": "sql",
        f"{iceberg}URI": postgres.url(settings, postgres.CATALOG_DATABASE, "+psycopg2"),
        f"{iceberg}WAREHOUSE": s3.warehouse(trino_config.CATALOG),
        **_storage(settings, iceberg),
        f"{rest}TYPE": "rest",
        f"{rest}URI": nessie.url(settings),
        f"{rest}WAREHOUSE": nessie.WAREHOUSE,
        **_storage(settings, rest),
        # Newer AWS clients send checksums in a way that rclone and Garage do not take (pyarrow's does).
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def _storage(settings: Settings, catalog: str) -> dict[str, str]:
    return {
        f"{catalog}S3__ENDPOINT": f"http://{HOST}:{settings.s3_port}",
        f"{catalog}S3__REGION": s3.REGION,
        f"{catalog}S3__ACCESS_KEY_ID": settings.s3_access_key,
        f"{catalog}S3__SECRET_ACCESS_KEY": settings.s3_secret_key,
        f"{catalog}S3__FORCE_VIRTUAL_ADDRESSING": "false",
    }


def render(values: Mapping[str, str]) -> str:
    """Lines that a shell and `.env` readers take as they are."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def ui(settings: Settings) -> str:
    """The web UI: over HTTP any name logs in, without a password."""
    return f"http://localhost:{settings.trino_http_port}"
