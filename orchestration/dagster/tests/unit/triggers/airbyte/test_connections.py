"""Which connection mapping which table of a dbt source, and what is said where that is not clear."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.triggers.airbyte import connections
from lakehouse_analytics.triggers.airbyte.connections import (
    Connection,
    ConnectionMapping,
    SourceTable,
    is_included,
    map_connections,
    parse_connection,
    table_names,
)

SHOP, CRM, OTHER = "11111111-aaaa", "22222222-bbbb", "33333333-cccc"

LAKE = {"namespace": "custom_format", "namespace_format": "lake_${SOURCE_NAMESPACE}"}


def connection(id: str = SHOP, name: str = "Shop", *streams: str, **more: Any) -> Connection:
    """`streams`: `name`, or `namespace.name`."""
    pairs = [stream.rpartition(".") for stream in streams]
    return Connection(id, name, streams=tuple((namespace, stream) for namespace, _, stream in pairs), **more)


def table(
    name: str = "orders", schema: str = "raw", wanted: str | None = None, stream: str | None = None
) -> SourceTable:
    return SourceTable(("source", name), schema, name, wanted, stream)


def filled(mapping: ConnectionMapping) -> dict[str, list[str]]:
    return {
        connection: [table.table for table in tables] for connection, tables in mapping.tables_by_connection.items()
    }


# --- Named in the contract


@pytest.mark.parametrize("wanted", [SHOP, SHOP.upper(), "Shop"])
def test_a_connection_is_named_by_id_or_exact_name(wanted: str) -> None:
    mapping = map_connections([table(wanted=wanted)], [connection(SHOP, "Shop", "orders"), connection(CRM, "CRM")])
    assert filled(mapping) == {SHOP: ["orders"]}
    assert not mapping.problems
    assert [c.id for c in mapping.unmapped_connections] == [CRM]


def test_an_id_wins_over_a_name() -> None:
    mapping = map_connections([table(wanted=CRM)], [connection(SHOP, CRM), connection(CRM, "CRM")])
    assert filled(mapping) == {CRM: ["orders"]}


def test_a_name_that_several_have_is_none() -> None:
    mapping = map_connections([table(wanted="Shop")], [connection(CRM), connection(SHOP)])
    assert not mapping.tables_by_connection
    assert mapping.problems == [
        "meta.lakehouse.airbyte.connection of source source.orders: 'Shop' is the name of several connections: use the "
        f"id of one of them ({SHOP}, {CRM})"
    ]


def test_a_name_that_none_has_is_told_once_with_what_is_near() -> None:
    tables = [
        table("orders", wanted="Shpo"),
        table("items", wanted="Shpo"),
        table("people", wanted="nothing like it"),
    ]
    mapping = map_connections(tables, [connection(SHOP, "Shop"), connection(CRM, "CRM")])
    assert not mapping.tables_by_connection
    first, second = mapping.problems
    assert "source.orders, source.items" in first
    assert first.endswith("did you mean 'Shop'?")
    assert "'nothing like it'" in second
    assert "did you mean" not in second


@pytest.mark.parametrize("wanted", [CRM, CRM.upper(), "CRM"])
def test_a_connection_that_a_filter_leaves_out_is_not_called_unknown(wanted: str) -> None:
    mapping = map_connections([table(wanted=wanted)], [connection()], [connection(CRM, "CRM")])
    assert not mapping.tables_by_connection
    assert "LAKEHOUSE_AIRBYTE_INCLUDE or LAKEHOUSE_AIRBYTE_EXCLUDE leaves out" in mapping.problems[0]


def test_a_name_of_which_a_filter_leaves_one_is_that_one() -> None:
    mapping = map_connections([table(wanted="Shop")], [connection(SHOP, "Shop", "orders")], [connection(CRM, "Shop")])
    assert filled(mapping) == {SHOP: ["orders"]}
    assert not mapping.problems


def test_a_stream_that_is_named_is_looked_for() -> None:
    shop = connection(SHOP, "Shop", "public.orders", "public.items")
    fine, wrong = table(wanted="Shop", stream="orders"), table("lines", wanted="Shop", stream="itmes")
    mapping = map_connections([fine, wrong], [shop])
    assert filled(mapping) == {SHOP: ["orders", "lines"]}  # its syncs are listened to all the same
    assert mapping.problems == [
        "source source.lines: meta.lakehouse.airbyte.stream is 'itmes', but connection 'Shop' does not sync such a "
        "stream; did you mean 'items'?"
    ]


def test_streams_that_airbyte_does_not_list_are_not_missed() -> None:
    shop = Connection(SHOP, "Shop", streams=None)
    assert not map_connections([table(wanted="Shop", stream="orders")], [shop]).problems


def test_a_named_connection_needs_no_matching_stream() -> None:
    assert filled(map_connections([table(wanted="Shop")], [connection(SHOP, "Shop", "x")])) == {SHOP: ["orders"]}


def test_a_table_of_a_named_connection_that_no_stream_fills_is_named_with_the_way_out() -> None:
    shop = connection(SHOP, "Shop", "orders_v2", "items")
    mapping = map_connections([table(wanted="Shop"), table("items", wanted="Shop")], [shop])
    assert filled(mapping) == {SHOP: ["orders", "items"]}  # the contract decides
    assert mapping.problems == [
        "source source.orders: no stream of connection 'Shop' is written to a table 'orders'; set "
        "meta.lakehouse.airbyte.stream to the stream that fills it, or name another connection; did you mean "
        "'orders_v2'?"
    ]
    assert mapping.unmapped_streams == {SHOP: ["orders_v2"]}
    assert not map_connections([table(wanted="Shop", stream="orders_v2")], [shop]).problems


# --- Renamed by the destination


@pytest.mark.parametrize(
    ("stream", "name", "more"),
    [
        ("Order-Items", "order_items", {}),
        ("order items", "order_items", {}),
        ("order  items", "order_items", {}),  # Airbyte takes blanks together,
        ("order  items", "order__items", {}),  # or the catalog replaces each
        ("orders.2026", "orders_2026", {}),
        ("Café", "cafe", {}),
        ("Café", "caf_", {}),
        ("注文", "__", {}),
        ("items", "order_items", {"prefix": "Order-"}),
        ("Sales Ops.Order-Items", "order_items", {"namespace": "source"}),
    ],
)
@pytest.mark.parametrize("wanted", [None, SHOP])
def test_a_stream_that_the_destination_renames_fills_its_table(
    stream: str, name: str, more: dict[str, str], wanted: str | None
) -> None:
    namespace, _, plain = stream.rpartition(".") if "namespace" in more else ("", "", stream)
    shop = Connection(SHOP, "Shop", streams=((namespace, plain),), **more)  # type: ignore[arg-type]
    mapping = map_connections([table(name, "sales_ops", wanted)], [shop])
    assert filled(mapping) == {SHOP: [name]}
    assert not mapping.problems
    assert not mapping.unmapped_streams
    assert not mapping.unmapped_tables


@given(st.text(min_size=1, max_size=12))
def test_a_renamed_stream_has_a_name_that_a_catalog_takes(name: str) -> None:
    own, *renamed = sorted(table_names(name), key=lambda found: found != name.lower())
    assert own == name.lower()
    assert all(re.fullmatch("[a-z0-9_]+", found) for found in renamed)


def test_the_name_itself_wins_over_a_renamed_one_and_both_are_named() -> None:
    own, renamed = connection(SHOP, "Shop", "order_items"), connection(CRM, "CRM", "Order-Items")
    mapping = map_connections([table("order_items")], [renamed, own])
    assert filled(mapping) == {SHOP: ["order_items"]}
    [said] = mapping.problems
    assert said == (
        "source source.order_items: streams of several connections may be written to this table ('Order-Items' of "
        f"connection 'CRM' ({CRM}), 'order_items' of connection 'Shop' ({SHOP})), and each sync may replace the rows "
        "of another; give them different prefixes or namespaces in Airbyte, or name the one that fills it in "
        "meta.lakehouse.airbyte.connection. Until then, connection 'Shop' is used, whose stream has the name of the "
        "table"
    )
    # Either one, as the contract says.
    for wanted in ("Shop", "CRM"):
        decided = map_connections([table("order_items", wanted=wanted)], [renamed, own])
        assert [*decided.tables_by_connection] == [SHOP if wanted == "Shop" else CRM]
        assert not decided.problems


@pytest.mark.parametrize(
    ("first", "second", "one_table"),
    [
        # The default schema of one destination, or one that both name.
        ({"destination": "lake"}, {"destination": "lake"}, True),
        ({"destination": "lake"}, {"destination": "lake", "prefix": "crm_"}, False),
        ({"destination": "lake"}, {"destination": "other"}, False),
        ({"destination": "lake"}, {}, False),  # what Airbyte does not say
        ({"destination": "lake"}, {"destination": "lake", "status": "inactive"}, False),
        ({"destination": "lake", **LAKE}, {"destination": "lake", **LAKE}, True),
        ({"destination": "lake", **LAKE}, {"destination": "lake", **LAKE, "namespace_format": "crm"}, False),
        ({"destination": "lake", **LAKE}, {"destination": "lake"}, False),  # its default schema is not known
        ({**LAKE}, {**LAKE}, False),
    ],
)
@pytest.mark.parametrize("stream", ["order_items", "Order-Items", "order items"])
def test_a_connection_that_the_contract_names_shares_a_table_with_one_of_the_same_destination(
    first: dict[str, str], second: dict[str, str], one_table: bool, stream: str
) -> None:
    shop = connection(SHOP, "Shop", "order_items", **first)
    crm = connection(CRM, "CRM", stream, **second)
    for wanted in ("Shop", SHOP):
        mapping = map_connections([table("order_items", "lake_", wanted=wanted)], [shop, crm])
        assert filled(mapping) == {SHOP: ["order_items"]}
        assert bool(mapping.problems) == one_table
        assert all(
            f"('order_items' of connection 'Shop' ({SHOP}), {stream!r} of connection 'CRM' ({CRM}))" in said
            and said.endswith("or name the one that fills it in meta.lakehouse.airbyte.stream")
            for said in mapping.problems
        )
    decided = map_connections([table("order_items", "lake_", wanted="Shop", stream="order_items")], [shop, crm])
    assert not decided.problems


def test_several_connections_that_could_fill_a_table_are_named_with_their_streams() -> None:
    shop, crm = connection(SHOP, "Shop", "Order-Items"), connection(CRM, "CRM", "order items")
    mapping = map_connections([table("order_items")], [shop, crm])
    assert not mapping.tables_by_connection
    [said] = mapping.problems
    assert f"('Order-Items' of connection 'Shop' ({SHOP}), 'order items' of connection 'CRM' ({CRM}))" in said
    assert "name the one that fills it in meta.lakehouse.airbyte.connection" in said


def test_two_streams_of_one_table_are_named() -> None:
    shop = connection(SHOP, "Shop", "Order-Items", "order_items")
    for wanted in (None, "Shop"):
        mapping = map_connections([table("order_items", wanted=wanted)], [shop])
        assert filled(mapping) == {SHOP: ["order_items"]}
        [said] = mapping.problems
        assert (
            "several streams of connection 'Shop' may be written to this table ('Order-Items', 'order_items')" in said
        )
    assert not map_connections([table("order_items", wanted="Shop", stream="Order-Items")], [shop]).problems


def test_streams_of_one_name_in_two_namespaces_share_a_table_unless_the_connection_keeps_them_apart() -> None:
    for more, shared in (({}, True), ({"namespace": "source"}, False)):
        shop = connection(SHOP, "Shop", "eu.orders", "us.orders", **more)
        mapping = map_connections([table("orders", "eu", "Shop")], [shop])
        assert bool(mapping.problems) == shared
        assert all("'eu.orders', 'us.orders'" in said for said in mapping.problems)


def test_streams_without_a_table_and_tables_without_a_stream_are_listed() -> None:
    shop = connection(SHOP, "Shop", "orders", "Refunds", "log")
    tables = [table(), table("customers"), SourceTable(("files", "x"), "elsewhere", "x")]
    mapping = map_connections(tables, [shop, connection(CRM, "CRM", "leads")])
    assert mapping.unmapped_streams == {SHOP: ["Refunds", "log"]}
    assert [table.table for table in mapping.unmapped_tables] == ["customers", "x"]
    # A source that has nothing to do with Airbyte is not its fault.
    assert [table.table for table in mapping.suspicious_tables] == ["customers"]


# --- Inferred


@pytest.mark.parametrize(
    ("stream", "schema", "name", "more"),
    [
        ("public.orders", "public", "orders", {"namespace": "source"}),
        ("public.orders", "public", "raw_orders", {"namespace": "source", "prefix": "raw_"}),
        ("public.orders", "lake_public", "orders", LAKE),
        ("orders", "lake_", "orders", LAKE),
        ("public.orders", "fixed", "orders", {"namespace": "custom_format", "namespace_format": "fixed"}),
        ("public.orders", "anything", "orders", {"namespace": "destination"}),
        ("public.orders", "anything", "s_orders", {"prefix": "s_"}),
        ("orders", "anything", "orders", {"namespace": "source"}),
        ("orders", "anything", "orders", {"namespace": "custom_format"}),
        ("Public.Orders", "public", "orders", {"namespace": "source"}),
    ],
)
def test_a_table_is_filled_by_the_connection_whose_stream_lands_there(
    stream: str, schema: str, name: str, more: dict[str, str]
) -> None:
    mapping = map_connections([table(name, schema)], [connection(SHOP, "Shop", stream, **more), connection(CRM, "CRM")])
    assert filled(mapping) == {SHOP: [name]}
    assert not mapping.problems


@pytest.mark.parametrize(
    ("stream", "more"),
    [
        ("sales.orders", {"namespace": "source"}),
        ("raw.orders", {"namespace": "source", "prefix": "raw_"}),
        ("raw.items", {"namespace": "source"}),
        ("public.orders", {"namespace": "custom_format", "namespace_format": "other"}),
        ("orders_archive", {}),
    ],
)
def test_a_stream_that_lands_elsewhere_fills_nothing(stream: str, more: dict[str, str]) -> None:
    shop = connection(SHOP, "Shop", stream, **more)
    mapping = map_connections([table("orders", "raw")], [shop])
    assert not mapping.tables_by_connection
    assert not mapping.problems
    assert mapping.unmapped_connections == [shop]


def test_several_that_may_land_there_are_told() -> None:
    mapping = map_connections([table()], [connection(CRM, "CRM", "orders"), connection(SHOP, "Shop", "orders")])
    assert not mapping.tables_by_connection
    [said] = mapping.problems
    assert f"('orders' of connection 'CRM' ({CRM}), 'orders' of connection 'Shop' ({SHOP}))" in said
    assert said.endswith("or name the one that fills it in meta.lakehouse.airbyte.connection")


@pytest.mark.parametrize("status", ["inactive", "deprecated"])
def test_one_that_syncs_nothing_any_more_does_not_stand_in_its_successor_s_way(status: str) -> None:
    old, new = connection(CRM, "old", "orders", status=status), connection(SHOP, "new", "orders")
    mapping = map_connections([table()], [old, new])
    assert filled(mapping) == {SHOP: ["orders"]}
    assert not mapping.problems


def test_a_table_whose_connection_is_named_is_not_inferred_for_another() -> None:
    tables = [table(wanted="Shop"), table("items")]
    mapping = map_connections(tables, [connection(SHOP, "Shop", "items"), connection(CRM, "CRM", "orders")])
    assert filled(mapping) == {SHOP: ["orders", "items"]}


def test_streams_that_airbyte_does_not_list_land_nowhere() -> None:
    assert not map_connections([table()], [Connection(SHOP, "Shop", streams=None)]).tables_by_connection


# --- Filters

TAGGED = connection(SHOP, "Shop", tags=("nightly", "finance"))


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        ((), (), True),
        ((SHOP,), (), True),
        ((SHOP.upper(),), (), True),
        (("Shop",), (), True),
        (("shop",), (), False),
        (("tag:finance",), (), True),
        (("finance",), (), False),
        (("tag:hourly",), (), False),
        (("CRM", "tag:nightly"), (), True),
        ((), (SHOP.upper(),), False),
        ((), ("Shop",), False),
        ((), ("tag:nightly",), False),
        ((), ("CRM",), True),
        (("Shop",), ("tag:nightly",), False),
    ],
)
def test_which_connections_are_listened_to(include: tuple[str, ...], exclude: tuple[str, ...], wanted: bool) -> None:
    assert is_included(TAGGED, include, exclude) is wanted


# --- Rows of the API


def test_a_row_as_airbyte_writes_it() -> None:
    row = {
        "connectionId": SHOP.upper(),
        "name": "Shop",
        "workspaceId": "w",
        "status": "ACTIVE",
        "tags": [{"tagId": "t", "name": "nightly", "color": "x", "workspaceId": "w"}],
        "prefix": "raw_",
        "namespaceDefinition": "custom_format",
        "namespaceFormat": "lake_${SOURCE_NAMESPACE}",
        "configurations": {"streams": [{"name": "orders", "namespace": "public"}, {"name": "items"}]},
    }
    assert parse_connection(row) == Connection(
        id=SHOP,
        name="Shop",
        workspace="w",
        status="active",
        tags=("nightly",),
        prefix="raw_",
        namespace="custom_format",
        namespace_format="lake_${SOURCE_NAMESPACE}",
        streams=(("public", "orders"), ("", "items")),
    )


def test_a_row_of_nulls_is_a_connection() -> None:
    nulls = dict.fromkeys(["name", "tags", "prefix", "namespaceDefinition", "namespaceFormat", "configurations"])
    assert parse_connection({"connectionId": "c", **nulls}) == Connection("c", "", status="")


@pytest.mark.parametrize(
    "row", [None, 5, "c", [], {}, {"connectionId": None}, {"connectionId": ""}, {"connectionId": 5}]
)
def test_a_row_without_an_id_is_none(row: object) -> None:
    assert parse_connection(row) is None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
STREAMS = st.fixed_dictionaries({"streams": JSON | st.lists(st.fixed_dictionaries({"name": JSON, "namespace": JSON}))})
FIELDS = ["name", "workspaceId", "status", "tags", "prefix", "namespaceDefinition", "namespaceFormat"]
ROWS = st.fixed_dictionaries(
    {"connectionId": st.text(min_size=1), "configurations": JSON | STREAMS}, optional=dict.fromkeys(FIELDS, JSON)
)


@given(JSON | ROWS)
def test_any_json_is_a_connection_or_none(row: object) -> None:
    found = parse_connection(row)
    assert (found is None) or found.id
    if found:
        map_connections([table(), table(wanted="Shop", stream="x")], [found])
        is_included(found, ("Shop",), ())


def test_each_table_is_compared_with_the_streams_of_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    lands = connections._writes

    def counted(*args: Any, **options: Any) -> bool:
        nonlocal compared
        compared += 1
        return lands(*args, **options)

    monkeypatch.setattr(connections, "_writes", counted)
    many = [Connection(str(n), f"c{n}", streams=tuple(("", f"Stream-{n}.{m}") for m in range(20))) for n in range(30)]
    filled = [SourceTable(("s", f"{n}_{m}"), "raw", f"stream_{n}_{m}") for n in range(30) for m in range(20)]
    others = [SourceTable(("o", str(n)), "raw", f"other_{n}") for n in range(300)]
    mapping = map_connections([*filled, *others], many)
    assert {*mapping.unmapped_tables} == {*others}
    assert sum(map(len, mapping.tables_by_connection.values())) == len(filled)
    assert compared < 10 * len(filled)
