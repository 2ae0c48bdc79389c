from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.trino.errors import classify_dbt
from lakehouse_analytics.engines.trino.session import failed
from lakehouse_analytics.maintenance.plan import ORDER, Snapshot, State, Statement, due
from lakehouse_analytics.maintenance.policy import Policy
from lakehouse_analytics.maintenance.protection import CATALOG_MAX_AGE, Files, Protected, ProtectedError, own_reasons
from maintenance_states import NOW, POLICIES, states

ORDERS = Relation("lakehouse", "silver", "orders")
OTHER = Relation("lakehouse", "silver", "other")
HOME = "s3://lake/silver/orders-1"


def drop(relation: Relation) -> Statement:
    return Statement(relation, f"DROP TABLE IF EXISTS {relation}")


@dataclass
class Trino:
    """Answers with the rows of `Files`; a table that is an exception cannot be read."""

    tables: dict[Relation, Files | Exception]
    executed: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    query_id = "q1"

    def execute(self, sql: str) -> Trino:
        self.executed.append(sql)
        return self

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        self.statements.append(sql)
        if "iceberg_tables" in sql:
            return [(relation.schema, relation.name) for relation in self.tables]
        named = [relation for relation in self.tables if relation.metadata("properties") in sql]
        rows: list[tuple[Any, ...]] = []
        for relation in named:
            found = self.tables[relation]
            if isinstance(found, Exception):
                raise found
            before = sql[: sql.index(f"FROM {relation.metadata('properties')}")]
            place = int(before.rsplit("SELECT ", 1)[1].split(",", maxsplit=1)[0])
            rows += [(place, "property", "location", found.location)] if found.location else []
            rows += [(place, "property", key, value) for key, value in found.properties.items()]
            rows += [
                (place, "reference", name, kind.upper())
                for name, kind in {"main": "branch", **found.references}.items()
            ]
            rows += [(place, "metadata", folder, None) for folder in found.metadata]
            rows += [(place, "outside", found.outside, None)] if found.outside else []
        return rows


def refusal(tables: Mapping[Relation, Files | Exception], relation: Relation = ORDERS) -> ProtectedError:
    trino = Trino(dict(tables))
    with pytest.raises(ProtectedError) as caught:
        Protected(trino).execute(drop(relation))
    assert trino.executed == []
    expected_refusal = Protected(trino).expected_refusal(drop(relation))
    assert expected_refusal is not None
    assert expected_refusal.reason == caught.value.reason
    return caught.value


def home(**more: Any) -> Files:
    return Files(HOME, metadata=frozenset({f"{HOME}/metadata"}), **more)


def test_files_of_a_table_around_this_one_are_looked_for() -> None:
    """A table that was registered at a folder of another one: files of the parent lie in the child's location."""
    parent = Files("s3://lake/silver", metadata=frozenset({"s3://lake/silver/metadata"}))

    class Nested(Trino):
        def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
            if "'property'" not in sql and OTHER.metadata("files") in sql:
                return [(str(OTHER), f"{HOME}/data/1.parquet")]
            return super().fetch_all(sql)

    expected_refusal = Protected(Nested({ORDERS: home(), OTHER: parent})).expected_refusal(drop(ORDERS))
    assert expected_refusal is not None
    assert f"{OTHER} uses the same files: {HOME}/data/1.parquet" in expected_refusal.reason


def test_a_listing_that_may_not_be_read_is_named() -> None:
    class Hidden(Trino):
        def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
            if "iceberg_tables" in sql:
                raise RuntimeError("Access Denied: Cannot select from table lakehouse.system.iceberg_tables")
            return super().fetch_all(sql)

    expected_refusal = Protected(Hidden({ORDERS: home()})).expected_refusal(drop(ORDERS))
    assert expected_refusal is not None
    assert "Cannot select from table lakehouse.system.iceberg_tables" in expected_refusal.reason


def test_a_catalog_that_takes_long_to_read_is_read_once() -> None:
    now = 0.0

    class Slow(Trino):
        def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
            nonlocal now
            now += 2 * CATALOG_MAX_AGE if "iceberg_tables" in sql else 0
            return super().fetch_all(sql)

    trino = Slow({ORDERS: home()})
    protected = Protected(trino, clock=lambda: now)
    for _ in range(3):
        protected.expected_refusal(drop(ORDERS))
    assert len([sql for sql in trino.statements if "iceberg_tables" in sql]) == 1


def test_a_table_of_its_own_is_not_protected() -> None:
    trino = Trino({ORDERS: home(), OTHER: Files("s3://lake/silver/orders-10")})
    assert Protected(trino).expected_refusal(drop(ORDERS)) is None
    assert Protected(trino).execute(drop(ORDERS)) == "q1"
    assert trino.executed == [drop(ORDERS).sql]


@pytest.mark.parametrize("value", ["false", "FALSE", "no", ""])
def test_gc_enabled(value: str) -> None:
    assert refusal({ORDERS: home(properties={"gc.enabled": value})}).reason.startswith("its table property gc.enabled")
    assert [*own_reasons(home(properties={"gc.enabled": "True"}))] == []


def test_a_table_of_nessie() -> None:
    # Trino's catalog type `nessie` shows these two, and no gc.enabled.
    properties = {"nessie.commit.id": "fe4cae93", "nessie.gc.no-warning": "true"}
    assert refusal({ORDERS: home(properties=properties)}).reason == (
        "its table property nessie.commit.id means that it is in Nessie, where other branches may need its files"
    )


def test_references() -> None:
    references = {"audit": "branch", "y2023": "tag", "y2024": "tag", "y2025": "tag"}
    assert refusal({ORDERS: home(references=references)}).reason == (
        "it has the branch audit and the tag y2023 and the tag y2024 and 1 more"
    )


@pytest.mark.parametrize(
    "name", ["write.data.path", "write.metadata.path", "write.object-storage.path", "write.folder-storage.path"]
)
def test_a_write_path_outside_the_location(name: str) -> None:
    reason = refusal({ORDERS: home(properties={name: "s3://lake/shared"})}).reason
    assert reason == f"its table property {name} is s3://lake/shared, outside its location {HOME}"
    assert [*own_reasons(home(properties={name: f"{HOME}/data"}))] == []


def test_files_outside_the_location() -> None:
    assert "outside its location" in refusal({ORDERS: home(outside="s3://lake/raw/1.parquet")}).reason
    assert (
        "it keeps metadata files in s3://lake/old"
        in refusal({ORDERS: Files(HOME, metadata=frozenset({"s3://lake/old"}))}).reason
    )
    assert refusal({ORDERS: Files()}).reason == "its location is unknown"


@pytest.mark.parametrize(
    "other",
    [
        Files(HOME),
        Files(f"{HOME}/"),
        Files(HOME.replace("s3:", "s3a:")),
        Files(HOME.replace("lake/", "lake//")),
        Files(f"{HOME}/inner"),
        Files("s3://lake/b", properties={"write.data.path": f"{HOME}/data"}),
        Files("s3://lake/b", metadata=frozenset({f"{HOME}/metadata"})),
    ],
)
def test_another_table_in_the_location(other: Files) -> None:
    assert refusal({ORDERS: home(), OTHER: other}).reason.startswith(f"{OTHER} uses the same files: ")


def test_a_table_that_cannot_be_read_protects_all_others() -> None:
    error = refusal({ORDERS: home(), OTHER: RuntimeError("Access Denied\nat line 1")})
    assert error.unreadable
    assert error.reason == (
        f"whether another table needs its files is unknown, because the metadata of {OTHER} could not be read: "
        "Access Denied"
    )
    assert refusal({ORDERS: RuntimeError("no")}).unreadable


def test_a_table_that_is_not_there_any_more_protects_none() -> None:
    gone = failed(classify_dbt('TrinoUserError(type=USER_ERROR, name=TABLE_NOT_FOUND, message="x", query_id=1)'))
    trino = Trino({ORDERS: home(), OTHER: gone})
    assert Protected(trino).execute(drop(ORDERS)) == "q1"


def test_a_table_that_could_not_be_read_for_a_moment_is_read_again() -> None:
    trino = Trino({ORDERS: home(), OTHER: RuntimeError("it is being dropped")})
    protected = Protected(trino)
    assert protected.expected_refusal(drop(ORDERS))
    trino.tables[OTHER] = Files("s3://lake/b")
    assert protected.expected_refusal(drop(ORDERS)) is None


def test_the_other_tables_are_read_again_after_a_while() -> None:
    now = 0.0
    trino = Trino({ORDERS: home()})
    protected = Protected(trino, clock=lambda: now)
    assert protected.execute(drop(ORDERS))
    trino.tables[OTHER] = Files(HOME)
    now = CATALOG_MAX_AGE + 1
    with pytest.raises(ProtectedError, match="uses the same files"):
        protected.execute(drop(ORDERS))


def test_its_own_state_is_read_before_each_statement() -> None:
    trino = Trino({ORDERS: home()})
    protected = Protected(trino)
    assert protected.execute(drop(ORDERS))
    trino.tables[ORDERS] = home(references={"audit": "branch"})
    with pytest.raises(ProtectedError, match="the branch audit"):
        protected.execute(drop(ORDERS))


#: What is known to keep every file.
KEEPS = {"optimize", "optimize_manifests", "analyze"}


@given(POLICIES, states())
def test_every_statement_of_a_plan_that_is_not_known_to_keep_files_asks(policy: Policy, state: State) -> None:
    protected = Protected(Trino({ORDERS: home(properties={"gc.enabled": "false"})}))
    for kind in ORDER:
        if step := due(kind, ORDERS, policy, state):
            refused = [protected.expected_refusal(statement) is not None for statement in step.statements]
            assert refused == [kind not in KEEPS] * len(step.statements)


@given(st.text())
def test_a_statement_that_is_not_known_asks(sql: str) -> None:
    assert Statement(ORDERS, f"ALTER TABLE {ORDERS} EXECUTE x{sql}").deletes_files
    assert Statement(ORDERS, f"ALTER TABLE {OTHER} EXECUTE optimize({sql}").deletes_files
    assert Statement(ORDERS, f"DROP TABLE {sql}").deletes_files


def test_temporary_views_have_no_files() -> None:
    view = Relation("lakehouse", "silver", "orders__dbt_tmp")
    step = due(
        "drop_temp_relations",
        ORDERS,
        Policy(),
        State(NOW, snapshots=(Snapshot(1, NOW),), temp_relations=((view, "view"),)),
    )
    assert step is not None
    assert [statement.deletes_files for statement in step.statements] == [False]
