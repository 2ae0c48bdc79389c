"""The local stack, really started: a second one, with ports and a folder of its own."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jwt
import psutil
import pytest
import requests

from .stack import PARTS, Stack, own_stack

pytestmark = pytest.mark.trino


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(tmp_path_factory.mktemp("stack") / "state") as made:
        yield made


@pytest.fixture
def up(stack: Stack) -> Stack:
    """The stack, whatever the test before did to it."""
    stack.do("up")
    return stack


def runs(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def snapshot(folder: Path) -> Mapping[Path, tuple[int, int]]:
    """Every file that the tool itself writes, with its time and inode."""
    files = [path for part in ("etc", "tls", "run") for path in (folder / part).rglob("*") if path.is_file()]
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in [*files, folder / "env", folder / "settings.json"]
    }


def test_a_second_start_changes_nothing(up: Stack) -> None:
    pids, before = up.pids(), snapshot(up.state)
    assert "The stack is up already." in up.do("up")
    assert (up.pids(), snapshot(up.state)) == (pids, before)


def test_a_table_survives_a_stop_and_a_start(up: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    up.sql("create schema lakehouse.kept")
    up.sql("create table lakehouse.kept.numbers as select * from (values 1, 2, 3) as r(n)")
    pids, env = up.pids(), up.env
    up.do("down")
    assert not [part for part, pid in pids.items() if runs(pid)]
    assert up.run("status").returncode == 1
    up.do("up")
    assert up.env == env
    assert up.sql("select sum(n) from lakehouse.kept.numbers") == [[6]]
    assert sorted(up.arrow("kept.numbers", monkeypatch)["n"].to_pylist()) == [1, 2, 3]


# test_failures.py kills and restarts Trino as well.
@pytest.mark.parametrize("part", [p if p != "trino" else pytest.param(p, marks=pytest.mark.nightly) for p in PARTS])
def test_a_part_that_was_killed_is_started_again_alone(up: Stack, part: str) -> None:
    before = up.pids()
    os.kill(before[part], 9)  # by another program: the tool must detect it
    while runs(before[part]):
        time.sleep(0.05)
    assert re.search(f"{part} +stopped", up.run("status").stdout)
    output = up.do("up")
    after = up.pids()
    assert {name for name in PARTS if after[name] != before[name]} == {part}
    assert re.search(rf"{part} +… started", output)
    assert up.sql("select count(*) from tpch.tiny.region") == [[5]]


@pytest.mark.nightly
def test_a_second_trino_process_joins_is_started_again_and_leaves(up: Stack) -> None:
    active = "select count(*) from system.runtime.nodes where state = 'active'"
    joined = up.run("up", LAKEHOUSE_STACK_WORKERS="2")
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert up.sql(active) == [[2]]
    assert re.search("trino-2 +answers", up.do("status"))
    assert "The stack is up already." in up.do("up")

    pid_file = up.state / "run" / "trino-2.pid"
    up.do("kill", "trino-2")
    assert re.search("trino-2 +stopped", up.run("status").stdout)
    assert re.search("trino-2 +… started", up.do("up"))
    pid = int(pid_file.read_text())

    left = up.run("up", LAKEHOUSE_STACK_WORKERS="1")
    assert left.returncode == 0, left.stdout + left.stderr
    assert not runs(pid)
    assert "trino-2" not in up.do("status")
    assert up.sql(active) == [[1]]


def test_one_part_can_be_stopped_and_started(up: Stack) -> None:
    from trino.exceptions import TrinoQueryError

    up.do("stop", "postgres")
    with pytest.raises(TrinoQueryError):
        up.sql("create schema lakehouse.never")
    assert "killed" in up.do("kill", "s3")
    assert "started" in up.do("start", "s3")
    assert "started" in up.do("start", "postgres")
    assert ["information_schema"] in up.sql("show schemas from lakehouse")
    assert ["never"] not in up.sql("show schemas from lakehouse")


def test_nobody_else_may_read_anything(up: Stack) -> None:
    everything = [up.state, *up.state.rglob("*")]
    assert len(everything) > 100
    assert not [path for path in everything if not path.is_symlink() and path.stat().st_mode & 0o077]
    assert (up.state / "env").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_a_log_or_on_a_command_line(up: Stack) -> None:
    secrets = up.secrets
    assert len(secrets) == 4
    texts = {path.name: path.read_text() for path in (up.state / "logs").iterdir()}
    assert {"postgres.log", "s3.log", "trino.log"} <= set(texts)
    texts |= {part: "\n".join(psutil.Process(pid).cmdline()) for part, pid in up.pids().items()}
    assert not [(where, name) for where, text in texts.items() for name, secret in secrets.items() if secret in text]


def test_everything_listens_on_loopback_only(up: Stack) -> None:
    listening = {
        (part, connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for part, pid in up.pids().items()
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    # The REST catalog is optional, and not running.
    ports = {name.removesuffix("_port"): port for name, port in up.settings.items() if name.endswith("_port")}
    assert listening == {(name.split("_")[0], "127.0.0.1", port) for name, port in ports.items() if name != "rest"}


# --- Who may come in


def test_a_wrong_or_missing_password_is_refused(up: Stack) -> None:
    from trino.auth import BasicAuthentication
    from trino.exceptions import HttpError

    for login in ({"auth": BasicAuthentication("lakehouse", "guessed")}, {"user": "lakehouse"}):
        with pytest.raises(HttpError, match="401"):
            up.sql("select 1", **login)


def test_a_token_of_the_signing_key_comes_in(up: Stack) -> None:
    from trino.auth import JWTAuthentication
    from trino.exceptions import HttpError

    claims = {"sub": "lakehouse", "exp": time.time() + 60}
    token = jwt.encode(claims, (up.state / "tls" / "jwt.key").read_text(), "RS256")
    assert up.sql("select current_user", auth=JWTAuthentication(token)) == [["lakehouse"]]
    expired = jwt.encode(claims | {"exp": time.time() - 60}, (up.state / "tls" / "jwt.key").read_text(), "RS256")
    stranger = jwt.encode(claims, (up.state / "tls" / "client.key").read_text(), "RS256")
    for refused in (expired, stranger):
        with pytest.raises(HttpError, match="401"):
            up.sql("select 1", auth=JWTAuthentication(refused))


def test_the_client_certificate_comes_in_as_its_name(up: Stack) -> None:
    cert = (str(up.state / "tls" / "client.pem"), str(up.state / "tls" / "client.key"))
    assert up.sql("select current_user", cert=cert, user="lakehouse") == [["lakehouse"]]


def test_over_http_a_name_is_enough_for_a_query_and_for_the_ui(up: Stack) -> None:
    assert up.sql("select current_user", scheme="http", user="anybody") == [["anybody"]]
    ui = up.env["LAKEHOUSE_TRINO_UI_URL"]
    with requests.Session() as browser:
        browser.trust_env = False
        assert browser.get(f"{ui}/ui/").url == f"{ui}/ui/login.html"
        browser.post(f"{ui}/ui/login", data={"username": "anybody", "password": ""})
        page = browser.get(f"{ui}/ui/")
        assert page.status_code == 200
        assert "Cluster Overview" in page.text
        assert browser.get(f"{ui}/ui/api/stats").json()["activeWorkers"] == 1


def test_s3_refuses_other_keys(up: Stack) -> None:
    from pyarrow import fs

    def names(secret: str) -> list[str]:
        store = fs.S3FileSystem(
            access_key=up.settings["s3_access_key"],
            secret_key=secret,
            region="us-east-1",
            endpoint_override=f"http://127.0.0.1:{up.settings['s3_port']}",
        )
        return [found.base_name for found in store.get_file_info(fs.FileSelector("lakehouse"))]

    assert "lakehouse" in names(up.settings["s3_secret_key"])
    with pytest.raises(OSError, match=r"ACCESS_DENIED|SIGNATURE|403"):
        names("guessed")


# --- What it refuses


def test_ports_are_not_moved_under_running_servers(up: Stack) -> None:
    before = up.settings
    output = up.refused("up", LAKEHOUSE_STACK_S3_PORT="1")
    assert "LAKEHOUSE_STACK_S3_PORT=1" in output
    assert "make stack-down" in output
    assert up.settings == before


def test_a_port_that_somebody_took_meanwhile_is_named(up: Stack) -> None:
    up.do("stop", "s3")
    port = up.settings["s3_port"]
    with socket.create_server(("127.0.0.1", port)):
        output = up.refused("up")
    assert f"port {port} is taken by another program" in output
    assert "LAKEHOUSE_STACK_S3_PORT=" in output


def test_data_without_its_passwords_is_not_started(up: Stack) -> None:
    settings = up.state / "settings.json"
    aside = settings.rename(up.state / "aside")
    try:
        assert "passwords" in up.refused("up")
        assert not settings.exists()
    finally:
        aside.rename(settings)
