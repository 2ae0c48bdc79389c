"""The key `arrives` of a source's contract."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ContractError, SourceContract, parse

DATED = {"files": "s3://landing/{date}_*.csv", "begin": "2026-01-01"}
TABLE = {"database": "shop", "mode": "incremental", "update_key": "updated_at", "primary_key": "id"}


def mistake(arrives: Any) -> str:
    with pytest.raises(ContractError) as caught:
        parse(SourceContract, {"arrives": arrives}, resource="source shop.orders", files=["models/sources.yml"])
    return str(caught.value)


@pytest.mark.parametrize(
    ("arrives", "expected"),
    [
        ({"files": "in/*.csv", "formt": "csv"}, "unknown key meta.lakehouse.arrives.formt; did you mean `format`?"),
        ({"file": "in/*.csv"}, "arrives: expected exactly one of the keys files, database and webhook"),
        ({"files": "in/*.csv", "database": "shop"}, "expected exactly one of the keys files, database and webhook"),
        ({"files": "in/*"}, "arrives: format is missing"),
        ({"files": "in/{date}_{market}.csv", "begin": "2026-01-01"}, "expected at most one {date:…}"),
        ({"files": "in/{date}/{date}.csv", "begin": "2026-01-01"}, "expected at most one {date:…}"),
        ({"files": "in/{date:%Y-%m}.csv", "begin": "2026-01-01"}, "the format of {date:…} must have %Y, %m and %d"),
        ({"files": "in/{date}.csv"}, "arrives: begin is missing"),
        ({"files": "in/*.csv", "split_by": "market"}, "arrives: split_by needs a date in the path"),
        ({**DATED, "split_by": "Date"}, "split_by is the name of the other dimension"),
        ({**DATED, "begin": "soon"}, "arrives.begin is 'soon': expected a date such as 2026-01-31"),
        ({**TABLE, "update_key": None}, "arrives: update_key is missing"),
        ({**TABLE, "primary_key": []}, "arrives: primary_key is missing"),
        ({"database": "shop", "deletes": "reconcile"}, "arrives: deletes: reconcile has no effect with mode full"),
        ({**TABLE, "deletes": "sof(x)"}, "arrives.deletes is 'sof(x)': expected ignore, reconcile, or soft(<column>)"),
        ({"webhook": False}, "arrives.webhook is False"),
        ({**TABLE, "to_table": "reporting.t"}, "arrives: to is missing: to_table names a table of the connection"),
        ({**TABLE, "to": "reports", "to_table": "a.b.c"}, "arrives.to_table is 'a.b.c': expected <table> or <schema>"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(arrives: Any, expected: str) -> None:
    message = mistake(arrives)
    assert message.startswith("models/sources.yml: source shop.orders: ")
    assert expected in message


@pytest.mark.parametrize(
    ("files", "expected"),
    [("in/*.csv", "csv"), ("in/*.tsv.gz", "csv"), ("in/*.ndjson", "jsonl"), ("in/*.parquet", "parquet")],
)
def test_the_format_follows_the_extension(files: str, expected: str) -> None:
    assert FileArrival(files=files).file_format == expected


def test_a_table_in_clickhouse_is_not_maintained() -> None:
    raw = {"arrives": {**TABLE, "to": "reports"}, "maintenance": {"enabled": True}}
    with pytest.raises(ContractError, match="maintenance has no effect on a table in ClickHouse"):
        parse(SourceContract, raw, resource="source shop.orders", files=["models/sources.yml"])


@pytest.mark.parametrize("arrives", [{"files": "in/*.csv"}, {"database": "shop"}])
def test_sources_that_are_loaded_may_have_row_count_rules(arrives: dict[str, Any]) -> None:
    raw = {"arrives": arrives, "rows": {"min": 1, "max_drop": 0.2, "drift": {"severity": "error"}}}
    found = parse(SourceContract, raw, resource="source shop.orders", files=["models/sources.yml"])
    assert found.rows is not None
    assert found.rows.max_drop == 0.2


@pytest.mark.parametrize("filled", [{}, {"arrives": {"webhook": True}}, {"airbyte": {"connection": "shop"}}])
def test_others_may_not(filled: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="rows needs `arrives` with files or database"):
        parse(SourceContract, {**filled, "rows": {"min": 1}}, resource="source a.b", files=["m.yml"])
