"""Trino's configuration: a coordinator that also works, and workers; HTTP and, with authentication, HTTPS; Iceberg."""

import re
from collections.abc import Mapping
from pathlib import Path

from stack import nessie, postgres, s3
from stack.errors import StackError
from stack.layout import Layout
from stack.settings import HOST, Settings

USER = "lakehouse"
CATALOG = "lakehouse"
# Where tests write, so that they never touch what a person built in `lakehouse`: one for each that runs at once.
TEST_CATALOGS = ("test1", "test2", "test3", "test4")
# In the REST catalog, which is an optional part: Trino asks it when a query names this catalog.
REST_CATALOG = "rest"
HEAP = "LAKEHOUSE_STACK_TRINO_HEAP"
JAVA_OPTIONS = "LAKEHOUSE_STACK_TRINO_JAVA_OPTIONS"

JVM = (
    "-server",
    "-Xms512M",
    "-XX:+UseG1GC",
    "-XX:G1HeapRegionSize=16M",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-OmitStackTraceInFastThrow",
    "-XX:ReservedCodeCacheSize=256M",
    "-Djdk.attach.allowAttachSelf=true",
    "-Djdk.nio.maxCachedBufferSize=2000000",
    "-Dfile.encoding=UTF-8",
    "-XX:+EnableDynamicAgentLoading",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def heap(environment: Mapping[str, str]) -> str:
    """The greatest heap, as Java writes it: a number and M or G."""
    text = environment.get(HEAP) or "2G"
    if not re.fullmatch(r"[1-9][0-9]*[mMgG]", text):
        raise StackError(f"{HEAP}={text}: expected a size such as 2G or 1500M")
    return text


def java_options(layout: Layout, environment: Mapping[str, str], node: str = "trino") -> list[str]:
    """The options of the Java virtual machine."""
    return [
        *JVM,
        f"-Xmx{heap(environment)}",
        f"-XX:ErrorFile={layout.log(f'{node}-crash-%p')}",
        f"-Djava.io.tmpdir={layout.trino(node) / 'tmp'}",  # killed servers leave files there
        *(environment.get(JAVA_OPTIONS) or "").split(),
    ]


def files(layout: Layout, settings: Settings, home: Path) -> dict[str, str]:
    """The configuration: name under `etc` → text."""
    return {
        "config.properties": _lines(config(layout, settings, home)),
        "password-authenticator.properties": _lines(
            {"password-authenticator.name": "file", "file.password-file": str(layout.etc / "password.db")}
        ),
        f"catalog/{CATALOG}.properties": _lines(catalog(settings, CATALOG)),
        # Trino keeps small files in memory, also data, and a test would not see that one is lost.
        **{
            f"catalog/{name}.properties": _lines({**catalog(settings, name), "iceberg.metadata-cache.enabled": "false"})
            for name in TEST_CATALOGS
        },
        f"catalog/{REST_CATALOG}.properties": _lines(rest_catalog(settings)),
        "catalog/tpch.properties": _lines({"connector.name": "tpch"}),
    }


def worker_files(layout: Layout, settings: Settings, home: Path, node: str, port: int) -> dict[str, str]:
    """The configuration of one worker: name under its folder of `etc` → text. Catalogs are the coordinator's."""
    return {"config.properties": _lines(worker_config(layout, settings, home, node, port))}


def worker_config(layout: Layout, settings: Settings, home: Path, node: str, port: int) -> dict[str, str]:
    """The properties of a worker: it joins the coordinator over HTTP on loopback, by the shared secret."""
    return {
        **_node(layout, settings, home, node),
        "coordinator": "false",
        "http-server.http.port": str(port),
    }


def config(layout: Layout, settings: Settings, home: Path) -> dict[str, str]:
    """The coordinator's properties."""
    return {
        **_node(layout, settings, home, "local-stack"),
        "coordinator": "true",
        "node-scheduler.include-coordinator": "true",
        "http-server.http.port": str(settings.trino_http_port),
        "http-server.https.enabled": "true",
        "http-server.https.port": str(settings.trino_https_port),
        "http-server.https.keystore.path": str(layout.tls / "server.pem"),
        "http-server.https.truststore.path": str(layout.tls / "ca.pem"),
        "http-server.authentication.type": "CERTIFICATE,JWT,PASSWORD",
        # Over HTTP a name is enough: everything listens on loopback only.
        "http-server.authentication.allow-insecure-over-http": "true",
        "http-server.authentication.jwt.key-file": str(layout.tls / "jwt-public.pem"),
        "http-server.authentication.certificate.user-mapping.pattern": "(?:.*,)?CN=([^,]+)(?:,.*)?",
        "password-authenticator.config-files": str(layout.etc / "password-authenticator.properties"),
    }


def _node(layout: Layout, settings: Settings, home: Path, node: str) -> dict[str, str]:
    return {
        "node.environment": "local",
        "node.id": node,
        "node.bind-ip": HOST,
        "node.internal-address": HOST,
        "plugin.dir": str(home / "plugin"),
        "catalog.config-dir": str(layout.etc / "catalog"),
        "discovery.uri": f"http://{HOST}:{settings.trino_http_port}",
        "http-server.log.enabled": "false",
        "internal-communication.shared-secret": settings.trino_shared_secret,
    }


def catalog(settings: Settings, name: str) -> dict[str, str]:
    """An Iceberg catalog's properties; pyiceberg reads the same tables under the same name."""
    return {
        "connector.name": "iceberg",
        "iceberg.catalog.type": "jdbc",
        "iceberg.jdbc-catalog.catalog-name": name,
        "iceberg.jdbc-catalog.driver-class": "org.postgresql.Driver",
        "iceberg.jdbc-catalog.connection-url": (
            f"jdbc:postgresql://{HOST}:{settings.postgres_port}/{postgres.CATALOG_DATABASE}"
        ),
        "iceberg.jdbc-catalog.connection-user": postgres.USER,
        "iceberg.jdbc-catalog.connection-password": settings.postgres_password,
        "iceberg.jdbc-catalog.schema-version": "V1",  # views need it
        # PostgreSQL's words for "I was restarted": without them the first statements after it fail on old connections.
        "iceberg.jdbc-catalog.retryable-status-codes": "57P01,57P02,57P03",
        "iceberg.jdbc-catalog.default-warehouse-dir": s3.warehouse(name),
        **_storage(settings),
    }


def rest_catalog(settings: Settings) -> dict[str, str]:
    """The properties of the catalog in Nessie."""
    return {
        "connector.name": "iceberg",
        "iceberg.catalog.type": "rest",
        "iceberg.rest-catalog.uri": nessie.url(settings),
        "iceberg.rest-catalog.warehouse": nessie.WAREHOUSE,
        "iceberg.rest-catalog.view-endpoints-enabled": "true",
        **_storage(settings),
    }


def _storage(settings: Settings) -> dict[str, str]:
    return {
        # Trino's minimum is 7 days. Maintenance has a minimum of its own, and tests need to see deletions.
        "iceberg.expire-snapshots.min-retention": "0s",
        "iceberg.remove-orphan-files.min-retention": "0s",
        "fs.native-s3.enabled": "true",
        "s3.endpoint": f"http://{HOST}:{settings.s3_port}",
        "s3.region": s3.REGION,
        "s3.path-style-access": "true",
        "s3.aws-access-key": settings.s3_access_key,
        "s3.aws-secret-key": settings.s3_secret_key,
    }


def _lines(properties: Mapping[str, str]) -> str:
    # A backslash escapes in this format; nothing else in our values has a meaning there.
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in properties.items())
