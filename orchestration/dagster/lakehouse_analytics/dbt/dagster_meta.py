"""`meta.dagster`, the configuration of dagster-dbt in a dbt project, read as dagster-dbt reads it.

Pure: no Dagster, no dbt. The keys and their meaning are those of `dagster_dbt/asset_utils.py` in dagster-dbt 0.29, so a
project that uses it keeps its asset keys, groups and owners, and its singular tests stay attached to the same assets.
https://docs.dagster.io/integrations/libraries/dbt/reference#customizing-asset-definition-attributes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lakehouse_analytics.common.names import is_group_name
from lakehouse_analytics.common.text import brief, shortened
from lakehouse_analytics.contract.models import is_owner
from lakehouse_analytics.dbt.nodes import Node

Key = tuple[str, ...]

_OF_ASSETS = frozenset({"asset_key", "group", "owners"})
#: The keys that are read, by resource type. Other types have `_OF_ASSETS`.
_KEYS = {
    "test": frozenset({"ref"}),
    **dict.fromkeys(("model", "seed", "snapshot"), _OF_ASSETS | {"auto_materialize_policy"}),
}


@dataclass(frozen=True)
class Ref:
    """A reference to the model to which a singular test is attached.

    Attributes:
        name: The name of the model.
        package: The package of the model. Default: the project itself.
        version: The version of the model. Default: the latest.
    """

    name: str
    package: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """The reference as messages name it, such as `billing.invoices.v2`."""
        name = f"{brief(self.package)}.{brief(self.name)}" if self.package else brief(self.name)
        return f"{name}.v{brief(self.version)}" if self.version else name


@dataclass(frozen=True)
class DagsterMeta:
    """`meta.dagster` of one node.

    Attributes:
        asset_key: The asset key. Default: `[layer, model]` or `[source, table]`.
        group: The asset group. Default: dbt's group or the layer.
        owners: Email addresses and `team:<name>`.
        eager: Whether the asset is rebuilt as soon as an upstream asset is.
        ref: For a singular test, the model to which it is attached.
        unread: Keys that have no effect, neither here nor in dagster-dbt's own translator.
    """

    asset_key: Key | None = None
    group: str | None = None
    owners: tuple[str, ...] = ()
    eager: bool = False
    ref: Ref | None = None
    unread: tuple[str, ...] = ()


_NOTHING = DagsterMeta()


def read_meta(node: Node) -> tuple[DagsterMeta, list[str]]:
    """Read `meta.dagster` of a node.

    Returns:
        The configuration, and a list of problems in whole sentences. dagster-dbt refuses the same values.
    """
    raw = node.meta.get("dagster")
    if raw is None:
        return _NOTHING, []
    if not isinstance(raw, Mapping):
        return DagsterMeta(), [f"meta.dagster must be a mapping, not {type(raw).__name__}"]
    known = _KEYS.get(node.resource_type, _OF_ASSETS)
    reading = _Reading({key: value for key, value in raw.items() if key in known})
    read = DagsterMeta(reading.asset_key(), reading.group(), reading.owners(), reading.eager(), reading.ref())
    unread = (*(brief(key) for key in raw if key not in known), *reading.unread)
    return replace(read, unread=unread), reading.problems


class _Reading:
    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.problems: list[str] = []
        self.unread: list[str] = []

    def asset_key(self) -> Key | None:
        value = self.raw.get("asset_key")
        parts = [value] if isinstance(value, str) else value
        if not value:
            return None
        if isinstance(parts, list) and all(isinstance(part, str) and part for part in parts):
            return tuple(parts)
        self._wrong("asset_key", "the parts of an asset key, such as [warehouse, orders]")
        return None

    def group(self) -> str | None:
        value = self.raw.get("group")
        if not value:
            return None
        if isinstance(value, str) and is_group_name(value):
            return value
        self._wrong("group", "ASCII letters, digits and _, in segments separated by /")
        return None

    def owners(self) -> tuple[str, ...]:
        value = self.raw.get("owners") or []
        owners = value if isinstance(value, list) else [value]
        for owner in owners:
            if not is_owner(owner):
                self.problems.append(
                    f"meta.dagster.owners has {shortened(owner)}: expected an email address or team:<name>"
                )
        return tuple(owner for owner in owners if is_owner(owner))

    def eager(self) -> bool:
        value = self.raw.get("auto_materialize_policy")
        if not value:
            return False
        kind = value.get("type") if isinstance(value, Mapping) else None
        if kind not in ("eager", "lazy"):
            self._wrong("auto_materialize_policy", "{type: eager}")
        if kind == "lazy":
            self.unread.append("auto_materialize_policy.type: lazy")
        return kind == "eager"

    def ref(self) -> Ref | None:
        value = self.raw.get("ref")
        if not value:
            return None
        parts = {"name": value} if isinstance(value, str) else value
        if isinstance(parts, Mapping) and isinstance(parts.get("name"), str):
            # `v` is an argument of dbt's `ref()`, and `package_name` a key of manifests.
            package = parts.get("package") or parts.get("package_name")
            version = parts.get("version", parts.get("v"))
            return Ref(parts["name"], str(package) if package else None, None if version is None else str(version))
        self._wrong("ref", "a model's name, or a mapping with name, package and version")
        return None

    def _wrong(self, key: str, expected: str) -> None:
        self.problems.append(f"meta.dagster.{key} is {shortened(self.raw[key])}: expected {expected}")
