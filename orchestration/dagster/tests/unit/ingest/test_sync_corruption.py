"""A stored state or a database that something else has changed: the right rows, or one error and nothing changed."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lakehouse_analytics.ingest import IngestError

from .conftest import ID, Lake
from .test_sync_bad_input import GOOD

STATE = "raw._airbyte_state"


@pytest.fixture
def synced(duckdb_lake: Lake) -> Lake:
    """After one sync of one record; another sync reads none."""
    duckdb_lake.scenario(schemas={"users": ID}, steps=GOOD)
    duckdb_lake.run()
    return duckdb_lake


def change(lake: Lake, sql: str) -> None:
    import duckdb

    with duckdb.connect(str(lake.database)) as connection:
        connection.execute(sql)


def retyped(column: str, kind: str) -> str:
    return f"ALTER TABLE {STATE} ALTER COLUMN {column} DROP NOT NULL; " * (column in ("sync_id", "source")) + (
        f"ALTER TABLE {STATE} ALTER COLUMN {column} TYPE {kind}"
    )


def holding(column: str, kind: str, value: str) -> str:
    return f"{retyped(column, kind)} USING {value}"


#: What is done to the state, and the error.
REFUSED = {
    "generation_id is a text": (retyped("generation_id", "VARCHAR"), "column generation_id of stream 'users' is '1'"),
    "generation_id is no number": (
        holding("generation_id", "VARCHAR", "'x'"),
        "column generation_id of stream 'users'",
    ),
    "generation_id is a fraction": (
        holding("generation_id", "DOUBLE", "1.5"),
        "generation_id of stream 'users' is 1.5",
    ),
    "generation_id is NaN": (
        holding("generation_id", "DOUBLE", "'nan'::DOUBLE"),
        "column generation_id of stream 'users'",
    ),
    "generation_id is true": (holding("generation_id", "BOOLEAN", "true"), "generation_id of stream 'users' is True"),
    "generation_id is a list": (holding("generation_id", "INT[]", "[1]"), "generation_id of stream 'users' is [1]"),
    "generation_id is negative": (f"UPDATE {STATE} SET generation_id = -1", "generation_id of stream 'users' is -1"),
    "generation_id is too high": (
        f"UPDATE {STATE} SET generation_id = 9223372036854775807",
        "generation_id of stream 'users' is 9223372036854775807",
    ),
    "sync_id is a text": (retyped("sync_id", "VARCHAR"), "column sync_id is '1'"),
    "sync_id is a fraction": (retyped("sync_id", "DOUBLE"), "column sync_id is 1.0"),
    "sync_id is a time": (holding("sync_id", "TIMESTAMP", "TIMESTAMP '2026-01-01'"), "column sync_id is"),
    "stream is a number": (holding("stream", "INT", "7"), "column stream is 7"),
    "stream is a list": (holding("stream", "INT[]", "[7]"), "column stream is [7]"),
    "namespace is a number": (holding("namespace", "INT", "7"), "column namespace of stream 'users' is 7"),
    "settings are a number": (holding("settings", "INT", "7"), "column settings of stream 'users' is 7"),
    "settings are an object of DuckDB's": (holding("settings", "STRUCT(a INT)", "{'a': 1}"), "column settings of stre"),
    "settings are binary": (holding("settings", "BLOB", "'{}'::BLOB"), "column settings of stream 'users' is b'{}'"),
    "state is a number": (holding("state", "INT", "7"), "column state of stream 'users' is 7"),
    "a long value": (holding("generation_id", "VARCHAR", "repeat('x', 100000)"), "generation_id of stream 'users' is"),
    "source is a number": (holding("source", "INT", "7"), "nothing was changed"),
    "another row of a stream": (
        f"INSERT INTO {STATE} SELECT * REPLACE (7 AS generation_id) FROM {STATE}",
        "has stream 'users' twice, with different contents",
    ),
    "another row of the source": (
        f"INSERT INTO {STATE} SELECT * EXCLUDE n REPLACE (NULL AS stream, '{{\"a\": ' || n || '}}' AS state) "
        f"FROM {STATE}, range(2) r(n)",
        "has the whole source twice, with different contents",
    ),
    **{
        f"no column {column}": (f"ALTER TABLE {STATE} DROP COLUMN {column}", f"has no column {column}")
        for column in ("namespace", "stream", "generation_id", "settings", "state")
    },
    "no rows' time": (f"ALTER TABLE {STATE} DROP COLUMN updated_at", "nothing was changed"),
    "another column": (f"ALTER TABLE {STATE} ADD COLUMN z INT DEFAULT 3", "nothing was changed"),
    "columns in another order": (
        f"CREATE TABLE raw.other AS SELECT source, namespace, stream, generation_id, sync_id, state, settings, "
        f"updated_at FROM {STATE}; DROP TABLE {STATE}; ALTER TABLE raw.other RENAME TO _airbyte_state",
        "has its columns in another order than source, namespace, stream, generation_id, sync_id, settings, state",
    ),
    "no table of state": (f"DROP TABLE {STATE}", "raw.users exists and was not written by source fake"),
    "no column of meta": ("ALTER TABLE raw.users DROP COLUMN _airbyte_raw_id", "raw.users exists and was not written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_corrupted_state_is_one_error(synced: Lake, case: str) -> None:
    sql, error = REFUSED[case]
    change(synced, sql)
    before = synced.query("FROM raw.users")
    with pytest.raises(IngestError, match=re.escape(error)) as caught:
        synced.run()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert synced.query("FROM raw.users") == before


#: What is done to the tables, and what the next sync does with the stream.
HEALED = {
    "no generation_id": (f"UPDATE {STATE} SET generation_id = NULL", "incremental"),
    "no row of state of another source": (f"DELETE FROM {STATE} WHERE source = 'other'", "incremental"),
    "a column is gone": ("ALTER TABLE raw.users DROP COLUMN id", "incremental"),
    "a column has another type": ("ALTER TABLE raw.users ALTER COLUMN id TYPE VARCHAR", "refresh"),
    "another column": ("ALTER TABLE raw.users ADD COLUMN z INT DEFAULT 3", "incremental"),
    "no table": ("DROP TABLE raw.users", "refresh"),
    "no rows": ("DELETE FROM raw.users", "incremental"),
    "rows of the state twice": (f"INSERT INTO {STATE} FROM {STATE}", "incremental"),
}


@pytest.mark.parametrize("case", HEALED)
def test_what_can_be_healed_is(synced: Lake, case: str) -> None:
    sql, mode = HEALED[case]
    change(synced, sql)
    [stream] = synced.run().streams
    assert stream.mode == mode
    # Again: what was written can be read.
    [stream] = synced.run().streams
    assert stream.mode == "incremental"


def _random(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(13_000)
        file.write(random.Random(16).randbytes(4_000))


FILES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 5_000),
    "cut to its header": lambda path: os.truncate(path, 100),
    "random bytes": _random,
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("hello\n"),
    "a file of SQLite": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(4_080)),
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("case", FILES)
def test_a_corrupted_file_is_one_error_and_stays_as_it_is(synced: Lake, case: str) -> None:
    FILES[case](synced.database)
    before = synced.database.read_bytes()
    with pytest.raises(IngestError, match=re.escape(f"{synced.database} cannot be opened: ")) as caught:
        synced.run()
    assert str(caught.value).endswith("Check LAKEHOUSE_DUCKDB_PATH.")
    assert "\n" not in str(caught.value)
    assert synced.database.read_bytes() == before


def test_a_log_of_something_else_beside_the_file_is_no_harm(synced: Lake) -> None:
    Path(f"{synced.database}.wal").write_text("junkjunkjunk")
    assert synced.run().streams[0].mode == "incremental"
