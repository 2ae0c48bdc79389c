"""Whether dbt built the relations that the manifest names. Pure.

The fingerprint compares what can be compared when the location loads. What dbt renders only in a run, such as a schema
named after a variable that a hook sets or after the time, shows in the relation of each result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lakehouse_analytics.graph import Table
from lakehouse_analytics.run_results import DbtResult

#: dbt's word for a node that was built.
_SUCCESS = "success"


def refuse_other_relations(tables: Iterable[Table], result: DbtResult) -> DbtResult:
    """The result, with every table that dbt built under another name than the manifest's as an error.

    Otherwise the rows of one table would be counted, while readers of the asset see another.
    """
    nodes = dict(result.nodes)
    for table in tables:
        node, expected = nodes.get(table.unique_id), table.node.get("relation_name")
        if node is None or node.status != _SUCCESS or not node.relation or not expected or node.relation == expected:
            continue
        message = (
            f"dbt built {node.relation}, but the manifest of this location has {expected}: something that names "
            "databases or schemas differs between `lakehouse manifest` and this run, such as an environment variable "
            "or a field of the target that a macro reads. Run `lakehouse manifest` in the environment of the run."
        )
        nodes[table.unique_id] = replace(node, status="error", message=message)
    return replace(result, nodes=nodes)
