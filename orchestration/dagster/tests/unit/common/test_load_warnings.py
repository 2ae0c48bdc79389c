"""The process that serves the location logs each warning once."""

from __future__ import annotations

import logging
import multiprocessing
import sys

import pytest
from lakehouse_analytics.common import load_warnings
from lakehouse_analytics.common.load_warnings import warn_once


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_warnings, "_logged_warnings", set())


def test_a_process_that_loads_again_tells_what_is_new(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_once(["one", "two"])
        warn_once(["one", "two", "three"])
    assert [record.getMessage() for record in caplog.records] == ["one", "two", "three"]


def test_a_run_that_a_code_server_starts_tells_nothing() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_told_by_a_child) == []


def _told_by_a_child() -> list[str]:
    warn_once(["one"])
    return sorted(load_warnings._logged_warnings)


@pytest.mark.parametrize("command", ["execute_run", "execute_step", "resume_run"])
def test_the_process_of_a_run_tells_nothing(
    command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Dagster's launchers start it.
    monkeypatch.setattr(sys, "argv", ["/venv/bin/dagster", "api", command, '{"__class__": "ExecuteRunArgs"}'])
    with caplog.at_level(logging.WARNING):
        warn_once(["one"])
    assert not caplog.records
    monkeypatch.setattr(sys, "argv", ["/venv/bin/dagster", "api", "grpc", "-m", "lakehouse_analytics.definitions"])
    with caplog.at_level(logging.WARNING):
        warn_once(["one"])
    assert [record.getMessage() for record in caplog.records] == ["one"]
