"""Each load is stored once: repeated, at once, by several processes, and after a kill at every step."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from lakehouse_analytics.webhook.recorder import Recorder
from lakehouse_analytics.webhook.report import Report
from postgres_server import PostgresServer, postgres_server
from webhook_server import ITEMS, ORDERS, Client, server_process, serving


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path, server: PostgresServer) -> str:
    """The folder of an instance in each storage."""
    settings: dict[str, Any] = {"telemetry": {"enabled": False}}
    if request.param == "postgres":
        settings["storage"] = {"postgres": {"postgres_url": server.url(server.new_database())}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path)


@contextmanager
def opened(home: str) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(home) as instance:
        yield instance


def versions(instance: dg.DagsterInstance, key: tuple[str, ...] = ORDERS) -> list[str]:
    """The data versions in the history of a source, the oldest first."""
    records = instance.fetch_materializations(dg.AssetKey(key), limit=1000).records
    events = [record.asset_materialization for record in reversed(records)]
    return [(event.tags or {})["dagster/data_version"] for event in events if event]


def newest(instance: dg.DagsterInstance, key: tuple[str, ...] = ORDERS) -> str | None:
    """The data version of the materialization to which the asset points."""
    event = instance.get_latest_materialization_event(dg.AssetKey(key))
    return (
        (event.asset_materialization.tags or {})["dagster/data_version"]
        if event and event.asset_materialization
        else None
    )


def test_a_repeated_report_is_stored_once(home: str) -> None:
    with opened(home) as instance, serving(instance) as client:
        assert client.report(id="a").body == {"source": "shop/orders", "id": "a", "stored": True}
        assert client.report(id="a", rows=3).body["stored"] is False
        assert client.report(id="b").body["stored"] is True
        assert client.report(id="a").body["stored"] is False
        assert client.report("shop/items", id="a").body["stored"] is True  # another table
        assert versions(instance) == ["a", "b"]
        assert versions(instance, ITEMS) == ["a"]
        assert newest(instance) == "b"
    with opened(home) as instance, serving(instance) as client:  # after a restart
        assert client.report(id="a").body["stored"] is False


def test_the_same_id_at_once_is_stored_once(home: str) -> None:
    with opened(home) as instance, serving(instance) as client, ThreadPoolExecutor(8) as threads:
        for number in range(5):
            answers = list(threads.map(lambda _, number=number: client.report(id=f"n{number}"), range(8)))
            assert [answer.status for answer in answers] == [200] * 8
            assert Counter(answer.body["stored"] for answer in answers) == {True: 1, False: 7}
        assert versions(instance) == [f"n{number}" for number in range(5)]


def test_several_processes_on_postgresql_store_an_id_once(tmp_path: Path, server: PostgresServer) -> None:
    settings = {"storage": {"postgres": {"postgres_url": server.url(server.new_database())}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    home = str(tmp_path)
    with opened(home) as instance, server_process(home) as (one, _), server_process(home) as (two, _):
        clients = [one, two] * 4
        with ThreadPoolExecutor(8) as threads:
            for number in range(5):
                answers = list(threads.map(lambda client, number=number: client.report(id=f"n{number}"), clients))
                assert Counter(answer.body["stored"] for answer in answers) == {True: 1, False: 7}
        assert versions(instance) == [f"n{number}" for number in range(5)]


@pytest.mark.parametrize("dies", ["event", "index", "answer"])
def test_a_report_is_stored_once_although_the_server_was_killed(home: str, dies: str) -> None:
    with opened(home) as instance:
        with server_process(home) as (client, _):
            assert client.report(id="before").status == 200
        with server_process(home, dies) as (client, process):
            with pytest.raises((OSError, HTTPException)):
                client.report(id="a", rows=3)
            process.join(30)
            assert process.exitcode == 9
        with server_process(home) as (client, _):
            assert client.report("shop/items", id="other").status == 200
            assert client.report(id="a", rows=3).status == 200
            assert client.report(id="a", rows=3).body["stored"] is False
        assert versions(instance) == ["before", "a"]
        assert newest(instance) == "a"
        [tags] = instance.event_log_storage.get_event_tags_for_asset(
            dg.AssetKey(ORDERS), filter_tags={"dagster/data_version": "a"}
        )
        assert tags == {"dagster/data_version": "a"}


def test_reports_survive_random_kills(home: str) -> None:
    """A caller repeats each report until it gets an answer. The server is killed at random moments meanwhile."""
    kills = int(os.environ.get("LAKEHOUSE_TEST_KILLS", "3"))
    moments = random.Random(7)
    wanted = [f"n{number}" for number in range(3 * kills)]
    left, killed = list(wanted), 0
    with opened(home) as instance, ThreadPoolExecutor(1) as thread:
        while left:
            with server_process(home) as (client, process):
                done = thread.submit(_report_all, client, left)
                with suppress(TimeoutError):
                    done.result(timeout=moments.uniform(0.02, 0.4) if killed < kills else 60)
                process.kill()
                left = left[done.result() :]
                killed += 1
        assert killed >= 2
        assert versions(instance) == wanted
        assert newest(instance) == wanted[-1]


def _report_all(client: Client, ids: list[str]) -> int:
    """Report until an error, and return how many were answered."""
    for number, load_id in enumerate(ids):
        try:
            assert client.report(id=load_id).status == 200
        except (OSError, HTTPException):
            return number
    return len(ids)


def test_a_database_that_is_down_is_not_an_answer(tmp_path: Path) -> None:
    """503, so that the caller repeats the report; and nothing is lost or doubled when it does."""
    with postgres_server() as server:
        settings = {"storage": {"postgres": {"postgres_url": server.url(server.new_database())}}}
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
        with opened(str(tmp_path)) as instance, serving(instance) as client:
            assert client.report(id="a").status == 200
            server.stop()
            refused = client.report(id="b")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            assert (
                refused.body["error"] == "Dagster's storage does not answer. Repeat the report later, with the same id."
            )
            assert client.send("GET", "/health").status == 200
            server.start()
            assert client.report(id="b").body["stored"] is True
            assert client.report(id="b").body["stored"] is False
            assert versions(instance) == ["a", "b"]


def test_a_report_does_not_wait_forever_for_another(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lakehouse_analytics.webhook import recorder

    monkeypatch.setattr(recorder, "MAX_WAIT", 1.0)
    database = server.new_database()
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({"storage": {"postgres": {"postgres_url": server.url(database)}}})
    )
    import psycopg2

    with opened(str(tmp_path)) as instance:
        other = psycopg2.connect(server.url(database))
        other.cursor().execute("select pg_advisory_lock(%s)", (recorder.LOCK,))
        with pytest.raises(recorder.StorageError):
            Recorder(instance, [ORDERS]).record(Report(id="a").load(ORDERS), ORDERS)
        other.close()
        assert Recorder(instance, [ORDERS]).record(Report(id="a").load(ORDERS), ORDERS)
