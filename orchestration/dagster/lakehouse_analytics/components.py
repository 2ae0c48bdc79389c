"""Components: the keys of `meta.lakehouse`, for those who prefer a `defs.yaml` to dbt's YAML.

A component has the keys of the contract, and the name of the dbt resource that it is about. It makes no definitions of
its own: `with_components` adds it to the contracts of the dbt project, so that both have one implementation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import dagster as dg
from pydantic import BaseModel, Field, field_validator, model_validator

from lakehouse_analytics.common.text import suggestion
from lakehouse_analytics.contract.arrivals import FileArrival, TableArrival
from lakehouse_analytics.contract.exports import Serve
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph

_SOURCE = "The table of a dbt source that is filled, such as shop.orders."


class FileLandingModel(FileArrival):
    """The attributes of `FileLanding`."""

    source: str = Field(description=_SOURCE)

    @field_validator("files")
    @classmethod
    def _one_date(cls, value: str) -> str:
        return value  # it may have templates; `load` checks it once they are replaced

    @model_validator(mode="after")
    def _complete(self) -> Self:
        return self


class TableSyncModel(TableArrival):
    """The attributes of `TableSync`."""

    source: str = Field(description=_SOURCE)


class PublishModel(Serve):
    """The attributes of `Publish`."""

    model: str = Field(description="The name of the dbt model whose table is copied.")


class _Arrival(dg.Component):
    """A component that fills a dbt source.

    Attributes:
        source: The name of the source's table.
        arrival: What the contract of the source would have.
    """

    contract: ClassVar[type[FileArrival | TableArrival]]

    def __init__(self, source: str, arrival: FileArrival | TableArrival) -> None:
        self.source = source
        self.arrival = arrival

    @classmethod
    @abstractmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the model that the attributes are checked with."""

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Create the component. Templates such as `{{ env.BUCKET }}` are replaced in texts."""
        values = _resolved(attributes, context)
        return cls(values.pop("source"), cls.contract(**values))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """Return no definitions: the asset is made together with those of the dbt project."""
        return dg.Definitions()


class FileLanding(_Arrival):
    """Loads files from S3 or a folder into the table of a dbt source, and looks for new ones."""

    contract = FileArrival

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """See `_Arrival`."""
        return FileLandingModel


class TableSync(_Arrival):
    """Copies a table of PostgreSQL, MySQL or MariaDB into the table of a dbt source."""

    contract = TableArrival

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """See `_Arrival`."""
        return TableSyncModel


class Publish(dg.Component):
    """Keeps a copy of a model's table in ClickHouse or PostgreSQL.

    Attributes:
        model: The name of the dbt model.
        serve: What the contract of the model would have.
    """

    def __init__(self, model: str, serve: Serve) -> None:
        self.model = model
        self.serve = serve

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the model that the attributes are checked with."""
        return PublishModel

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Create the component. Templates such as `{{ env.SCHEMA }}` are replaced in texts."""
        values = _resolved(attributes, context)
        return cls(values.pop("model"), Serve(**values))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """Return no definitions: the asset is made together with those of the dbt project."""
        return dg.Definitions()


def _resolved(attributes: BaseModel | None, context: dg.ComponentLoadContext) -> dict[str, Any]:
    assert attributes is not None  # noqa: S101  # each component has a required attribute
    return dict(context.resolution_context.resolve_value(attributes.model_dump(exclude_unset=True)))


def with_components(graph: Graph, tree: dg.ComponentTree | None) -> Graph:
    """Return the graph with the contracts that components add.

    Args:
        graph: The manifest's graph.
        tree: The components of the folder `defs`; None if there are none.

    Raises:
        ContractError: A component names a source or a model that does not exist, or a source that another contract
            fills.
    """
    if tree is None:
        return graph
    arrivals: list[_Arrival] = [*tree.get_all_components(FileLanding), *tree.get_all_components(TableSync)]
    graph = _with_arrivals(graph, arrivals) if arrivals else graph
    published = tree.get_all_components(Publish)
    return _with_exports(graph, published) if published else graph


def _with_arrivals(graph: Graph, arrivals: Sequence[_Arrival]) -> Graph:
    names = {f"{one.node.source_name}.{one.node.name}": unique_id for unique_id, one in graph.sources.items()}
    sources = dict(graph.sources)
    for component in arrivals:
        kind = type(component).__name__
        if component.source not in names:
            hint = suggestion(component.source, names, others="sources")
            raise ContractError(f"{kind}: source is {component.source!r}, which the dbt project does not have; {hint}")
        source = sources[names[component.source]]
        same = [one for one in sources.values() if one.key == source.key]  # sources with one asset key are one table
        if any(one.contract.arrives or one.contract.airbyte for one in same):
            raise ContractError(
                f"{kind}: source {component.source} is filled already, by `meta.lakehouse` of the dbt source or by "
                "another component. Remove one of the two."
            )
        contract = source.contract.model_copy(update={"arrives": component.arrival})
        sources[source.unique_id] = replace(source, contract=contract)
    return replace(graph, sources=sources)


def _with_exports(graph: Graph, published: Sequence[Publish]) -> Graph:
    names = {table.name: unique_id for unique_id, table in graph.tables.items()}
    tables = dict(graph.tables)
    for component in published:
        if component.model not in names:
            hint = suggestion(component.model, names, others="models")
            raise ContractError(f"Publish: model is {component.model!r}, which the dbt project does not have; {hint}")
        table = tables[names[component.model]]
        contract = table.contract.model_copy(update={"serve": (*table.contract.serve, component.serve)})
        tables[table.unique_id] = replace(table, contract=contract)
    return replace(graph, tables=tables)
