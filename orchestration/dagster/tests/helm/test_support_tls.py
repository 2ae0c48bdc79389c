"""charts/lakehouse-support against a real PostgreSQL that takes encrypted connections only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
import sqlalchemy as sa
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dagster._config import process_config
from dagster_postgres.utils import pg_config, pg_url_from_config

from tests.dagster_ui import free_port

from .rendered import Object
from .test_support import containers, made, workloads

PASSWORD = "s3cret"


def certificate(folder: Path, name: str) -> None:
    """`NAME.pem` of a new CA, and a key and a certificate for localhost that it signed."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"CA {name}")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)

    def signed(of: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(issuer, of, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        made = builder.add_extension(extension, critical=True).sign(keys[0], hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    (folder / f"{name}.pem").write_bytes(signed(issuer, keys[0], x509.BasicConstraints(ca=True, path_length=None)))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    (folder / f"{name}-server.pem").write_bytes(signed(subject, keys[1], names))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}-server.key"
    path.write_bytes(key)
    path.chmod(0o600)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL on localhost."""

    programs: Path
    folder: Path
    port: int

    def connect(self, **options: str) -> None:
        psycopg2.connect(
            host="localhost", port=self.port, user="dagster", password=PASSWORD, dbname="postgres", **options
        ).close()


def programs() -> Path:
    """A PostgreSQL with OpenSSL: the system's; the wheel of the local stack has none."""
    found = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        Path(shutil.which("postgres") or "").parent,
    ]
    for folder in found:
        if (folder / "initdb").exists() and (folder / "pg_dump").exists():
            return folder
    if os.getenv("GITHUB_ACTIONS"):
        pytest.fail("PostgreSQL is not installed", pytrace=False)
    pytest.skip("PostgreSQL is not installed: encrypted connections have not been tried")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """It refuses connections that are not encrypted."""
    where = programs()
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-tls-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
    try:
        for name in ("right", "wrong"):
            certificate(folder, name)
        (folder / "password").write_text(PASSWORD)
        if user:
            for path in (folder, *folder.iterdir()):
                os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            [where / "initdb", "-D", folder / "data", "-U", "dagster", "--pwfile", folder / "password", "--no-sync",
             "--auth=scram-sha-256"],
            capture_output=True, text=True, check=False, user=user, env=environment, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder / "data" / "pg_hba.conf").write_text("hostssl all all localhost scram-sha-256\n")
        running = Server(where, folder, free_port())
        settings = {
            **{"ssl": "on", "ssl_cert_file": folder / "right-server.pem", "ssl_key_file": folder / "right-server.key"},
            **{"listen_addresses": "localhost", "port": running.port, "unix_socket_directories": "", "fsync": "off"},
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [where / "postgres", "-D", folder / "data", *words],
                stdout=log, stderr=subprocess.STDOUT, user=user, env=environment, cwd="/",
            )  # fmt: skip
        try:
            for _ in range(300):
                try:
                    running.connect(sslmode="require")
                    break
                except psycopg2.OperationalError as error:
                    assert process.poll() is None, (folder / "log").read_text()
                    last = error
                    time.sleep(0.1)
            else:
                raise AssertionError(last)
            yield running
        finally:
            process.terminate()
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


def pod(server: Server, ca: str) -> Object:
    """The Job of `instance`, with the CA at the path where the test has it."""
    return workloads(
        made(
            *("postgresql.host=localhost", f"postgresql.port={server.port}", "postgresql.database=postgres"),
            *("postgresql.sslmode=verify-full", "postgresql.ca.configMap=ca", f"postgresql.ca.key={ca}.pem"),
            f"postgresql.ca.mountPath={server.folder}",
        )
    )["instance"]


def environment(container: Object) -> dict[str, str]:
    """Its variables; those of Secrets have the password."""
    return {one["name"]: one.get("value", PASSWORD) for one in container["env"]}


def test_the_server_refuses_what_is_not_encrypted(server: Server) -> None:
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        server.connect(sslmode="disable")


@pytest.mark.parametrize(("ca", "error"), [("right", None), ("wrong", "certificate verify failed")])
def test_a_dump_checks_the_certificate_of_the_server(
    server: Server, tmp_path: Path, ca: str, error: str | None
) -> None:
    backup, _ = containers(pod(server, ca))
    script = backup["command"][-1].replace("/backup", str(tmp_path)).replace("/tmp/restored", str(tmp_path / "r"))
    path = f"{server.programs}:{os.environ['PATH']}"
    done = subprocess.run(
        [*backup["command"][:-1], script],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path, "LC_ALL": "C", **environment(backup), "JOB": "1"},
    )
    dumps = [file for file in tmp_path.iterdir() if file.suffix == ".dump"]
    if error:
        assert error in done.stderr
        assert dumps == []
    else:
        assert done.returncode == 0, done.stderr
        assert [file.read_bytes()[:5] for file in dumps] == [b"PGDMP"]


def settings(server: Server, params: dict[str, str]) -> dict[str, object]:
    """The storage that the official chart writes into dagster.yaml."""
    address = {"hostname": "localhost", "port": server.port, "db_name": "postgres", "params": params}
    return {"postgres_db": {"username": "dagster", "password": {"env": "DAGSTER_PG_PASSWORD"}, **address}}


@pytest.mark.parametrize("named", ["in dagster.yaml", "by the chart alone"])
def test_dagsters_instance_checks_the_certificate_of_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def storage(ca: str) -> dict[str, object]:
        [container] = pod(server, ca)["spec"]["containers"]
        given = environment(container)
        monkeypatch.setenv("DAGSTER_PG_PASSWORD", PASSWORD)
        if named == "by the chart alone":
            monkeypatch.setenv("PGSSLMODE", given["PGSSLMODE"])
            monkeypatch.setenv("PGSSLROOTCERT", given["PGSSLROOTCERT"])
            return settings(server, {})
        return settings(server, {"sslmode": "verify-full", "sslrootcert": given["PGSSLROOTCERT"]})

    # The address that Dagster makes of it, without Dagster's retries.
    config = process_config(pg_config(), storage("wrong")).value
    assert config is not None
    with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
        sa.create_engine(pg_url_from_config(config)).connect()
    written = {"storage": {"postgres": storage("right")}, "telemetry": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(written))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs_count() == 0
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
            assert connection.execute(sa.text(query)).scalar() is True
