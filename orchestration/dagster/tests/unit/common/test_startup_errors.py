"""A code server that cannot load says what is wrong as the last thing, below Dagster's traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lakehouse_analytics.common.startup_errors import repeat_message_at_end
from lakehouse_analytics.settings import SettingsError

WRONG = {"LAKEHOUSE_TIMEZONE": "Europe/Berln", "LAKEHOUSE_TRINO_PORT": "many"}
SERVE = ["-m", "dagster", "api", "grpc", "--host", "127.0.0.1", "-m", "lakehouse_analytics.definitions", "--socket"]


def last_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-3:]


def is_the_error(lines: list[str]) -> bool:
    head, zone, port = lines
    return (
        head == "SettingsError: The environment is not usable:"
        and zone.startswith("  LAKEHOUSE_TIMEZONE: 'Europe/Berln' is not an IANA time zone")
        and port.startswith("  LAKEHOUSE_TRINO_PORT: ")
    )


def test_a_code_server_that_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *SERVE, str(tmp_path / "s")],
        env={**os.environ, **WRONG}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "DagsterUserCodeLoadError" in done.stderr  # the traceback is still there, for who needs it
    assert is_the_error(last_lines(done.stderr)), done.stderr


def test_a_code_server_that_serves_the_error(tmp_path: Path) -> None:
    command = [sys.executable, *SERVE, str(tmp_path / "s"), "--lazy-load-user-code"]
    with subprocess.Popen(command, env={**os.environ, **WRONG}, stdout=-1, stderr=-2, text=True) as server:
        assert server.stdout
        end = threading.Timer(300, server.kill)
        end.start()
        logged = []
        for line in server.stdout:
            if "Started Dagster code server" in line:
                break
            logged.append(line)
        server.terminate()
        end.cancel()
    assert is_the_error(last_lines("".join(logged))), "".join(logged)


def test_an_error_of_ours_is_raised_as_it_is_and_others_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    before = sys.excepthook

    def failing(error: Exception) -> None:
        raise error

    with pytest.raises(ZeroDivisionError):
        repeat_message_at_end(lambda: failing(ZeroDivisionError()))()
    assert sys.excepthook is before
    with pytest.raises(SettingsError):
        repeat_message_at_end(lambda: failing(SettingsError("wrong")))()
    assert sys.excepthook is not before
