"""The tables that a SQL catalog needs for branches, beside Iceberg's own, and the trigger that protects branches.

Iceberg's own are `iceberg_tables` and `iceberg_namespace_properties`, which Trino's JDBC catalog, Spark and pyiceberg
share. `drop table` on a copy would delete the files of the original, because Trino deletes whatever the metadata
names. It removes the catalog's row first, so the trigger can refuse it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse_analytics.branches.catalog import BranchError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

#: With this setting of a transaction, the trigger allows everything.
OURS = "set local lakehouse.branches = 'on'"
#: Locked while the tables are created: two sessions that create a table at once fail, even with `if not exists`.
_CREATING = "select pg_advisory_xact_lock(hashtext('lakehouse.branches'))"

_CREATE = """
create table if not exists lakehouse_branches (
    catalog_name varchar(255) not null,
    branch varchar(64) not null,
    kind varchar(10) not null,
    created timestamptz not null default now(),
    expires timestamptz,
    primary key (catalog_name, branch)
);
create table if not exists lakehouse_branch_schemas (
    catalog_name varchar(255) not null,
    branch varchar(64) not null,
    namespace varchar(255) not null,
    primary key (catalog_name, namespace),
    foreign key (catalog_name, branch) references lakehouse_branches on delete cascade
);
create table if not exists lakehouse_branch_tables (
    catalog_name varchar(255) not null,
    branch varchar(64) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    branch_namespace varchar(255) not null,
    base_location varchar(1000),
    is_copy boolean not null,
    passed boolean,
    primary key (catalog_name, branch, table_namespace, table_name),
    foreign key (catalog_name, branch) references lakehouse_branches on delete cascade
);
create index if not exists lakehouse_branch_tables_copies
    on lakehouse_branch_tables (catalog_name, branch_namespace, table_name);
create table if not exists lakehouse_publications (
    catalog_name varchar(255) not null,
    publication varchar(64) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    published timestamptz not null default now(),
    previous_location varchar(1000),
    previous_type varchar(5),
    metadata_location varchar(1000) not null,
    rolled_back timestamptz,
    primary key (catalog_name, publication, table_namespace, table_name)
);
create table if not exists lakehouse_dropped_tables (
    catalog_name varchar(255) not null,
    metadata_location varchar(1000) not null,
    base_location varchar(1000),
    is_view boolean not null,
    delete_after timestamptz not null default now(),
    primary key (catalog_name, metadata_location)
);
create or replace function lakehouse_protect_branches() returns trigger language plpgsql
security definer set search_path from current as $protect$
declare
    copy record;
begin
    if coalesce(current_setting('lakehouse.branches', true), '') <> 'on' then
        select branch, table_namespace into copy from lakehouse_branch_tables as t
        where t.catalog_name = old.catalog_name and t.branch_namespace = old.table_namespace
            and t.table_name = old.table_name and t.is_copy;
        if found then
            raise exception '%.% is a copy of %.% on the branch %. Dropping it would delete the files of the original.',
                old.table_namespace, old.table_name, copy.table_namespace, old.table_name, copy.branch
                using hint = format('Drop the branch instead: lakehouse branch drop %s', copy.branch);
        end if;
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end
$protect$;
create or replace trigger lakehouse_protect_dropped before delete on iceberg_tables
    for each row execute function lakehouse_protect_branches();
create or replace trigger lakehouse_protect_renamed before update on iceberg_tables
    for each row when (old.table_name <> new.table_name or old.table_namespace <> new.table_namespace)
    execute function lakehouse_protect_branches();
"""
_IS_COMPLETE = """
select count(*) = 2 from pg_trigger
where tgname in ('lakehouse_protect_dropped', 'lakehouse_protect_renamed') and tgrelid = 'iceberg_tables'::regclass
"""
_HAS_TYPES = """
select count(*) = 1 from pg_attribute where attrelid = 'iceberg_tables'::regclass and attname = 'iceberg_type'
"""


def create_tables(catalog: str, engine: Engine) -> None:
    """Create the tables and the trigger if they are missing.

    Args:
        catalog: The name of the catalog, for messages.
        engine: The database that has `iceberg_tables`.

    Raises:
        BranchError: The database is not PostgreSQL, or its user may not create them.
    """
    from sqlalchemy.exc import DBAPIError

    if engine.dialect.name != "postgresql":
        raise BranchError(
            f"The Iceberg catalog {catalog} is in {engine.dialect.name}: branches need a SQL catalog in PostgreSQL."
        )
    with engine.connect() as connection:
        if _is_complete(connection):
            return
        if not connection.exec_driver_sql(_HAS_TYPES).scalar():
            raise BranchError(
                f"The Iceberg catalog {catalog} has version 0 of the tables of SQL catalogs, without the column "
                "iceberg_type. Set iceberg.jdbc-catalog.schema-version=V1 in Trino, and run: "
                "alter table iceberg_tables add column iceberg_type varchar(5)."
            )
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(_CREATING)
            if not _is_complete(connection):
                connection.exec_driver_sql(_CREATE.replace("%", "%%"))
    except DBAPIError as error:
        line = str(error.orig).strip().splitlines()[0]
        raise BranchError(
            f"The tables for branches cannot be created in the database of the Iceberg catalog {catalog}: {line}. "
            "The user needs the right to create tables and functions, and must own iceberg_tables, because a trigger "
            "protects branches from `drop table`."
        ) from None


def has_tables(engine: Engine) -> bool:
    """Return whether the database has the tables of branches: without them, there is no branch."""
    if engine.dialect.name != "postgresql":
        return False
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("select to_regclass('lakehouse_branches') is not null").scalar())


def _is_complete(connection: Connection) -> bool:
    return bool(connection.exec_driver_sql(_IS_COMPLETE).scalar())
