"""Which tables `accept_row_counts` means."""

from __future__ import annotations

import pytest
from lakehouse_analytics.assets.accepted_tables import accepted_tables
from manifests import Manifest


def project() -> tuple[Manifest, str, str, str]:
    m = Manifest()
    first, second = (m.model("orders", folder="silver", version=version) for version in (1, 2))
    return m, first, second, m.model("items", folder="silver")


def test_a_name_a_version_and_an_asset_key_each_mean_one_table() -> None:
    m, first, second, items = project()
    graph = m.graph()
    assert accepted_tables(graph, ["items"]) == {items}
    assert accepted_tables(graph, ["orders.v2"]) == {second}
    assert accepted_tables(graph, ["/".join(graph.tables[first].key), "items"]) == {first, items}


def test_a_name_of_several_tables_accepts_none_of_them() -> None:
    with pytest.raises(ValueError, match=r"'orders' matches 2 tables: use orders\.v1 or orders\.v2"):
        accepted_tables(project()[0].graph(), ["orders"])


def test_a_name_of_no_table_has_a_hint() -> None:
    with pytest.raises(ValueError, match=r"there is no model 'item'; did you mean items\?"):
        accepted_tables(project()[0].graph(), ["item"])
