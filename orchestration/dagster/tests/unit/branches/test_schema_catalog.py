"""Branches that are schemas, on real databases: what belongs to a branch, and nothing else, is ever dropped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.assets.run_branch import remove_dead_branches
from lakehouse_analytics.branches import schema_records
from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError, Name, RefusedError
from lakehouse_analytics.branches.schema_catalog import SchemaBranches
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.duckdb.schemas import schema_session as duckdb_session
from lakehouse_analytics.engines.postgres.schemas import PostgresSchemas
from lakehouse_analytics.engines.postgres.schemas import schema_session as postgres_session
from lakehouse_analytics.engines.schema_session import SchemaSession
from postgres_server import PostgresServer, postgres_server

TABLES = {Name("silver", "orders"): True, Name("gold", "revenue"): True, Name("gold", "visits"): False}


@dataclass
class OnDuckDB:
    """A file."""

    path: Path

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:
        with duckdb_session(self.path, timeout=5, write=write) as session:
            yield session


@dataclass
class OnPostgres:
    """A database of a server."""

    server: PostgresServer
    database: str

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:
        connection = psycopg2.connect(self.server.url(self.database))
        try:
            with postgres_session(connection, role=None, write=write) as session:
                yield session
        finally:
            connection.close()


def refusing(command: str, text: str) -> str:
    """An event trigger that refuses commands of a kind whose SQL has a text."""
    return f"""
        create or replace function refuse() returns event_trigger language plpgsql as $$ begin
            if current_query() like '%{text}%' then raise exception 'refused'; end if;
        end $$;
        drop event trigger if exists refusing;
        create event trigger refusing on ddl_command_start when tag in ('{command}') execute function refuse();
        """


class EachStatement(OnPostgres):
    """A database in which each statement is its own transaction."""

    unwritable = False
    #: The number of statements after which the process is killed; None for none.
    statements: int | None = None

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:
        connection = psycopg2.connect(self.server.url(self.database))
        connection.autocommit = True
        if self.unwritable:
            with connection.cursor() as cursor:
                cursor.execute(refusing("CREATE TABLE", "branch_schemas"))
        try:
            yield Killed(connection, self.statements)
        finally:
            connection.close()


class KilledError(BaseException):
    """The end of the process, which no handler of errors sees."""


class Killed(PostgresSchemas):
    """A session that ends after some statements."""

    def __init__(self, connection: psycopg2.extensions.connection, statements: int | None) -> None:
        self.left = statements
        super().__init__(connection)

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        if self.left is not None and not sql.startswith("select"):
            if self.left == 0:
                raise KilledError
            self.left -= 1
        return super().fetch_all(sql)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> OnDuckDB | OnPostgres:
    """A database with the schemas of production and a table."""
    made: OnDuckDB | OnPostgres
    if request.param == "duckdb":
        made = OnDuckDB(tmp_path / "lake.duckdb")
    else:
        server = request.getfixturevalue("server")
        made = OnPostgres(server, server.new_database())
    run(made, "create schema silver", "create schema gold", "create table gold.revenue as select 1 as amount")
    return made


def run(engine: OnDuckDB | OnPostgres, *statements: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    with engine.schema_session(write=True) as session:
        for statement in statements:
            rows = [tuple(row) for row in session.fetch_all(statement)]
    return rows


def schemas(engine: OnDuckDB | OnPostgres) -> set[str]:
    with engine.schema_session(write=False) as session:
        return {schema for schema in session.schemas() if "__" in schema}


def test_a_branch_has_schemas_and_what_was_built_there(engine: OnDuckDB | OnPostgres) -> None:
    branches: BranchCatalog = SchemaBranches(engine, "The engine")
    assert branches.branches() == []
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=7)
    branches.create("pr_42", TABLES, expires=expires)
    branches.create("other", {Name("gold", "revenue"): True})
    assert schemas(engine) == {"silver__pr_42", "gold__pr_42", "gold__other"}
    assert branches.built("pr_42") == []
    with pytest.raises(BranchError, match="The branch pr_42 exists already"):
        branches.create("pr_42", TABLES)

    run(
        engine,
        "create table gold__pr_42.revenue as select 2 as amount",
        "create view gold__pr_42.visits as select 1 as n",
    )
    assert branches.built("pr_42") == [Name("gold", "revenue"), Name("gold", "visits")]
    assert branches.built("other") == []
    found = {branch.name: branch for branch in branches.branches()}
    assert [*found] == ["pr_42", "other"]
    assert (found["pr_42"].tables, found["pr_42"].expires, found["other"].tables) == (2, expires, 0)

    branches.extend("pr_42", {**TABLES, Name("metrics", "new"): True})
    branches.extend("pr_42", {**TABLES, Name("metrics", "new"): True})
    assert "metrics__pr_42" in schemas(engine)
    assert {branch.name: branch.expires for branch in branches.branches()}["pr_42"] == expires

    assert branches.drop("pr_42") == 2
    assert branches.drop("pr_42") == 0
    assert schemas(engine) == {"gold__other"}
    assert run(engine, "select amount from gold.revenue") == [(1,)]
    for use in (branches.built, lambda name: branches.extend(name, TABLES)):
        with pytest.raises(BranchError, match="There is no branch pr_42"):
            use("pr_42")


def test_a_schema_that_is_not_of_a_branch_is_neither_used_nor_dropped(engine: OnDuckDB | OnPostgres) -> None:
    run(engine, "create schema gold__pr_42", "create table gold__pr_42.mine as select 1 as n")
    branches = SchemaBranches(engine, "The engine")
    with pytest.raises(BranchError, match="needs the schema gold__pr_42, which exists and is not of a branch"):
        branches.create("pr_42", TABLES)
    assert schemas(engine) == {"gold__pr_42"}  # also not silver__pr_42
    assert branches.branches() == []
    assert branches.drop("pr_42") == 0

    branches.create("pr_42", {Name("silver", "orders"): True})
    with pytest.raises(BranchError, match="needs the schema gold__pr_42, which exists"):
        branches.extend("pr_42", TABLES)
    branches.drop("pr_42")
    assert schemas(engine) == {"gold__pr_42"}
    assert run(engine, "select n from gold__pr_42.mine") == [(1,)]


def test_expired_branches_are_dropped(engine: OnDuckDB | OnPostgres) -> None:
    branches = SchemaBranches(engine, "The engine")
    now = dt.datetime.now(dt.UTC)
    branches.create("old", TABLES, expires=now - dt.timedelta(seconds=1))
    branches.create("new", TABLES, expires=now + dt.timedelta(days=1))
    assert remove_dead_branches(branches) == ["old"]
    assert schemas(engine) == {"silver__new", "gold__new"}


def test_what_dbt_creates_after_a_drop_is_dropped(engine: OnDuckDB | OnPostgres) -> None:
    branches = SchemaBranches(engine, "The engine")
    branches.create("pr_42", TABLES)
    assert not branches.drop_remains("pr_42", TABLES)
    assert schemas(engine) == {"silver__pr_42", "gold__pr_42"}
    branches.drop("pr_42")
    run(engine, "create schema gold__pr_42", "create table gold__pr_42.revenue as select 2 as amount")
    assert branches.drop_remains("pr_42", TABLES)
    assert schemas(engine) == set()


def test_nothing_is_published_or_rolled_back(engine: OnDuckDB | OnPostgres) -> None:
    branches = SchemaBranches(engine, "The engine")
    branches.create("pr_42", TABLES)
    with pytest.raises(RefusedError, match="Merge the change, build production"):
        branches.publish("pr_42", [*TABLES], "pr_42")
    with pytest.raises(BranchError, match="only runs with LAKEHOUSE_PUBLISH=run can"):
        branches.rollback("1a2b3c4d")
    with pytest.raises(BranchError, match="cannot be published"):
        branches.create("run_1a2b3c4d", TABLES, kind="run")


def test_on_postgres_no_view_of_others_is_dropped(server: PostgresServer) -> None:
    engine = OnPostgres(server, server.new_database())
    branches = SchemaBranches(engine, "PostgreSQL")
    branches.create("pr_42", TABLES)
    run(
        engine,
        "create table gold__pr_42.revenue as select 2 as amount",
        "create view silver__pr_42.own as select * from gold__pr_42.revenue",
        "create materialized view gold__pr_42.totals as select sum(amount) from gold__pr_42.revenue",
        "create schema reports",
        "create view reports.theirs as select * from gold__pr_42.revenue",
    )
    assert Name("gold", "totals") in branches.built("pr_42")
    with pytest.raises(DatabaseError, match=r"which read their tables: reports\.theirs\. Drop these views first"):
        branches.drop("pr_42")
    assert [branch.tables for branch in branches.branches()] == [3]
    run(engine, "drop view reports.theirs")
    assert branches.drop("pr_42") == 3
    assert schemas(engine) == set()


def test_on_postgres_names_that_would_be_cut_are_refused(server: PostgresServer) -> None:
    engine = OnPostgres(server, server.new_database())
    branches, name = SchemaBranches(engine, "PostgreSQL"), "b" * 48
    with pytest.raises(BranchError, match="and PostgreSQL limits names to 63 bytes"):
        branches.create(name, {Name("s" * 14, "t"): True})
    branches.create(name, {Name("s" * 13, "t"): True})
    assert schemas(engine) == {f"{'s' * 13}__{name}"}


def test_nothing_is_left_of_a_branch_that_cannot_be_recorded(server: PostgresServer) -> None:
    """Here each statement is its own transaction, as on Trino."""
    engine = EachStatement(server, server.new_database())
    run(
        engine, f"create schema {schema_records.SCHEMA}", f"create table {schema_records.SCHEMA}.branch_schemas (n int)"
    )
    with pytest.raises(DatabaseError, match='column "branch" does not exist'):
        SchemaBranches(engine, "PostgreSQL").create("pr_42", TABLES)
    run(engine, f"drop table {schema_records.SCHEMA}.branch_schemas")
    # The record cannot be written: a user without the right to create the table.
    engine.unwritable = True
    with pytest.raises(DatabaseError, match="refused"):
        SchemaBranches(engine, "PostgreSQL").create("pr_42", TABLES)
    assert schemas(engine) == set()


@pytest.mark.parametrize("statements", range(9))
def test_a_branch_can_be_created_after_a_process_was_killed_that_was_creating_it(
    server: PostgresServer, statements: int
) -> None:
    engine = EachStatement(server, server.new_database())
    branches = SchemaBranches(engine, "PostgreSQL")
    engine.statements = statements
    # Create the table of the records and its schema, record the plan, create two schemas, record them, remove the plan.
    if statements < 7:
        with pytest.raises(KilledError):
            branches.create("pr_42", TABLES)
    else:
        branches.create("pr_42", TABLES)
    engine.statements = None
    run(engine, "create schema gold__other")
    with pytest.raises(BranchError, match="gold__other, which exists and is not of a branch"):
        branches.create("other", TABLES)
    if statements < 6:
        assert branches.branches() == []
        branches.create("pr_42", TABLES)
    assert [branch.name for branch in branches.branches()] == ["pr_42"]
    branches.drop("pr_42")
    assert schemas(engine) == {"gold__other"}
    assert run(engine, f"select * from {schema_records.SCHEMA}.branch_schemas") == []


def killed_after_one_schema(server: PostgresServer) -> tuple[EachStatement, SchemaBranches]:
    """A database in which a process was killed that had created the first schema of the branch pr_42."""
    engine = EachStatement(server, server.new_database())
    branches = SchemaBranches(engine, "PostgreSQL")
    engine.statements = 4
    with pytest.raises(KilledError):
        branches.create("pr_42", TABLES)
    engine.statements = None
    return engine, branches


def test_a_creation_that_fails_after_a_killed_one_does_not_block_the_name_either(server: PostgresServer) -> None:
    engine, branches = killed_after_one_schema(server)
    assert schemas(engine) == {"gold__pr_42"}
    run(engine, refusing("CREATE SCHEMA", "silver__pr_42"))
    with pytest.raises(DatabaseError, match="refused"):
        branches.create("pr_42", TABLES)
    assert schemas(engine) == set()
    run(engine, "drop event trigger refusing")
    branches.create("pr_42", TABLES)
    assert [branch.name for branch in branches.branches()] == ["pr_42"]


def test_a_schema_that_somebody_uses_is_not_part_of_a_branch_although_it_was_planned(server: PostgresServer) -> None:
    engine, branches = killed_after_one_schema(server)
    run(engine, "create table gold__pr_42.mine as select 1 as n")
    with pytest.raises(BranchError, match="gold__pr_42, which exists and is not of a branch"):
        branches.create("pr_42", TABLES)
    assert schemas(engine) == {"gold__pr_42"}


BRANCHES, SCHEMAS = ("a", "b"), ("x", "y")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "build", "drop", "extend", "by hand"]),
        st.sampled_from(BRANCHES),
        st.sampled_from(SCHEMAS),
        st.sampled_from(["t", "u"]),
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_histories(steps: list[tuple[str, str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """After any history, each branch has what was built on it, and what people have made is still there."""
    engine = OnDuckDB(tmp_path_factory.mktemp("history") / "lake.duckdb")
    branches = SchemaBranches(engine, "DuckDB")
    run(engine, "create schema x")
    of: dict[str, set[str]] = {}  # the schemas of each branch
    built: set[tuple[str, str, str]] = set()
    by_hand: set[str] = set()
    for step, branch, schema, table in steps:
        on_branch, wanted = f"{schema}__{branch}", {Name(schema, table): True}
        taken = on_branch in by_hand
        try:
            if step == "create":
                branches.create(branch, wanted)
                assert branch not in of
                assert not taken
                of[branch] = {schema}
            elif step == "extend":
                branches.extend(branch, wanted)
                assert branch in of
                assert not taken
                of[branch].add(schema)
            elif step == "drop":
                assert branches.drop(branch) == len({one for one in built if one[0] == branch})
                of.pop(branch, None)
                built = {one for one in built if one[0] != branch}
            elif step == "build" and schema in of.get(branch, ()):
                run(engine, f"create or replace table {on_branch}.{table} as select 1 as n")
                built.add((branch, schema, table))
            elif step == "by hand" and not taken and schema not in of.get(branch, ()):
                run(engine, f"create schema {on_branch}", f"create table {on_branch}.mine as select 1 as n")
                by_hand.add(on_branch)
        except BranchError:
            assert step in ("create", "extend")
            assert taken or (branch in of) == (step == "create")
        assert schemas(engine) == by_hand | {f"{one}__{name}" for name, own in of.items() for one in own}
        for name in of:
            assert {*branches.built(name)} == {Name(one, t) for b, one, t in built if b == name}
    for schema in by_hand:
        assert run(engine, f"select n from {schema}.mine") == [(1,)]
