"""infrastructure/local/compose.yaml: loopback only, health checks, no secret, one DAGSTER_HOME."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[5]
LOCAL = ROOT / "infrastructure" / "local"
CREDENTIALS = LOCAL / "compose" / "credentials.sh"
TEXT = (LOCAL / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
DAGSTER = {name for name, service in SERVICES.items() if service["image"].startswith("lakehouse-analytics:")}

REFERENCE = re.compile(r"\$\{(\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
#: Names of variables and properties whose value must come from the credentials file.
SECRET = re.compile(r"password|secret|access.?key|URI$", re.IGNORECASE)


def _environment() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            yield name, variable, str(value)


def _files() -> list[Path]:
    return sorted(path for path in (LOCAL / "compose").rglob("*") if path.is_file())


def test_the_services_are_those_of_the_lakehouse() -> None:
    assert set(SERVICES) - ONE_SHOT == {"postgres", "garage", "trino", "code-server", "webserver", "daemon"}
    assert {"postgres-init", "dagster-init"} == ONE_SHOT
    assert {"code-server", "webserver", "daemon", "dagster-init"} == DAGSTER


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []
    assert not [name for name, service in SERVICES.items() if "network_mode" in service or service.get("privileged")]


def test_the_webserver_is_on_3000() -> None:
    assert SERVICES["webserver"]["ports"] == ["127.0.0.1:${LOCAL_WEBSERVER_PORT:-3000}:3000"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_runs_on_has_a_health_check_and_what_ends_has_none(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) == (name not in ONE_SHOT)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_wait_for_the_right_state(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how == {"condition": expected}, f"{name} waits for {needed}"


def test_garage_needs_no_shell() -> None:
    # Its image holds one file, /garage.
    assert SERVICES["garage"]["command"][0] == "/garage"
    assert SERVICES["garage"]["healthcheck"]["test"][:2] == ["CMD", "/garage"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    tag = image.rpartition(":")[2]
    assert tag != image, f"{image} has no tag"
    assert tag != "latest"
    assert name in DAGSTER or re.search(r"\d", tag), f"{image}: no version"


def test_trino_is_the_version_of_the_readme_and_dagster_is_built_here() -> None:
    assert SERVICES["trino"]["image"] == "trinodb/trino:476"
    (build,) = [service["build"] for service in SERVICES.values() if "build" in service]
    assert (LOCAL / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_every_mounted_file_exists() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] == "."]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (LOCAL / source).exists(), source
        assert mode == "ro", mount


def test_dagster_services_share_one_home() -> None:
    homes = {SERVICES[name]["environment"]["DAGSTER_HOME"] for name in DAGSTER}
    assert homes == {"/opt/dagster/home"}
    assert len({SERVICES[name]["image"] for name in DAGSTER}) == 1
    for name in DAGSTER:
        assert SERVICES[name]["volumes"] == SERVICES["webserver"]["volumes"], name
        assert "dagster-home:/opt/dagster/home" in SERVICES[name]["volumes"], name
        shared = {k: v for k, v in SERVICES[name]["environment"].items() if k.startswith("DAGSTER_")}
        assert shared == SERVICES["webserver"]["environment"], name


def test_only_the_code_server_holds_the_lakehouses_keys() -> None:
    for name in DAGSTER - {"code-server"}:
        others = {v for v in SERVICES[name]["environment"] if not v.startswith("DAGSTER_")}
        assert others == set(), name


def test_the_instance_differs_from_the_one_machine_s_in_storage_alone() -> None:
    here = yaml.safe_load((LOCAL / "compose" / "dagster" / "dagster.yaml").read_text())
    stock = yaml.safe_load((ROOT / "orchestration" / "dagster" / "dagster.yaml").read_text())
    storage = here.pop("storage")["postgres"]["postgres_db"]
    assert here.pop("compute_logs")["config"]["base_dir"].startswith("/opt/dagster/home/")
    assert here == stock
    variables = {v["env"] for v in storage.values() if isinstance(v, dict)}
    assert variables <= set(SERVICES["webserver"]["environment"])


def test_the_workspace_is_the_code_server() -> None:
    (entry,) = yaml.safe_load((LOCAL / "compose" / "dagster" / "workspace.yaml").read_text())["load_from"]
    server = entry["grpc_server"]
    assert server["host"] in DAGSTER
    assert str(server["port"]) in SERVICES[server["host"]]["healthcheck"]["test"]
    dockerfile = (ROOT / "orchestration" / "dagster" / "Dockerfile").read_text()
    assert f'"--port", "{server["port"]}"' in dockerfile


def test_no_secret_stands_in_the_compose_file() -> None:
    secrets = [(name, variable, value) for name, variable, value in _environment() if SECRET.search(variable)]
    assert len(secrets) >= 12
    for name, variable, value in secrets:
        assert REFERENCE.search(value), f"{name}.{variable} has a literal value"


def test_every_secret_fails_with_the_command_that_makes_it() -> None:
    found = {match[1]: match for match in REFERENCE.finditer(TEXT)}
    for variable, match in found.items():
        if SECRET.search(variable):
            assert match["kind"] == "?", f"{variable} may be empty"
            assert match["rest"] == f"run {CREDENTIALS.relative_to(ROOT)} first"
        else:
            assert match["kind"] == "-", f"{variable} has no default"


def test_no_secret_stands_in_the_configuration() -> None:
    checked = 0
    for path in _files():
        for line in path.read_text().splitlines():
            match = re.match(r"\s*([\w.-]+)\s*[=:]\s*(\S.*)$", line)
            if match and path.suffix != ".sh" and SECRET.search(match[1]):
                checked += 1
                assert re.match(r"\$\{ENV:\w+\}$|\{env: \w+\}$", match[2]), f"{path}: {line}"
    assert checked >= 4


def test_trino_is_given_what_its_catalog_asks_for() -> None:
    required = {
        variable
        for path in (LOCAL / "compose" / "trino").rglob("*.properties")
        for variable in re.findall(r"\$\{ENV:(\w+)\}", path.read_text())
    }
    assert required == set(SERVICES["trino"]["environment"])


def test_trino_and_pyiceberg_open_the_same_catalog() -> None:
    lines = (LOCAL / "compose" / "trino" / "catalog" / "lakehouse.properties").read_text().splitlines()
    trino = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    code = SERVICES["code-server"]["environment"]
    pyiceberg = {k.removeprefix("PYICEBERG_CATALOG__LAKEHOUSE__"): v for k, v in code.items()}
    assert code["LAKEHOUSE_ICEBERG_CATALOG"] == trino["iceberg.jdbc-catalog.catalog-name"]
    assert pyiceberg["WAREHOUSE"] == trino["iceberg.jdbc-catalog.default-warehouse-dir"]
    assert pyiceberg["S3__ENDPOINT"] == trino["s3.endpoint"]
    assert pyiceberg["S3__REGION"] == trino["s3.region"]
    database = trino["iceberg.jdbc-catalog.connection-url"].removeprefix("jdbc:postgresql://")
    assert pyiceberg["URI"].endswith(f"@{database}")
    assert f's3_region = "{trino["s3.region"]}"' in (LOCAL / "compose" / "garage" / "garage.toml").read_text()


def _credentials(path: Path) -> dict[str, str]:
    done = subprocess.run([str(CREDENTIALS), str(path)], capture_output=True, text=True, check=True)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    assert not [value for value in values.values() if value in done.stdout + done.stderr]
    return values


def test_the_script_makes_what_the_compose_file_demands(tmp_path: Path) -> None:
    demanded = {match[1] for match in REFERENCE.finditer(TEXT) if match["kind"] == "?"}
    values = _credentials(tmp_path / ".env")
    assert set(values) == demanded
    assert len(set(values.values())) == len(values), "two credentials are equal"
    assert all(len(value) >= 26 and value.isalnum() for value in values.values())
    # Garage's forms.
    assert re.fullmatch(r"GK[0-9a-f]{24}", values["LOCAL_S3_ACCESS_KEY_ID"])
    assert re.fullmatch(r"[0-9a-f]{64}", values["LOCAL_S3_SECRET_ACCESS_KEY"])
    assert re.fullmatch(r"[0-9a-f]{64}", values["LOCAL_GARAGE_RPC_SECRET"])


def test_credentials_are_private_made_once_and_never_the_same(tmp_path: Path) -> None:
    first = _credentials(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert _credentials(tmp_path / "a") == first
    assert set(_credentials(tmp_path / "b").values()).isdisjoint(first.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "a temporary file was left"


def test_the_credentials_file_stays_out_of_git_and_of_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    # Everything, but for two folders; and no `.env` in those.
    assert ignored[1] == "*"
    assert [line for line in ignored if line.startswith("!")] == ["!dbt", "!orchestration/dagster"]
    assert ignored.index("**/.env") > ignored.index("!orchestration/dagster")


def test_the_image_has_no_root_no_secret_and_no_unlocked_package() -> None:
    dockerfile = (ROOT / "orchestration" / "dagster" / "Dockerfile").read_text()
    instructions = [line.split(None, 1) for line in dockerfile.splitlines() if re.match(r"[A-Z]+ ", line)]
    users = [rest for word, rest in instructions if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    assert [rest for word, rest in instructions if word == "FROM"] == [
        *("${PYTHON_IMAGE} AS tools", "tools AS dependencies", "dependencies AS build", "${PYTHON_IMAGE}")
    ]
    installs = re.findall(r"pip (?:install|wheel) [^\n]*", dockerfile)
    assert len(installs) == 5
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert not [rest for word, rest in instructions if word in ("ARG", "ENV") and SECRET.search(rest)]


def test_a_shell_of_this_machine_gets_the_same_settings_as_the_code_server(tmp_path: Path) -> None:
    compose = tmp_path / "compose"
    compose.mkdir()
    script = shutil.copy(LOCAL / "compose" / "host-env.sh", compose)
    command = [script]
    missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "credentials.sh first" in missing.stderr

    made = _credentials(tmp_path / ".env")
    environment = {"PATH": os.environ["PATH"], "LOCAL_TRINO_PORT": "18080"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    here = dict(line.split("=", 1) for line in done.stdout.splitlines())
    # What the code server knows besides is Dagster's own, and where links lead.
    theirs = {
        variable: REFERENCE.sub(lambda match: made.get(match[1], ""), value).strip()
        for variable, value in SERVICES["code-server"]["environment"].items()
        if not variable.startswith("DAGSTER_") and not variable.endswith("_URL")
    }
    moved = {"LAKEHOUSE_TRINO_HOST": "localhost", "LAKEHOUSE_TRINO_PORT": "18080"}
    theirs = {k: v.replace("garage:3900", "localhost:3900") for k, v in (theirs | moved).items()}
    theirs = {k: v.replace("postgres:5432", "localhost:5432") for k, v in theirs.items()}
    assert {k: v for k, v in here.items() if k != "LAKEHOUSE_TRINO_HTTP_SCHEME"} == theirs
