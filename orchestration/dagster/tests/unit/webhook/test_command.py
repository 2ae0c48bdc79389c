"""`lakehouse webhook`: what it needs, and a process of it that a load is reported to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from lakehouse_analytics.webhook import command
from lakehouse_analytics.webhook.command import webhook
from webhook_server import SOURCES, TOKEN, Client


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_WEBHOOK_TOKEN", TOKEN)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(webhook, [*words])


def test_a_missing_token_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKEHOUSE_WEBHOOK_TOKEN")
    result = run()
    assert result.exit_code == 1
    assert "LAKEHOUSE_WEBHOOK_TOKEN is not set" in result.output


def test_a_missing_home_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_sources", lambda _: SOURCES)
    monkeypatch.delenv("DAGSTER_HOME")
    result = run()
    assert result.exit_code == 1
    assert "DAGSTER_HOME is not set" in result.output


def test_a_missing_manifest_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(home / "none"))
    result = run()
    assert result.exit_code == 1
    assert str(home / "none") in result.output
    assert TOKEN not in result.output
    assert "Traceback" not in result.output


def test_a_port_that_is_used_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_sources", lambda _: SOURCES)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("--port", str(port))
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}: Address already in use. Set --host or --port" in result.output


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_is_a_number_of_a_port(port: str) -> None:
    assert run("--port", port).exit_code == 2


SERVE = """
from dagster import DagsterInstance
from lakehouse_analytics.webhook import command
from lakehouse_analytics.webhook.sources import ReportedSources

command._sources = lambda settings: ReportedSources({"shop/orders": ("shop", "orders")})
command.webhook()
"""


def test_a_process_stores_a_load_and_ends_after_sigterm(home: Path) -> None:
    (home / "dagster.yaml").touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "--port", str(port)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert next(
            line for line in lines if re.match(rf"Listening on 127\.0\.0\.1:{port} for loads of shop/orders", line)
        )
        answer = Client(port).send("POST", "/arrived/shop/orders", b'{"id": "one"}')
        assert (answer.status, answer.body) == (200, {"source": "shop/orders", "id": "one", "stored": True})
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 0
        assert TOKEN not in rest
    finally:
        process.kill()
        process.wait()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey(["shop", "orders"])) is not None
