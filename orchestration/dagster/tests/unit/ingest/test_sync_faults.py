"""What a sync does when something fails: the last good data stays, one clear error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.ingest import IngestError, duckdb_file

from .conftest import ID, KINDS, Lake

LAKES = KINDS

COMPLETE = {"status": ["users", "COMPLETE"]}
GOOD = [{"record": ["users", {"id": 1}]}, {"state": ["users", 1]}, COMPLETE]
MORE = [{"record": ["users", {"id": 2}]}, {"state": ["users", 2]}]


def trace(message: str, **more: Any) -> dict[str, Any]:
    return {"type": "TRACE", "trace": {"type": "ERROR", "emitted_at": 1, "error": {"message": message, **more}}}


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([{"crash": "kill"}], r"source-fake: `read` was killed by SIGKILL"),
        ([{"stderr": "no memory"}, {"crash": "exit"}], r"`read` ended with exit code 3: no memory"),
        ([{"crash": "half a line"}], r"`read` ended with exit code 3"),
        ([trace("quota used up", internal_message="HTTP 429"), {"crash": "exit"}], r"failed: quota used up: HTTP 429"),
        ([trace("quota used up"), COMPLETE], r"source-fake failed: quota used up"),
        (
            [{"print": '{"type": "RECORD", "rec'}, COMPLETE],
            r"printed an invalid message \(.* at character 24\): \{\"type\": \"RECORD\"",
        ),
        ([{"type": "RECORD", "record": {"stream": "users"}}], r"does not conform to the Airbyte protocol"),
        ([{"print": '{"type": "RECORD", "record": [1]}'}], r"does not conform to the Airbyte protocol"),
        ([{"print": '{"type": "TRACE", "trace": "x"}'}], r"does not conform to the Airbyte protocol"),
        ([{"print": '{"type": "LOG", "log": "x"}'}, {"crash": "exit"}], r"ended with exit code 3"),
        ([{"status": ["users", "STARTED"]}], r"ended without completing: users"),
        ([{"status": ["users", "INCOMPLETE"]}], r"ended without completing: users"),
    ],
)
@pytest.mark.parametrize("sync_mode", ["incremental_append", "full_refresh_overwrite"])
def test_a_connector_that_fails_leaves_the_last_good_data(
    lake: Lake, steps: list[dict[str, Any]], error: str, sync_mode: str
) -> None:
    lake.config["streams"] = [{"name": "users", "sync_mode": sync_mode}]
    lake.scenario(schemas={"users": ID}, steps=GOOD)
    lake.run()
    before = lake.query("FROM raw.users"), lake.query("FROM raw._airbyte_state")
    lake.scenario(schemas={"users": ID}, steps=[*MORE, *steps])
    with pytest.raises(IngestError, match=error) as caught:
        lake.run()
    assert "\n" not in str(caught.value)
    assert (lake.query("FROM raw.users"), lake.query("FROM raw._airbyte_state")) == before
    assert not lake.work.exists()


def test_lines_that_are_no_messages_are_passed_on(lake: Lake) -> None:
    noise = [{"print": "Downloading…"}, {"print": "17"}, {"type": "FROM_THE_FUTURE"}, {"type": "LOG", "log": {}}]
    lake.scenario(schemas={"users": ID}, steps=[*noise, {"record": ["strangers", {"id": 1}]}, *GOOD])
    assert lake.run().streams[0].rows_total == 1
    assert "source-fake printed: Downloading…" in lake.lines
    assert "Ignoring stream strangers, which is not in the catalog of this sync" in lake.lines


def test_a_load_that_fails_is_rolled_back(duckdb_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    duckdb_lake.scenario(schemas={"users": ID}, steps=GOOD)
    duckdb_lake.run()

    def fail(*_: object, **__: object) -> None:
        raise duckdb.IOException("disk full")

    duckdb_lake.scenario(schemas={"users": ID}, steps=[*MORE, COMPLETE])
    with monkeypatch.context() as patch:
        patch.setattr(duckdb_file, "_write_state", fail)
        with pytest.raises(IngestError, match="nothing was changed: disk full"):
            duckdb_lake.run()
    assert duckdb_lake.column("SELECT id FROM raw.users") == [1]
    assert duckdb_lake.run().streams[0].rows_total == 2


def test_values_of_the_wrong_type_become_null_and_are_listed(lake: Lake) -> None:
    kinds = {"n": {"type": "integer"}, "x": {"type": "number"}, "ok": {"type": "boolean"}, "d": {"type": "string"}}
    kinds["d"] |= {"format": "date"}
    bad = {"n": 12.7, "x": "many", "ok": "perhaps", "d": "2024-02-30"}
    good = {"n": "12", "x": 1, "ok": True, "d": "2024-02-29"}
    steps = [{"record": ["users", bad]}, {"record": ["users", good]}, {"record": ["users", {}]}, COMPLETE]
    lake.scenario(schemas={"users": kinds}, steps=steps)
    lake.run()
    null, kept, absent = lake.query("SELECT n, x, ok, d::VARCHAR, _airbyte_meta.changes FROM raw.users")
    assert null[:4] == (None, None, None, None)
    assert null[4] == [
        {"field": field, "change": "NULLED", "reason": "DESTINATION_TYPECAST_ERROR"} for field in ("n", "x", "ok", "d")
    ]
    assert kept == (12, 1.0, True, "2024-02-29", [])
    assert absent == (None, None, None, None, [])


def test_secrets_reach_no_text(lake: Lake) -> None:
    secret = 'p"w-1234/5'
    lake.config["config"] = {"password": secret}
    steps = [{"print": f"login with {secret}"}, {"stderr": secret}, trace(f"refused {secret}"), {"crash": "exit"}]
    lake.scenario(schemas={"users": ID}, steps=steps)
    with pytest.raises(IngestError, match=r"refused \*\*\*\*") as caught:
        lake.run()
    assert secret not in "\n".join([*lake.lines, str(caught.value)])
    assert "source-fake printed: login with ****" in lake.lines


def test_a_secret_cut_off_with_its_line_is_masked(lake: Lake) -> None:
    lake.config["config"] = {"password": "s3cr3t" * 10}
    lake.scenario(schemas={"users": ID}, steps=[{"print": '{"broken ' + "s3cr3t" * 10}])
    with pytest.raises(IngestError, match="invalid message") as caught:
        lake.run()
    assert "s3cr3t" not in str(caught.value)


def test_a_locked_database_is_named_with_its_holder(duckdb_lake: Lake) -> None:
    duckdb_lake.scenario(schemas={"users": ID}, steps=GOOD)
    duckdb_lake.run()
    program = (
        f"import duckdb,time; c=duckdb.connect({str(duckdb_lake.database)!r}); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(IngestError, match=re.escape(str(duckdb_lake.database))) as caught:
                duckdb_lake.run()
        finally:
            holder.kill()
    assert f"PID {holder.pid}" in str(caught.value)


def test_a_second_sync_at_the_same_time_is_refused(lake: Lake) -> None:
    from lakehouse_analytics.ingest import config, destination

    lake.write()
    with (
        destination.of(lake.settings).stage(config.load(lake.config_path)),
        pytest.raises(IngestError, match=rf"another sync of fake .*PID {os.getpid()}"),
    ):
        lake.run()


def test_the_schema_may_have_the_name_of_the_file(duckdb_lake: Lake) -> None:
    """DuckDB calls `raw.users` ambiguous then, if there is a schema `users`, too."""
    duckdb_lake.settings = duckdb_lake.settings.model_copy(update={"duckdb_path": duckdb_lake.root / "raw.duckdb"})
    duckdb_lake.scenario(schemas={"users": ID}, steps=GOOD)
    assert [duckdb_lake.run().streams[0].rows_total for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("place", ["file/lakehouse.duckdb", "absent/folder/lakehouse.duckdb", "folder"])
def test_a_path_that_cannot_be_written_names_its_variable(duckdb_lake: Lake, place: str) -> None:
    (duckdb_lake.root / "file").touch()
    (duckdb_lake.root / "folder").mkdir()
    duckdb_lake.settings = duckdb_lake.settings.model_copy(update={"duckdb_path": duckdb_lake.root / place})
    with pytest.raises(IngestError, match=r"LAKEHOUSE_DUCKDB_PATH=.*: cannot write in"):
        duckdb_lake.run()
    assert not (duckdb_lake.root / "absent").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_half_sync_and_no_connector(lake: Lake, number: signal.Signals) -> None:
    lake.scenario(schemas={"users": ID}, steps=GOOD)
    lake.run()
    pids = lake.root / "pids"
    forever = [*MORE, {"worker": str(pids)}, *[{"record": ["users", {"id": 3}]}, {"sleep": 0.05}] * 2000]
    lake.scenario(schemas={"users": ID}, steps=forever)
    program = (
        "import sys; from pathlib import Path; from lakehouse_analytics.ingest import run_ingest; "
        "from lakehouse_analytics.settings import Settings; "
        "run_ingest(Settings.load(), config_path=Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(lake.config_path)]
    with subprocess.Popen(command, env=lake.environ(), stderr=subprocess.DEVNULL) as process:
        connector, worker = _wait_for(pids)
        process.send_signal(number)
        assert process.wait(30) != 0
    if number == signal.SIGKILL:
        # No process is left that could end the worker. The connector itself fails at its next line.
        _wait_until_gone(connector)
        os.kill(worker, signal.SIGKILL)
    else:
        _wait_until_gone(connector)
        _wait_until_gone(worker)
        assert not lake.work.exists()
    assert lake.column("SELECT id FROM raw.users") == [1]
    lake.scenario(schemas={"users": ID}, steps=[*MORE, COMPLETE])
    assert lake.run().streams[0].rows_total == 2


def _wait_for(path: Path) -> tuple[int, int]:
    for _ in range(600):
        if path.exists() and len(numbers := path.read_text().split()) == 2:
            return int(numbers[0]), int(numbers[1])
        time.sleep(0.05)
    raise AssertionError("the connector did not start")


def _wait_until_gone(pid: int) -> None:
    import psutil

    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")
