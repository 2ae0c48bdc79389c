"""Which tables are maintained."""

from __future__ import annotations

from datetime import timedelta

from lakehouse_analytics.maintenance.policy import maintained_tables
from manifests import Manifest


def test_the_list_of_files_and_the_quarantine_of_a_source_are_maintained_too() -> None:
    m = Manifest()
    files = {"files": "s3://landing/*.csv"}
    for name, contract in (
        ("prices", {"arrives": files}),
        ("orders", {"arrives": {"database": "shop"}}),
        ("plain", None),
    ):
        m.model(f"stg_{name}", m.source("raw", name, lakehouse=contract), folder="bronze")
    found = maintained_tables(m.graph(), floor=timedelta(days=1), longest_write=timedelta(hours=6))
    names = {table.relation.name: "/".join(table.key) for table in found if table.relation.schema == "raw"}
    assert names == {
        "orders": "raw/orders",
        "prices": "raw/prices",
        "prices__files": "raw/prices__files",
        "prices__quarantine": "raw/prices__quarantine",
    }
