"""The key `serve` of a contract: where a copy of a model's table is kept for dashboards."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from lakehouse_analytics.common.text import brief
from lakehouse_analytics.contract.arrivals import ColumnNames
from lakehouse_analytics.contract.base import Section, TableElsewhere


class Serve(Section):
    """A copy of the model's table in ClickHouse or PostgreSQL. It is replaced as a whole."""

    to: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]*$",
        description="Name of the connection: LAKEHOUSE_CONNECTION_<NAME> has its address, such as "
        "clickhouse://user:password@host/database, chdb:///path/to/folder or postgresql://user:password@host/database.",
    )
    table: TableElsewhere = Field(
        description="Name of the copy: <table> or <schema>.<table>. ClickHouse calls a schema a database. "
        "Default of the schema: the database of the connection, or `public` in PostgreSQL."
    )
    key: ColumnNames = Field(
        (),
        description="Columns by which dashboards filter: ClickHouse sorts the rows by them (ORDER BY), PostgreSQL has "
        "an index on them.",
    )

    @field_validator("key")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({column for column in value if value.count(column) > 1})
        if twice:
            raise ValueError(f"column {brief(twice[0])} is listed twice")
        return value

    @property
    def schema_name(self) -> str | None:
        """The schema of the copy; None for the default of the connection."""
        schema, dot, _ = self.table.rpartition(".")
        return schema if dot else None

    @property
    def table_name(self) -> str:
        """The name of the copy without its schema."""
        return self.table.rpartition(".")[2]


class ServeOfExposure(Serve):
    """A copy of the table of a model that the exposure depends on, in ClickHouse or PostgreSQL."""

    model: str | None = Field(
        None,
        min_length=1,
        description="The model, seed or snapshot whose table is copied, such as daily_revenue, or dim_customer.v2 if "
        "it has versions. Default: the only one that the exposure depends on.",
    )


def _serves(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


#: One export of a model, or several. Always a tuple once validated.
Serves = Annotated[tuple[Serve, ...], BeforeValidator(_serves, json_schema_input_type=Serve | list[Serve])]


class ExposureContract(Section):
    """The contract of an exposure."""

    serve: Annotated[
        tuple[ServeOfExposure, ...],
        BeforeValidator(_serves, json_schema_input_type=ServeOfExposure | list[ServeOfExposure]),
    ] = Field(
        (),
        description="A copy of the table of a model that the exposure depends on, in ClickHouse or PostgreSQL, or a "
        "list of them. Made after each build. The owner of the exposure is the owner of the copy.",
    )
