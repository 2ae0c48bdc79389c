"""PostgreSQL: holds the Iceberg catalog, and Dagster's own storage for those who want it there."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from stack.errors import StackError
from stack.files import private_folder
from stack.layout import Layout
from stack.postgres_programs import as_user, programs, server_user
from stack.process import Server
from stack.settings import HOST, Settings

USER = "lakehouse"
CATALOG_DATABASE = "iceberg"
DAGSTER_DATABASE = "dagster"
NESSIE_DATABASE = "nessie"

# As Iceberg's JdbcCatalog (schema version V1) and pyiceberg's SqlCatalog both make them.
CATALOG_TABLES = """
create table if not exists iceberg_tables (
  catalog_name varchar(255) not null,
  table_namespace varchar(255) not null,
  table_name varchar(255) not null,
  metadata_location varchar(1000),
  previous_metadata_location varchar(1000),
  iceberg_type varchar(5),
  primary key (catalog_name, table_namespace, table_name)
);
create table if not exists iceberg_namespace_properties (
  catalog_name varchar(255) not null,
  namespace varchar(255) not null,
  property_key varchar(255) not null,
  property_value varchar(1000),
  primary key (catalog_name, namespace, property_key)
);
"""


def server(layout: Layout) -> Server:
    """The process; an interrupt lets it end at once, without waiting for its clients."""
    return Server("postgres", layout.run / "postgres.pid", layout.log("postgres"), str(layout.postgres), signal.SIGINT)


def start(layout: Layout, settings: Settings) -> None:
    """Start the server, on data that is made at the first start."""
    data = layout.postgres
    if not (data / "PG_VERSION").exists():
        _initialise(data, settings.postgres_password)
    options = {
        "listen_addresses": HOST,
        "port": str(settings.postgres_port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "64MB",
    }
    command = [str(programs(data) / "postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    forget_dead(data)
    server(layout).start(as_user(data.stat().st_uid) + command, _environment(), data)


def forget_dead(data: Path) -> None:
    """Remove the lock of a server that was killed and that the system has not buried: PostgreSQL takes it for alive."""
    lock = data / "postmaster.pid"
    try:
        dead = psutil.Process(int(lock.read_text().split()[0])).status() == psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return  # no lock, or one that PostgreSQL itself can judge
    if dead:
        lock.unlink()


def ready(settings: Settings) -> bool:
    """Whether it takes queries."""
    try:
        psycopg2.connect(url(settings, "postgres"), connect_timeout=3).close()
    except psycopg2.OperationalError:
        return False
    return True


def prepare(settings: Settings) -> None:
    """Make the databases and the catalog's tables, where they are missing."""
    connection = psycopg2.connect(url(settings, "postgres"))
    connection.autocommit = True  # `create database` refuses a transaction
    with connection.cursor() as cursor:
        for database in (CATALOG_DATABASE, DAGSTER_DATABASE, NESSIE_DATABASE):
            cursor.execute("select 1 from pg_database where datname = %s", [database])
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    connection.close()
    connection = psycopg2.connect(url(settings, CATALOG_DATABASE))
    with connection, connection.cursor() as cursor:
        cursor.execute(CATALOG_TABLES)
    connection.close()


def url(settings: Settings, database: str, driver: str = "") -> str:
    """The address of a database, with its password."""
    password = quote(settings.postgres_password, safe="")
    return f"postgresql{driver}://{USER}:{password}@{HOST}:{settings.postgres_port}/{database}"


def _initialise(data: Path, password: str) -> None:
    """Run `initdb` aside and rename at the end: an interrupted one is made again."""
    private_folder(data.parent)
    owner = server_user()
    building = Path(tempfile.mkdtemp(prefix=".postgres-", dir=data.parent))
    try:
        password_file = building / "password"
        password_file.write_text(password)
        for path in (building, password_file):
            os.chown(path, owner, -1)
        command = [
            *as_user(owner), str(programs(data) / "initdb"), "-D", str(building / "data"), "-U", USER,
            "--pwfile", str(password_file), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), cwd="/", check=False)
        if done.returncode:
            raise StackError(f"postgres: initdb failed:\n{done.stderr or done.stdout}")
        (building / "data").replace(data)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
