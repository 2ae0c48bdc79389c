"""Reads real files into DuckDB: what is loaded, and what is not."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from lakehouse_analytics.arrivals.files.batch import Batch, read_batch
from lakehouse_analytics.arrivals.files.rows import separate
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.contract.arrivals import FileArrival


@pytest.fixture
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def parse(
    db: duckdb.DuckDBPyConnection,
    folder: Path,
    contents: dict[str, bytes | str],
    types: dict[str, str] | None = None,
    **arrival: Any,
) -> Batch:
    """Read files and separate their rows. The tables are `good` and `bad`."""
    contract = FileArrival(**{"files": "in/*.csv", "max_bad_rows": 1, **arrival})
    copies = []
    for number, (name, content) in enumerate(contents.items()):
        copy = folder / f"{number}{'.gz' if name.endswith('.gz') else ''}"
        copy.write_bytes(content if isinstance(content, bytes) else content.encode())
        copies.append((FileVersion(name, "v1", copy.stat().st_size, datetime(2026, 1, 1, tzinfo=UTC)), copy))
    batch = read_batch(db, contract, copies)
    separate(contract, types or {}, batch)
    return batch


def good(batch: Batch) -> list[tuple[Any, ...]]:
    return sorted(batch.db.execute("SELECT * FROM good").fetchall(), key=repr)


def bad(batch: Batch) -> list[tuple[Any, ...]]:
    return sorted(batch.db.execute("SELECT __lh_file, row_number, row_text, reason FROM bad").fetchall(), key=repr)


def test_csv_with_every_kind_of_bad_row(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    text = (
        "market,price,note\n"
        'IT,1.5,"two\nlines, and a ""quote"""\n'
        "DE,abc,not a number\n"
        "FR,2.5\n"
        "ES,3,ok,too many\n"
        " NL , 4 ,\n"
        ",,\n"
    )
    batch = parse(db, tmp_path, {"a.csv": text}, {"price": "DECIMAL(10,2)"})
    assert [(row[1], row[2] and float(row[2]), row[3]) for row in good(batch)] == [
        (" NL ", 4.0, None),
        ("IT", 1.5, 'two\nlines, and a "quote"'),
        (None, None, None),
    ]
    reasons = [(line, reason) for _, line, _, reason in bad(batch)]
    assert (4, "Expected Number of Columns: 3 Found: 2") in reasons
    assert (5, "Expected Number of Columns: 3 Found: 4") in reasons
    assert (None, "price is 'abc', which is not DECIMAL(10,2)") in reasons
    assert len(reasons) == 3
    texts = [row_text for _, _, row_text, _ in bad(batch)]
    assert any('"market":"DE"' in text for text in texts)


def test_a_byte_that_is_not_utf_8_is_a_bad_row(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    batch = parse(db, tmp_path, {"a.csv": b"name,n\ncaf\xe9,1\nok,2\n"})
    assert good(batch) == [(0, "ok", "2")]
    [(number, line, _, reason)] = bad(batch)
    assert (number, line) == (0, 2)
    assert "not utf-8" in reason


def test_files_of_one_load_may_differ_in_columns_and_in_their_order(
    db: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    batch = parse(db, tmp_path, {"a.csv": "a,b\n1,2\n", "b.csv": "B,c\n3,4\n", "c.csv": "b,a\n6,5\n"})
    assert batch.columns == {"a": "VARCHAR", "b": "VARCHAR", "c": "VARCHAR"}
    assert good(batch) == [(0, "1", "2", None), (1, None, "3", "4"), (2, "5", "6", None)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no columns"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
        (b"a,A\n1,2\n", "it has several columns 'a'"),
        (b"a,_FILE\n1,2\n", "its column '_file' has the name of a column"),
        (b"\xff\xfe\x00", "its first line is not UTF-8"),
    ],
)
def test_a_bad_file_does_not_stop_the_others(
    db: duckdb.DuckDBPyConnection, tmp_path: Path, content: bytes, reason: str
) -> None:
    batch = parse(db, tmp_path, {"good.csv": "a\n1\n", "bad.csv": content, "also_good.csv": "a\n2\n"})
    assert good(batch) == [(0, "1"), (2, "2")]
    assert batch.bad_files.keys() == {1}
    assert reason in batch.bad_files[1]


def test_compressed_and_damaged_archives(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    whole = gzip.compress(b"a\n" + b"1\n" * 50_000)
    contents: dict[str, bytes | str] = {
        "a.csv.gz": whole,
        "cut.csv.gz": whole[: len(whole) // 2],
        "no.csv.gz": b"a\n1\n",
    }
    batch = parse(db, tmp_path, contents, files="in/*.csv.gz")
    assert batch.bad_files.keys() == {1, 2}
    assert db.execute("SELECT __lh_file, count(*) FROM good GROUP BY ALL").fetchall() == [(0, 50_000)]


def test_a_byte_order_mark_and_other_delimiters(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert good(parse(db, tmp_path, {"a.csv": "\ufeffa;b\n1;2\n"}, delimiter=";")) == [(0, "1", "2")]
    assert good(parse(db, tmp_path, {"a.tsv": "a\tb\n1\t2\n"}, files="in/*.tsv")) == [(0, "1", "2")]


def test_json_lines(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    lines = (
        '{"id": 1, "name": "é\\n", "nested": {"a": [1, 2]}}\n'
        '{"id": "x", "other key": null}\n'
        "\n"
        "not json\n"
        "[1, 2]\n"
        '{"id": 3, "name": "cut'
    )
    batch = parse(db, tmp_path, {"a.jsonl": lines}, {"id": "BIGINT"}, files="in/*.jsonl")
    assert good(batch) == [(0, 1, "é\n", '{"a":[1,2]}', None)]
    assert sorted(reason for *_, reason in bad(batch)) == [
        "id is 'x', which is not BIGINT",
        *["it is not a JSON object"] * 3,
    ]


def test_json_keys_of_a_line_that_differ_only_in_case_make_a_bad_file(
    db: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    contents: dict[str, bytes | str] = {
        "a.jsonl": '{"id": 1, "ID": 2}\n',
        "b.jsonl": '{"Id": 3}\n',
        "c.jsonl": '{"id": 4}\n',
    }
    batch = parse(db, tmp_path, contents, files="in/*.jsonl")
    assert batch.bad_files.keys() == {0}
    assert "several columns 'id'" in batch.bad_files[0]
    assert good(batch) == [(1, "3"), (2, "4")]


def test_parquet_keeps_types_and_a_damaged_file_is_bad(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    db.execute(f"COPY (SELECT 1::BIGINT AS id, DATE '2026-01-01' AS day, 1.5::DECIMAL(5,2) AS d) TO '{one}'")
    db.execute(f"COPY (SELECT 'x' AS id, DATE '2026-01-02' AS day) TO '{two}'")
    files: dict[str, bytes | str] = {"1": one.read_bytes(), "2": two.read_bytes(), "3": one.read_bytes()[:40]}
    batch = parse(db, tmp_path, files, {"id": "BIGINT"}, files="in/*.parquet")
    assert batch.columns["day"] == "DATE"
    assert [row[1] for row in good(batch)] == [1]
    assert [reason for *_, reason in bad(batch)] == ["id is 'x', which is not BIGINT"]
    assert batch.bad_files.keys() == {2}


def test_a_file_with_too_many_bad_rows_is_bad_as_a_whole(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.csv": "n\n1\nx\ny\n3\n4\n", "b.csv": "n\n1\nx\n3\n4\n5\n"}
    batch = parse(db, tmp_path, files, {"n": "BIGINT"}, max_bad_rows=0.25)
    assert batch.bad_files == {0: "2 of its 5 rows are bad, more than max_bad_rows: 0.25"}
    assert {row[0] for row in good(batch)} == {1}


def test_values_that_cannot_be_partitions_are_bad_rows(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    contract = FileArrival(files="in/{date}.csv", begin=date(2026, 1, 1), split_by="MARKET", max_bad_rows=1)
    copy = tmp_path / "0"
    copy.write_text("market,n\nIT,1\n ,2\nA|B,3\nA...B,4\n")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    batch = read_batch(db, contract, [(FileVersion("2026-01-01.csv", "v", 1, day, day.date()), copy)])
    separate(contract, {}, batch)
    assert [row[1] for row in good(batch)] == ["IT"]
    assert sorted(reason for *_, reason in bad(batch)) == [
        "market is 'A...B', which the key of a partition cannot contain",
        "market is 'A|B', which the key of a partition cannot contain",
        "market is empty, but it is part of the partition",
    ]


@pytest.mark.parametrize(
    ("extension", "without", "header_only", "good"),
    [
        ("csv", "market,n\nIT,1\n", "market,n\n", "Markt,n\nDE,2\n"),
        ("jsonl", '{"market": "IT", "n": 1}\n', None, '{"Markt": "DE", "n": 2}\n'),
    ],
)
def test_a_file_without_the_split_column_is_bad_alone_and_among_others(
    db: duckdb.DuckDBPyConnection, tmp_path: Path, extension: str, without: str, header_only: str | None, good: str
) -> None:
    contract = FileArrival(
        files=f"in/{{date}}.{extension}",
        begin="2026-01-01",  # type: ignore[arg-type]
        split_by="markt",
        max_bad_rows=1,
    )
    day = datetime(2026, 1, 1, tzinfo=UTC)
    files = []
    for number, text in enumerate([text for text in (without, header_only, good) if text]):
        copy = tmp_path / str(number)
        copy.write_text(text)
        files.append((FileVersion(f"{number}.{extension}", "v", 1, day, day.date()), copy))
    reason = "it has no column 'markt' (split_by); did you mean 'market'?"
    for chosen in (files[:-1], files):
        batch = read_batch(db, contract, chosen)
        assert batch.bad_files == dict.fromkeys(range(len(files) - 1), reason)
        typing = separate(contract, {}, batch)
        assert typing.split_column == (None if chosen == files[:-1] else "Markt")
        assert batch.run("SELECT count(*) FROM good") == [(len(chosen) - len(files) + 1,)]
        assert batch.run("FROM bad") == []


def test_a_parquet_file_without_the_split_column_is_bad(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    contract = FileArrival(files="in/{date}.parquet", begin="2026-01-01", split_by="market")  # type: ignore[arg-type]
    db.execute(f"COPY (SELECT 1 AS n) TO '{tmp_path}/0' (FORMAT parquet)")
    day = datetime(2026, 1, 1, tzinfo=UTC)
    batch = read_batch(db, contract, [(FileVersion("a.parquet", "v", 1, day, day.date()), tmp_path / "0")])
    assert batch.bad_files == {0: "it has no column 'market' (split_by); columns: n"}
