"""The contracts of exposures: copies of the tables that a dashboard reads.

Pure: no Dagster, no dbt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lakehouse_analytics.common.names import some
from lakehouse_analytics.common.text import brief, shortened, suggestion
from lakehouse_analytics.contract.exports import ExposureContract, ServeOfExposure
from lakehouse_analytics.contract.models import ContractError, ModelContract, parse
from lakehouse_analytics.dbt.graph import Copy
from lakehouse_analytics.dbt.lint.findings import Finding
from lakehouse_analytics.dbt.node_use import is_table
from lakehouse_analytics.dbt.nodes import Exposure, Node

#: Returns the file and line of a key of a contract; None if it is not found.
Locate = Callable[[Sequence[object]], str | None]


def ignored_contracts(exposures: Iterable[Exposure], root: str) -> Iterator[Finding]:
    """Yield the findings about contracts of exposures of packages, which the user cannot change.

    Args:
        exposures: The exposures.
        root: dbt's name of the project.
    """
    for exposure in exposures:
        if exposure.meta.get("lakehouse") and exposure.package_name != root:
            problem = "meta.lakehouse has no effect on exposures of packages"
            yield Finding(exposure.unique_id, exposure.label, exposure.name, problem, noun="exposure")


def read_contract(
    exposure: Exposure, raw: Any, nodes: Mapping[str, Node], locate: Locate
) -> tuple[list[Copy], list[str]]:
    """Return the copies of tables that the contract of an exposure describes, and a line per mistake.

    Args:
        exposure: The exposure.
        raw: Its `meta.lakehouse`.
        nodes: All nodes by unique id.
        locate: Returns the file and line of a key of the contract.
    """
    tables = _tables(exposure, nodes)
    copies: list[Copy] = []
    problems: list[str] = []
    if isinstance(raw, Mapping):
        problems += _keys_of_models(exposure, raw, tables, locate)
        raw = {key: value for key, value in raw.items() if not _is_key_of_models(key)}
    resource = f"exposure {exposure.name}"
    try:
        contract = parse(ExposureContract, raw, resource=resource, files=exposure.files, locate=locate)
    except ContractError as error:
        return [], [*problems, str(error)]
    for number, serve in enumerate(contract.serve):
        table = _copied(serve, tables)
        if isinstance(table, Node):
            copies.append(Copy(table.unique_id, serve, exposure))
        else:
            place = locate(("serve", number)) or " or ".join(exposure.files)
            problems.append(f"{place}: {resource}: {table}")
    return copies, problems


def _keys_of_models(
    exposure: Exposure, raw: Mapping[str, Any], tables: Mapping[str, Node], locate: Locate
) -> Iterator[str]:
    """Yield the errors about keys that only models have: nothing would read them."""
    where = f"a model that it reads ({some([*tables])})" if tables else "the model"
    for key in filter(_is_key_of_models, raw):
        place = locate((key,)) or " or ".join(exposure.files)
        yield (
            f"{place}: exposure {exposure.name}: meta.lakehouse.{key} has no effect on an exposure; remove it, or move "
            f"it to {where}"
        )


def _is_key_of_models(key: object) -> bool:
    return key in ModelContract.model_fields and key not in ExposureContract.model_fields


def _tables(exposure: Exposure, nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Return the tables that an exposure depends on, by the names with which `ref` finds them."""
    found = [node for parent in exposure.depends_on if (node := nodes.get(parent)) and is_table(node)]
    by_name: dict[str, list[Node]] = defaultdict(list)
    for node in found:
        by_name[node.name if node.version is None else f"{node.name}.v{node.version}"].append(node)
    return {
        name if len(same) == 1 else f"{node.package_name}.{name}": node
        for name, same in by_name.items()
        for node in same
    }


def _copied(serve: ServeOfExposure, tables: Mapping[str, Node]) -> Node | str:
    """Return the table that is copied, or what is wrong."""
    if not tables:
        return (
            "meta.lakehouse.serve needs the table of a model, and the exposure depends on none; add ref('<model>') to "
            "its depends_on"
        )
    if serve.model is None:
        if len(tables) == 1:
            return next(iter(tables.values()))
        first = brief(next(iter(tables)))
        return (
            f"meta.lakehouse.serve.model is missing, and the exposure depends on several models ({some([*tables])}). "
            f"Add the one whose table is copied to {serve.table}, such as `model: {first}`"
        )
    if serve.model in tables:
        return tables[serve.model]
    versions = [node for node in tables.values() if node.name == serve.model]
    if len(versions) == 1:
        return versions[0]
    hint = suggestion(serve.model, tables, quoted="`{}`".format, others="it depends on")
    return f"meta.lakehouse.serve.model is {shortened(serve.model)}, which the exposure does not depend on; {hint}"
