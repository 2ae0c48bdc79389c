from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import ContractError, ModelContract, SourceContract, parse
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.dbt.nodes import Config, Node
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.maintenance.plan import (
    MARGIN,
    ORDER,
    PARTITIONS,
    Snapshot,
    State,
    due,
    expirable,
    optimize_statements,
    plan,
)
from lakehouse_analytics.maintenance.policy import MaintainedTable, Policy, maintained_tables
from lakehouse_analytics.maintenance.state import left_behind
from maintenance_states import COUNTS, NOW, POLICIES, RETENTIONS, states

ORDERS = Relation("lakehouse", "silver", "orders")
DAY = timedelta(days=1)
#: Maintained a moment ago.
RESTED = State(now=NOW, data_files=3, data_bytes=10**9, rows=1000, analyzed=NOW, searched=NOW)


def steps(policy: Policy, state: State) -> dict[str, str]:
    return {step.kind: step.reason for step in plan(ORDERS, policy, state)}


def sql(policy: Policy, state: State) -> list[str]:
    return [statement.sql for step in plan(ORDERS, policy, state) for statement in step.statements]


def history(*days: float, changed: int = 0) -> tuple[Snapshot, ...]:
    return tuple(Snapshot(n, NOW - day * DAY, changed) for n, day in enumerate(days))


def test_nothing_is_done_where_nothing_is_due() -> None:
    assert steps(Policy(analyze=True), RESTED) == {}
    assert steps(Policy(analyze=True), replace(RESTED, data_files=0, rows=0)) == {}


def test_small_files_are_merged_when_it_makes_enough_fewer() -> None:
    assert steps(Policy(), replace(RESTED, small_files=365, mergeable=19)) == {}
    state = replace(RESTED, small_files=412, mergeable=400)
    assert steps(Policy(), state) == {"optimize": "412 files below 64MB, merging removes 400"}
    assert sql(Policy(small_file="8MB"), state) == [
        'ALTER TABLE "lakehouse"."silver"."orders" EXECUTE optimize(file_size_threshold => \'8MB\')'
    ]
    assert steps(Policy(optimize=False), state) == {}


@pytest.mark.parametrize(
    ("delete_files", "deleted_rows", "merged"),
    [(1, 99, False), (1, 100, True), (19, 1, False), (20, 1, True), (0, 0, False)],
)
def test_delete_files_are_applied_when_many_or_when_they_hide_much(
    delete_files: int, deleted_rows: int, merged: bool
) -> None:
    state = replace(RESTED, delete_files=delete_files, deleted_rows=deleted_rows)
    assert ("optimize" in steps(Policy(), state)) == merged


def test_a_table_with_more_partitions_than_a_writer_takes_is_merged_piece_by_piece() -> None:
    # On Trino 476 320 partitions at once fail with ICEBERG_TOO_MANY_OPEN_PARTITIONS.
    names = [f"d={n}" for n in range(2 * PARTITIONS)] + ["name=it's"]
    found = [statement.sql for statement in optimize_statements(ORDERS, Policy(), names)]
    assert len(found) == 3
    assert all(statement.count("'d=") <= PARTITIONS for statement in found)
    assert found[2].endswith("""WHERE "$partition" IN ('name=it''s')""")
    assert [*itertools.chain(*(re.findall(r"'(d=\d+)'", statement) for statement in found))] == names[:-1]


def test_manifests_of_delete_files_do_not_count() -> None:
    state = replace(RESTED, manifests=40, manifest_bytes=100_000)
    assert steps(Policy(), state) == {"optimize_manifests": "40 manifests for 3 files"}
    assert steps(Policy(), replace(state, manifests=20)) == {}
    assert "optimize_manifests" not in steps(Policy(), replace(state, delete_files=20))
    assert steps(Policy(), replace(state, manifest_bytes=40 * 2**23)) == {}


def test_every_state_of_the_retained_time_stays_readable() -> None:
    # 9 days ago stays: seven days ago it was the table.
    state = replace(RESTED, snapshots=history(12, 10, 9, 3, 0.1))
    snapshots, keep_from = expirable(Policy(), state)
    assert [s.id for s in snapshots] == [0, 1]
    assert keep_from == NOW - 9 * DAY
    assert steps(Policy(), state) == {"expire_snapshots": "2 of 5 snapshots older than 7 days"}
    assert sql(Policy(), state)[0].endswith(f"(retention_threshold => '{9 * 86_400 + 3_600}s')")


def test_a_state_that_was_replaced_a_moment_ago_stays_however_old_it_is() -> None:
    # Queries that began before the last commit read its files.
    assert steps(Policy(), replace(RESTED, snapshots=history(400, 0.001))) == {}


def test_what_a_tag_holds_cannot_expire_and_is_not_tried_every_night() -> None:
    state = replace(RESTED, snapshots=history(12, 10, 9), referenced=frozenset({0, 2}))
    assert [s.id for s in expirable(Policy(), state)[0]] == [1]
    assert steps(Policy(), replace(state, referenced=frozenset({0, 1, 2}))) == {}


def test_orphan_files_are_searched_once_in_their_retention() -> None:
    assert steps(Policy(), replace(RESTED, searched=None)) == {"remove_orphan_files": "never searched"}
    assert steps(Policy(), replace(RESTED, searched=NOW - 6 * DAY)) == {}
    state = replace(RESTED, searched=NOW - 7 * DAY)
    assert steps(Policy(), state) == {"remove_orphan_files": "last searched on 2026-11-14"}
    assert sql(Policy(), state)[0].endswith("EXECUTE remove_orphan_files(retention_threshold => '604800s')")


def test_statistics_are_collected_when_enough_rows_changed() -> None:
    policy = Policy(analyze=True)
    changed = replace(RESTED, analyzed=NOW - 2 * DAY, snapshots=history(3, 1, changed=99))
    assert steps(policy, changed) == {}
    changed = replace(changed, snapshots=history(1, 0.5, changed=50))
    assert steps(policy, changed) == {"analyze": "100 rows changed since 2026-11-19 05:00, of 1000"}
    assert steps(Policy(analyze=False), changed) == {}
    assert steps(policy, replace(RESTED, analyzed=None)) == {"analyze": "never analyzed"}


def test_what_dead_builds_left_is_dropped() -> None:
    view, table = Relation("lakehouse", "silver", "v"), Relation("lakehouse", "silver", "t")
    state = replace(RESTED, temp_relations=((table, "table"), (view, "view")))
    assert steps(Policy(), state) == {"drop_temp_relations": "2 temporary relations of dead builds"}
    assert sql(Policy(), state) == [f"DROP TABLE IF EXISTS {table}", f"DROP VIEW IF EXISTS {view}"]


def test_temp_relations_belong_to_one_model_and_are_recognized_by_their_age() -> None:
    old, new = "20261120000000_0123abcd", "20261121040000_0123abcd"
    names = [f"orders__dbt_tmp_{old}", f"orders__dbt_tmp_{new}", f"orders2__dbt_tmp_{old}", "orders", "orders__dbt_tmp"]
    relations = {replace(ORDERS, name=name): "view" for name in names}
    relations[Relation("lakehouse", "gold", f"orders__dbt_tmp_{old}")] = "table"
    table = MaintainedTable("model.orders", ("silver", "orders"), ORDERS, Policy())
    found = left_behind(table, relations, now=NOW, older_than=timedelta(hours=6))
    assert found == ((replace(ORDERS, name=names[0]), "view"),)


# What holds of every plan.


def trino_does(kind: str, statement: str, state: State) -> State:
    """The state that Trino leaves, as it was seen to."""
    match kind:
        case "optimize":
            files = state.data_files - state.mergeable
            rows = max(0, state.rows - state.deleted_rows)
            left = replace(state, data_files=files, small_files=0, mergeable=0, partitions_to_merge=0, delete_files=0)
            return replace(left, rows=rows, deleted_rows=0, snapshots=(*state.snapshots, Snapshot(99, NOW)))
        case "optimize_manifests":
            merged = max(1, -(-state.manifest_bytes // 2**23))
            left = replace(state, manifests=merged + min(state.manifests, state.delete_files))
            return replace(left, snapshots=(*state.snapshots, Snapshot(100, NOW)))
        case "expire_snapshots":
            match = re.search(r"'(\d+)s'", statement)
            assert match
            before = NOW - timedelta(seconds=int(match[1]))
            kept = state.referenced | {state.snapshots[-1].id}
            return replace(state, snapshots=tuple(s for s in state.snapshots if s.at >= before or s.id in kept))
        case "remove_orphan_files":
            return replace(state, searched=NOW)
        case "analyze":
            return replace(state, analyzed=NOW)
    raise AssertionError(kind)


def look_after(policy: Policy, state: State) -> State:
    for kind in ORDER:
        if step := due(kind, ORDERS, policy, state):
            for statement in step.statements:
                state = trino_does(kind, statement.sql, state)
    return state


@given(POLICIES, states())
def test_after_maintenance_nothing_is_due(policy: Policy, state: State) -> None:
    assert plan(ORDERS, policy, look_after(policy, state)) == []


@given(POLICIES, states())
def test_steps_come_in_their_order_each_with_a_reason(policy: Policy, state: State) -> None:
    found = plan(ORDERS, policy, state)
    places = [ORDER.index(step.kind) for step in found]
    assert places == sorted(set(places))
    assert all(step.reason and step.statements for step in found)


@given(POLICIES, states(), st.timedeltas(timedelta(), timedelta(days=60)))
def test_no_state_of_the_retained_time_is_ever_lost(policy: Policy, state: State, ago: timedelta) -> None:
    assume(timedelta() < ago <= policy.retain)

    def at(snapshots: tuple[Snapshot, ...]) -> datetime | None:
        return max((s.at for s in snapshots if s.at <= NOW - ago), default=None)

    assert at(look_after(policy, state).snapshots) == at(state.snapshots)


@given(POLICIES, states())
def test_no_statement_asks_for_less_than_the_policy_retains(policy: Policy, state: State) -> None:
    for step in plan(ORDERS, policy, state):
        least = {"expire_snapshots": policy.retain, "remove_orphan_files": policy.orphans}.get(step.kind)
        threshold = re.search(r"retention_threshold => '(\d+)s'", step.statements[0].sql)
        assert bool(least) == bool(threshold)
        if least and threshold:
            assert timedelta(seconds=int(threshold[1])) >= least


@given(POLICIES, states(), RETENTIONS)
def test_a_longer_retention_expires_no_more(policy: Policy, state: State, more: timedelta) -> None:
    longer = replace(policy, retain=policy.retain + more)
    few, many = expirable(longer, state)[0], expirable(policy, state)[0]
    assert {s.id for s in few} <= {s.id for s in many}


@given(POLICIES, states(), st.integers(1, 100))
def test_higher_thresholds_never_do_more(policy: Policy, state: State, more: int) -> None:
    higher = replace(
        policy,
        small_files=policy.small_files + more,
        small_manifests=policy.small_manifests + more,
        deleted=min(1.0, policy.deleted * (1 + more)),
        changed=min(1.0, policy.changed * (1 + more)),
    )
    assert steps(higher, state).keys() <= steps(policy, state).keys()


@given(POLICIES, states(), COUNTS)
def test_a_raggeder_table_never_has_less_done(policy: Policy, state: State, more: int) -> None:
    worse = replace(
        state,
        data_files=state.data_files + more,
        small_files=state.small_files + more,
        mergeable=state.mergeable + more,
        deleted_rows=state.deleted_rows + more,
    )
    assert steps(policy, state).keys() <= steps(policy, worse).keys()


def test_the_margin_covers_the_time_between_measuring_and_expiring() -> None:
    state = replace(RESTED, snapshots=history(12, 9, 3))
    (statement,) = sql(Policy(), state)
    match = re.search(r"'(\d+)s'", statement)
    assert match
    # Run so late, it still keeps the state of nine days ago.
    late = NOW + MARGIN - timedelta(seconds=1)
    assert late - timedelta(seconds=int(match[1])) < NOW - 9 * DAY


# Contracts → policies.


def model(name: str, materialized: str = "table", maintenance: object = None) -> Table:
    raw = {} if maintenance is None else {"maintenance": maintenance}
    node = Node(
        f"model.{name}",
        "model",
        name,
        database="Lake",
        schema="silver",
        alias=name.upper(),
        original_file_path=f"models/{name}.sql",
        config=Config(materialized),
    )
    contract = parse(ModelContract, raw, resource=f"model {name}", files=[])
    return Table(node.unique_id, ("silver", name), "silver", contract, node, ())


def source(name: str, contract: dict[str, object]) -> Source:
    node = Node(
        f"source.{name}",
        "source",
        name,
        identifier=name,
        database="lake",
        schema="raw",
        original_file_path="models/sources.yml",
    )
    parsed = parse(SourceContract, contract, resource=f"source {name}", files=[])
    return Source(node.unique_id, ("shop", name), parsed, node)


def found(*owners: Table | Source, floor: timedelta = DAY, longest: timedelta = DAY / 4) -> dict[str, MaintainedTable]:
    graph = Graph(
        tables={o.unique_id: o for o in owners if isinstance(o, Table)},
        sources={o.unique_id: o for o in owners if isinstance(o, Source)},
        tests={},
        exposures={},
        adapter="trino",
    )
    return {table.unique_id: table for table in maintained_tables(graph, floor=floor, longest_write=longest)}


def test_every_table_is_looked_after_without_a_word() -> None:
    tables = [model(kind, kind) for kind in ("table", "incremental", "seed", "snapshot", "view", "materialized_view")]
    by_id = found(*tables)
    assert by_id.keys() == {"model.table", "model.incremental", "model.seed", "model.snapshot"}
    # Trino has the statistics of what it writes whole.
    assert {key: table.policy.analyze for key, table in by_id.items()} == {
        "model.table": False, "model.seed": False, "model.incremental": True, "model.snapshot": True,
    }  # fmt: skip
    assert by_id["model.table"].policy == Policy()
    assert by_id["model.table"].relation == Relation("lake", "silver", "table")


def test_raw_tables_are_those_of_airbyte_and_those_that_ask() -> None:
    by_id = found(
        source("silent", {}),
        source("filled", {"airbyte": {"connection": "prod"}}),
        source("configured", {"maintenance": {"retain": "2d"}}),
        source("refused", {"airbyte": {"connection": "prod"}, "maintenance": {"enabled": False}}),
    )
    assert {key: table.connection for key, table in by_id.items()} == {
        "source.filled": "prod",
        "source.configured": None,
    }
    assert by_id["source.configured"].policy.retain == 2 * DAY
    assert by_id["source.filled"].policy.analyze


def test_a_contract_changes_what_it_names() -> None:
    said = {"optimize": False, "small_file": "1GB", "small_files": 3, "retain": "30d", "orphans": "3d", "analyze": True}
    policy = found(model("a", maintenance=said))["model.a"].policy
    assert policy == Policy(
        optimize=False, small_file="1GB", small_files=3, retain=30 * DAY, orphans=3 * DAY, analyze=True
    )
    assert policy.small_file_bytes == 2**30
    assert found(model("a", maintenance={"enabled": False})) == {}


def test_no_contract_goes_below_the_floor() -> None:
    with pytest.raises(ContractError) as caught:
        found(model("a", maintenance={"retain": "23h", "orphans": "1d"}), model("b", maintenance={"orphans": "5h"}))
    assert str(caught.value).splitlines() == [
        "models/a.sql or dbt_project.yml: model a: meta.lakehouse.maintenance.retain is 23h: expected at least 1d, "
        "the floor (LAKEHOUSE_MAINTENANCE_FLOOR)",
        "models/b.sql or dbt_project.yml: model b: meta.lakehouse.maintenance.orphans is 5h: expected at least 1d, "
        "the longer of LAKEHOUSE_MAINTENANCE_FLOOR and LAKEHOUSE_MAX_RUNTIME: a running write would lose files",
    ]


def test_files_of_a_running_write_are_never_orphans() -> None:
    with pytest.raises(ContractError, match="expected at least 2d"):
        found(model("a", maintenance={"orphans": "1d"}), longest=2 * DAY)
    assert found(model("a"), longest=10 * DAY)["model.a"].policy.orphans == 10 * DAY


@given(st.integers(1, 40), st.integers(1, 40), st.none() | st.integers(1, 40), st.none() | st.integers(1, 40))
def test_the_floor_holds_or_the_contract_is_refused(
    floor: int, longest: int, retain: int | None, orphans: int | None
) -> None:
    said = {name: f"{days}d" for name, days in (("retain", retain), ("orphans", orphans)) if days}
    refused = (retain or floor) < floor or (orphans or 40) < max(floor, longest)
    try:
        policy = found(model("a", maintenance=said), floor=floor * DAY, longest=longest * DAY)["model.a"].policy
    except ContractError:
        assert refused
        return
    assert not refused
    assert policy.retain >= floor * DAY
    assert policy.orphans >= max(floor, longest) * DAY
