"""A compiled manifest as objects with typed attributes. Pure.

The objects of `dbt.nodes` live as long as the process, so they copy only what is read. These are views of dbt's JSON,
because a comparison needs most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: The nodes that have rows, apart from sources.
WITH_ROWS = ("model", "seed", "snapshot")


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that should be a mapping; an empty one if it is not."""
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class CompiledColumn:
    """A column that is documented in the project.

    Attributes:
        entry: Its object in the manifest.
    """

    entry: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name as it is written."""
        return str(self.entry["name"])

    @property
    def is_quoted(self) -> bool:
        """Whether SQL has to quote the name."""
        return bool(self.entry.get("quote"))

    @property
    def data_type(self) -> str | None:
        """The declared type."""
        return self.entry.get("data_type")

    @property
    def constraints(self) -> Sequence[Mapping[str, Any]]:
        """The declared constraints."""
        return self.entry.get("constraints") or ()


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node of any resource type. Attributes that do not apply to the type are empty or None.

    Attributes:
        entry: Its object in the manifest.
    """

    entry: Mapping[str, Any]

    @property
    def resource_type(self) -> str:
        """dbt's resource type: `model`, `seed`, `source`, `test`, …"""
        return str(self.entry["resource_type"])

    @property
    def name(self) -> str:
        """dbt's name."""
        return str(self.entry["name"])

    @property
    def source_name(self) -> str:
        """For a source table, the name of the source."""
        return str(self.entry.get("source_name") or "")

    @property
    def parents(self) -> Sequence[str]:
        """The unique ids of the nodes that dbt says it depends on."""
        return mapping(self.entry.get("depends_on")).get("nodes") or ()

    @property
    def compiled_code(self) -> str:
        """The compiled SQL. Empty if dbt did not compile it."""
        return self.entry.get("compiled_code") or ""

    @property
    def raw_code(self) -> str:
        """The code as written."""
        return self.entry.get("raw_code") or ""

    @property
    def code(self) -> str:
        """The compiled SQL, or else the code as written."""
        return self.compiled_code or self.raw_code

    @property
    def checksum(self) -> Any:
        """dbt's checksum of the file."""
        return self.entry.get("checksum")

    @property
    def is_python(self) -> bool:
        """Whether it is a model in Python."""
        return self.entry.get("language") == "python"

    @property
    def relation(self) -> tuple[str | None, str | None, str | None]:
        """Its database, schema and table as the manifest names them."""
        return self.entry.get("database"), self.entry.get("schema"), self._table

    @property
    def table_name(self) -> str:
        """The name of the table in the database."""
        return self._table or self.name

    @property
    def _table(self) -> str | None:
        return self.entry.get("identifier") or self.entry.get("alias")

    @property
    def columns(self) -> Mapping[str, CompiledColumn]:
        """The documented columns, by name."""
        return {name: CompiledColumn(column) for name, column in (self.entry.get("columns") or {}).items()}

    @property
    def constraints(self) -> Sequence[Mapping[str, Any]] | None:
        """The constraints of several columns."""
        return self.entry.get("constraints")

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, whose keys depend on the adapter."""
        return mapping(self.entry.get("config"))

    @property
    def is_contract_enforced(self) -> bool:
        """Whether dbt enforces the columns and their types."""
        return bool(mapping(self.config.get("contract")).get("enforced"))

    @property
    def lakehouse(self) -> Mapping[str, Any]:
        """`meta.lakehouse` of the node."""
        return mapping(mapping(self.config.get("meta") or self.entry.get("meta")).get("lakehouse"))

    @property
    def group(self) -> str:
        """dbt's group."""
        return self.config.get("group") or ""

    @property
    def owner(self) -> Any:
        """For an exposure, the name and the addresses of its owner."""
        return self.entry.get("owner")

    @property
    def attached_node(self) -> str | None:
        """For a generic test, the node whose YAML declares it."""
        return self.entry.get("attached_node")

    @property
    def tested_column(self) -> str:
        """For a generic test of a column, the name of the column."""
        return self.entry.get("column_name") or ""

    @property
    def given(self) -> Sequence[Mapping[str, Any]]:
        """For a unit test, its inputs."""
        return self.entry.get("given") or ()

    @property
    def expected_rows(self) -> Any:
        """For a unit test, the rows that it expects, in one of dbt's formats."""
        return mapping(self.entry.get("expect")).get("rows")

    def expressions(self, parts: Iterable[str]) -> list[str]:
        """Return the expressions in parts of a semantic model, such as `measures`. Most are names of columns."""
        items = (item for part in parts for item in self.entry.get(part) or ())
        return [str(item.get("expr") or item["name"]) for item in items]


Nodes = Mapping[str, CompiledNode]


class CompiledManifest:
    """A manifest of `dbt compile`. All nodes are by their unique ids."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        """
        Args:
            raw: dbt's `manifest.json`.
        """
        self._raw = raw

    @property
    def adapter_type(self) -> str:
        """dbt's name of the adapter."""
        return str(self._raw["metadata"]["adapter_type"])

    @cached_property
    def tables(self) -> dict[str, CompiledNode]:
        """The models, seeds, snapshots and sources."""
        return {**self._of_types(WITH_ROWS.__contains__), **self.sources}

    @cached_property
    def sources(self) -> Nodes:
        """The tables of sources."""
        return self._section("sources")

    @cached_property
    def tests(self) -> Nodes:
        """The tests, sorted by unique id."""
        return dict(sorted(self._of_types("test".__eq__).items()))

    @cached_property
    def functions(self) -> Nodes:
        """The user-defined functions."""
        return self._section("functions")

    @cached_property
    def semantic_models(self) -> Nodes:
        """The semantic models."""
        return self._section("semantic_models")

    @cached_property
    def metrics(self) -> Nodes:
        """The metrics of the semantic layer."""
        return self._section("metrics")

    @cached_property
    def saved_queries(self) -> Nodes:
        """The saved queries of the semantic layer."""
        return self._section("saved_queries")

    @cached_property
    def exposures(self) -> Nodes:
        """The exposures."""
        return self._section("exposures")

    @cached_property
    def unit_tests(self) -> Nodes:
        """The unit tests."""
        return self._section("unit_tests")

    @cached_property
    def group_owners(self) -> dict[str, Any]:
        """The owner of each dbt group, by the name of the group."""
        return {group.name: group.owner for group in self._section("groups").values()}

    def _section(self, name: str) -> dict[str, CompiledNode]:
        return {unique_id: CompiledNode(entry) for unique_id, entry in (self._raw.get(name) or {}).items()}

    def _of_types(self, is_wanted: Callable[[str], bool]) -> dict[str, CompiledNode]:
        return {unique_id: node for unique_id, node in self._section("nodes").items() if is_wanted(node.resource_type)}
