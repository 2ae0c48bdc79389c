"""The nodes of a dbt manifest as objects with typed attributes for the keys that this package reads.

Pure: no Dagster, no dbt. `manifest_shape` checks the JSON types of the same keys first, and a test verifies that the
two lists match. Other keys, two thirds of a manifest, are not retained, because nodes live as long as the process.
Format: https://docs.getdbt.com/reference/artifacts/manifest-json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Sections of a manifest that contain no nodes.
NO_NODES = frozenset(
    {"metadata", "macros", "docs", "groups", "selectors", "disabled", "parent_map", "child_map", "group_map"}
)
_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is documented in a dbt project."""

    name: str
    data_type: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of a node. Values that dbt does not validate have the type `Any`.

    Attributes:
        materialized: The materialization: `table`, `view`, `incremental`, `ephemeral`, …
        incremental_strategy: How an incremental model adds rows. Empty for the adapter's default.
        on_table_exists: What dbt-trino does with the existing table.
        event_time: The column with the time of each row.
        begin: The time of the earliest rows.
        batch_size: The size of the batches of a microbatch model.
        full_refresh: Whether dbt rebuilds the table in every run.
        on_schema_change: What dbt does with new and removed columns.
        unique_key: The column or columns by which rows are merged.
        severity: For a test, `error` or `warn`, in upper or lower case.
        contract_enforced: Whether dbt enforces the model's columns and types.
        post_hooks: SQL that dbt runs after the node.
    """

    materialized: str = ""
    incremental_strategy: str = ""
    on_table_exists: str | None = None
    event_time: str | None = None
    begin: Any = None
    batch_size: Any = None
    full_refresh: Any = None
    on_schema_change: Any = None
    unique_key: Any = None
    severity: Any = None
    contract_enforced: bool = False
    post_hooks: tuple[str, ...] = ()

    @property
    def is_incremental(self) -> bool:
        """Whether a build adds to the table instead of replacing it."""
        return self.materialized == "incremental"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a manifest, of any resource type. Attributes that do not apply to the type are empty or None.

    Attributes:
        unique_id: dbt's unique id, such as `model.shop.orders`.
        resource_type: dbt's resource type: `model`, `seed`, `source`, `test`, …
        name: dbt's name, without the version.
        package_name: The project or package that defines it.
        fqn: The package, the folders, the name and, for a versioned model, the version.
        original_file_path: The file that defines it, relative to the project. Empty for a model of another project.
        patch_path: The YAML file that documents it, relative to its package.
        description: The description.
        meta: `meta`, which dbt stores in `config` since 1.10.
        tags: dbt's tags.
        group: dbt's group.
        version: The version of a versioned model.
        latest_version: The version to which a reference without a version resolves.
        database: The database, or the catalog in Trino.
        schema: The schema.
        alias: The name of a table that a run builds.
        identifier: The name of a source table in the database.
        relation_name: The full name of the table, quoted for its engine.
        columns: The documented columns.
        language: `sql` or `python`.
        raw_code: The code as written.
        checksum: The hash of the code.
        config: The configuration.
        depends_on: Unique ids of the nodes that it reads directly.
        attached_node: For a generic test, the node whose YAML declares it.
        source_name: For a source table, the name of the source.
        source_meta: For a source table, `meta` of the source.
        freshness: For a source table, `warn_after` and `error_after`.
        is_foreign: Whether a plugin such as dbt-loom injected the model from another project.
    """

    unique_id: str
    resource_type: str
    name: str
    package_name: str = ""
    fqn: tuple[str, ...] = ()
    original_file_path: str = ""
    patch_path: str = ""
    description: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    group: str | None = None
    version: str | float | None = None
    latest_version: str | float | None = None
    database: str | None = None
    schema: str = ""
    alias: str | None = None
    identifier: str | None = None
    relation_name: str = ""
    columns: tuple[Column, ...] = ()
    language: str | None = None
    raw_code: str | None = None
    checksum: str | None = None
    config: Config = Config()
    depends_on: tuple[str, ...] = ()
    attached_node: str | None = None
    source_name: str = ""
    source_meta: Mapping[str, Any] = field(default_factory=dict)
    freshness: Mapping[str, Any] = field(default_factory=dict)
    is_foreign: bool = False

    @property
    def table_name(self) -> str:
        """The name of the table in the database."""
        return self.identifier or self.alias or self.name

    @property
    def full_name(self) -> str:
        """The unique name among the nodes of its type in a package: `source.table` for a source, otherwise the name."""
        return f"{self.source_name}.{self.name}" if self.resource_type == "source" else self.name

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that contain its file, below the folder of the resource type."""
        return self.fqn[1 : -1 if self.version is None else -2]

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the project that may configure it, the most specific first."""
        files = (self.patch_path, self.original_file_path, "dbt_project.yml")
        return tuple(dict.fromkeys(file for file in files if file))

    @property
    def label(self) -> str:
        """The files and the node, at the start of an error: `models/orders.sql or dbt_project.yml: model orders`."""
        return f"{' or '.join(self.files)}: {self.resource_type} {self.full_name}"


@dataclass(frozen=True, slots=True)
class Exposure(Node):
    """A dashboard, a notebook or another reader of the lakehouse.

    Attributes:
        type: dbt's type: `dashboard`, `notebook`, `analysis`, `ml` or `application`.
        title: dbt's `label`.
        url: The URL at which it can be opened.
        owner: `name` and `email`, which may be a list.
        maturity: `high`, `medium` or `low`.
    """

    type: str = ""
    title: str | None = None
    url: str | None = None
    owner: Mapping[str, Any] = field(default_factory=dict)
    maturity: str | None = None


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro of the project or of a package.

    Attributes:
        name: The name of the macro.
        package_name: The project or package that defines it.
        atomic: The value of `meta.lakehouse.atomic`.
    """

    name: str
    package_name: str
    atomic: bool = False


@dataclass(frozen=True)
class Manifest:
    """The parts of a manifest that are read.

    Attributes:
        project_name: dbt's name of the project.
        adapter_type: The adapter that the manifest was made for.
        nodes: The nodes of all sections by unique id, including those of sections added by a later dbt.
        macros: All macros.
        group_owners: The email address, or addresses, of the owner of each dbt group.
    """

    project_name: str
    adapter_type: str
    nodes: Mapping[str, Node]
    macros: Sequence[Macro] = ()
    group_owners: Mapping[str, Any] = field(default_factory=dict)

    def of_type(self, *resource_types: str) -> Iterator[Node]:
        """Return the nodes of some resource types, in the order of the manifest."""
        return (node for node in self.nodes.values() if node.resource_type in resource_types)

    @property
    def exposures(self) -> dict[str, Exposure]:
        """The exposures by unique id."""
        return {unique_id: node for unique_id, node in self.nodes.items() if isinstance(node, Exposure)}


def manifest_of(raw: Mapping[str, Any]) -> Manifest:
    """Read a manifest.

    Args:
        raw: dbt's `manifest.json`, loaded and checked by `manifest_shape.check`.
    """
    metadata = raw["metadata"]
    nodes = {
        unique_id: node_of(entry)
        for section, entries in raw.items()
        if section not in NO_NODES and isinstance(entries, Mapping)
        for unique_id, entry in entries.items()
        if isinstance(entry, Mapping) and "resource_type" in entry
    }
    return Manifest(
        project_name=str(metadata.get("project_name")),
        adapter_type=metadata.get("adapter_type") or "dbt",
        nodes=nodes,
        macros=[_macro(entry) for entry in (raw.get("macros") or {}).values()],
        group_owners={
            group["name"]: (group.get("owner") or {}).get("email") for group in raw.get("groups", {}).values()
        },
    )


def node_of(entry: Mapping[str, Any]) -> Node:
    """Read one node.

    Args:
        entry: The node's object in the manifest.
    """
    resource_type = entry["resource_type"]
    if resource_type == "model" and has_no_file(entry):
        return _foreign(entry)
    return _READERS.get(resource_type, _other)(entry)


def has_no_file(entry: Mapping[str, Any]) -> bool:
    """Return whether a plugin such as dbt-loom injected the model from another project.

    dbt itself tests the same (`is_external_node`).
    """
    return not any((entry.get("original_file_path"), entry.get("path")))


def _table(entry: Mapping[str, Any]) -> Node:
    get = entry.get
    return Node(
        **_resource(entry),
        **_relation(entry),
        **_versions(entry),
        alias=get("alias"),
        relation_name=get("relation_name") or "",
        language=get("language"),
        raw_code=get("raw_code"),
        checksum=(get("checksum") or _EMPTY).get("checksum"),
    )


def _test(entry: Mapping[str, Any]) -> Node:
    # There are at least three tests per table, so keys that they share with tables but that are not used are not read.
    return Node(**_documented(entry), **_files(entry), attached_node=entry.get("attached_node"))


def _source(entry: Mapping[str, Any]) -> Node:
    get = entry.get
    return Node(
        **_resource(entry),
        **_relation(entry),
        source_name=entry["source_name"],
        identifier=get("identifier"),
        source_meta=get("source_meta") or _EMPTY,
        freshness=get("freshness") or _EMPTY,
    )


def _exposure(entry: Mapping[str, Any]) -> Exposure:
    get = entry.get
    return Exposure(
        **_resource(entry),
        type=entry["type"],
        title=get("label"),
        url=get("url"),
        owner=get("owner") or _EMPTY,
        maturity=get("maturity"),
    )


def _foreign(entry: Mapping[str, Any]) -> Node:
    return Node(**_documented(entry), **_packaged(entry), **_versions(entry), is_foreign=True)


def _function(entry: Mapping[str, Any]) -> Node:
    return Node(**_minimum(entry), fqn=tuple(entry["fqn"]), original_file_path=entry["original_file_path"])


def _other(entry: Mapping[str, Any]) -> Node:
    return Node(**_minimum(entry))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Node]] = {
    **dict.fromkeys(("model", "seed", "snapshot"), _table),
    "test": _test,
    "source": _source,
    "exposure": _exposure,
    "function": _function,
}


def _minimum(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "unique_id": entry["unique_id"],
        "resource_type": entry["resource_type"],
        "name": entry["name"],
        "depends_on": tuple((entry.get("depends_on") or _EMPTY).get("nodes") or ()),
    }


def _documented(entry: Mapping[str, Any]) -> dict[str, Any]:
    get = entry.get
    config = get("config") or _EMPTY
    return {
        **_minimum(entry),
        "description": get("description") or "",
        "meta": config.get("meta") or get("meta") or _EMPTY,
        "group": get("group") or config.get("group") or None,
        "config": _config(config),
    }


def _files(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "original_file_path": entry["original_file_path"],
        "patch_path": (entry.get("patch_path") or "").split("://")[-1],
    }


def _packaged(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"package_name": entry["package_name"], "fqn": tuple(entry["fqn"])}


def _resource(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**_documented(entry), **_files(entry), **_packaged(entry), "tags": tuple(entry.get("tags") or ())}


def _relation(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "database": entry.get("database"),
        "schema": entry["schema"],
        "columns": tuple(_column(column) for column in (entry.get("columns") or _EMPTY).values()),
    }


def _versions(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": entry.get("version"), "latest_version": entry.get("latest_version")}


def _config(entry: Mapping[str, Any]) -> Config:
    get = entry.get
    hooks = get("post-hook") or ()
    return Config(
        materialized=get("materialized") or "",
        incremental_strategy=get("incremental_strategy") or "",
        on_table_exists=get("on_table_exists"),
        event_time=get("event_time") or None,
        begin=get("begin"),
        batch_size=get("batch_size"),
        full_refresh=get("full_refresh"),
        on_schema_change=get("on_schema_change"),
        unique_key=get("unique_key"),
        severity=get("severity"),
        contract_enforced=bool((get("contract") or _EMPTY).get("enforced")),
        post_hooks=tuple(hook["sql"] if isinstance(hook, Mapping) else str(hook) for hook in hooks),
    )


def _column(entry: Mapping[str, Any]) -> Column:
    get = entry.get
    return Column(entry["name"], get("data_type"), get("description"), tuple(get("tags") or ()))


def _macro(entry: Mapping[str, Any]) -> Macro:
    contract = (entry.get("meta") or _EMPTY).get("lakehouse") or _EMPTY
    return Macro(entry["name"], entry["package_name"], contract.get("atomic") is True)
