-- Runs at every `up` and changes only what is missing; passwords follow the credentials file.
\set ON_ERROR_STOP on
\getenv dagster_password DAGSTER_DB_PASSWORD
\getenv iceberg_password ICEBERG_DB_PASSWORD
set client_min_messages = warning;

select format('create role %I login', name)
from (values ('dagster'), ('iceberg')) as wanted (name)
where name not in (select rolname from pg_roles) \gexec
alter role dagster password :'dagster_password';
alter role iceberg password :'iceberg_password';

select format('create database %I owner %I', name, name)
from (values ('dagster'), ('iceberg')) as wanted (name)
where name not in (select datname from pg_database) \gexec
revoke connect on database dagster, iceberg from public;

-- Neither Trino nor pyiceberg makes the catalog's tables here. Columns: Iceberg's JdbcUtil, schema version V1.
\connect iceberg
set client_min_messages = warning;
set role iceberg;
create table if not exists iceberg_tables (
    catalog_name varchar(255) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    primary key (catalog_name, table_namespace, table_name)
);
create table if not exists iceberg_namespace_properties (
    catalog_name varchar(255) not null,
    namespace varchar(255) not null,
    property_key varchar(255) not null,
    property_value varchar(1000),
    primary key (catalog_name, namespace, property_key)
);
