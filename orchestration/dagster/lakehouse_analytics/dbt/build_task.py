"""`dbt build` of exactly the nodes of a plan, with row counts as gates in dbt's own graph. Runs in dbt's process.

dbt selects nodes by name or tag, decides itself which tests its models wait for, and does not know checks outside of
its graph. Here, the run specifies the nodes and their order. dbt builds them in parallel, each as soon as the nodes
that it waits for have ended, and skips everything downstream of a failure. The module uses parts of dbt-core 1.11 that
are not public; `tests/integration/test_dbt_process.py` fails if one of them changes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import networkx as nx
from dbt.adapters.factory import get_adapter
from dbt.artifacts.resources.types import NodeType
from dbt.artifacts.schemas.results import NodeStatus, RunStatus
from dbt.config.catalogs import get_active_write_integration, load_catalogs
from dbt.graph.graph import Graph
from dbt.graph.queue import GraphQueue
from dbt.task.build import BuildTask
from dbt.task.run import MicrobatchBatchRunner
from dbt_common.events.contextvars import task_contextvars

from lakehouse_analytics.dbt import FINISHING, GATE, STARTING, UNCHANGED
from lakehouse_analytics.dbt.relation import in_schema

_BUILDS = frozenset({NodeType.Model, NodeType.Seed, NodeType.Snapshot})


@dataclass(frozen=True)
class BuildPlan:
    """The nodes to build, and their order.

    Attributes:
        nodes: Unique ids of dbt's nodes.
        gates: Ids of the row-count gates.
        edges: Pairs of ids. The second waits until the first has ended.
        ask: Whether to ask the run before each table is built.
        schemas: The schemas of nodes that are built in another one than the manifest names.
    """

    nodes: Sequence[str]
    gates: Collection[str]
    edges: Sequence[Sequence[str]]
    ask: bool = False
    schemas: Mapping[str, str] = field(default_factory=dict)


class Run(Protocol):
    """The run that a build belongs to."""

    def on_start(self, adapter: Any) -> None:
        """Handle the start of the build.

        Args:
            adapter: dbt's adapter, which may be used to query the database until `FINISHING` is answered.
        """

    def on_result(self, result: Any) -> None:
        """Handle dbt's result of a node as soon as it is available."""

    def ask(self, kind: str, node: str) -> Any:
        """Ask a question and wait for the answer.

        Args:
            kind: `STARTING`, `GATE` or `FINISHING`.
            node: The unique id of the node or gate.

        Returns:
            For `STARTING` and `GATE`, the reason why the node must not be built or the gate failed, or None. For
            `STARTING` also `UNCHANGED`.
        """


@dataclass
class _Gate:
    """A row count that decides whether the tables downstream of its table may be built."""

    unique_id: str
    is_ephemeral_model: bool = False
    resource_type: str = "gate"


@dataclass
class _GateResult:
    node: _Gate
    status: Any


@dataclass
class _GateRunner:
    node: _Gate
    skip: bool = False

    def do_skip(self, cause: object = None) -> None:  # noqa: ARG002  # dbt passes it
        self.skip = True


@dataclass
class _Nodes:
    """The part of a manifest's interface that dbt's queue uses."""

    manifest: Any
    gates: Mapping[str, _Gate] = field(default_factory=dict)

    def expect(self, unique_id: str) -> Any:
        return self.gates.get(unique_id) or self.manifest.expect(unique_id)


class PlannedBuildTask(BuildTask):
    """dbt's build task, restricted to a plan."""

    #: Every status except success blocks the downstream nodes.
    MARK_DEPENDENT_ERRORS_STATUSES = [  # noqa: RUF012  # a list in dbt, too
        status for status in NodeStatus if status not in (NodeStatus.Success, NodeStatus.Pass, NodeStatus.Warn)
    ]
    plan: BuildPlan
    run_process: Run

    def _runtime_initialize(self) -> None:
        gates = {unique_id: _Gate(unique_id) for unique_id in self.plan.gates}
        graph: Any = nx.DiGraph()
        graph.add_nodes_from([*self.plan.nodes, *gates])
        graph.add_edges_from(self.plan.edges)
        self._below = {node: tuple(graph.successors(node)) for node in graph}
        self.graph = Graph(graph.copy())
        compiler: Any = self.compiler
        compiler.initialize()
        adapter: Any = get_adapter(self.config)
        # dbt registers catalogs only when it parses.
        for catalog in load_catalogs(self.args.project_dir, self.config.project_name, self.args.vars):
            adapter.add_catalog_integration(get_active_write_integration(catalog))
        self.run_process.on_start(adapter)
        nodes: Any = _Nodes(self.manifest, gates)
        selected: Any = {*self.plan.nodes}
        self.job_queue = GraphQueue(graph, nodes, selected)
        self._flattened_nodes = [nodes.expect(unique_id) for unique_id in self.plan.nodes]
        self.num_nodes = len(self._flattened_nodes)

    def run(self) -> Any:
        """Build the plan. If it consists of gates only, dbt's hooks do not run."""
        task: Any = super()
        if self.plan.nodes:
            return task.run()
        with task_contextvars(project_root=self.config.project_root):
            self._runtime_initialize()
            self.started_at = time.time()
            try:
                task.execute_nodes()
                self.run_process.ask(FINISHING, "")
            finally:
                get_adapter(self.config).cleanup_connections()
        return task.get_result([], 0.0, datetime.now(UTC).replace(tzinfo=None))

    def after_run(self, adapter: Any, results: Any) -> None:
        """Let the run count the remaining tables before dbt's hooks end the build."""
        self.run_process.ask(FINISHING, "")
        super().after_run(adapter, results)

    def get_runner(self, node: Any) -> Any:
        """Return the runner of a node or a gate."""
        return _GateRunner(node) if isinstance(node, _Gate) else super().get_runner(node)

    def call_runner(self, runner: Any) -> Any:
        """Run one node or gate in one of dbt's threads."""
        if isinstance(runner, _GateRunner):
            if runner.skip:
                return _GateResult(runner.node, NodeStatus.Skipped)
            problem = self.run_process.ask(GATE, runner.node.unique_id)
            return _GateResult(runner.node, NodeStatus.Fail if problem else NodeStatus.Pass)
        node = runner.node
        asks = self.plan.ask and node.resource_type in _BUILDS and not isinstance(runner, MicrobatchBatchRunner)
        if asks and not runner.skip and (answer := self.run_process.ask(STARTING, node.unique_id)):
            if answer == UNCHANGED:
                return _unchanged(runner)
            return runner.error_result(node, answer, time.time(), [])
        return super().call_runner(runner)

    def _handle_result(self, result: Any) -> None:
        if isinstance(result, _GateResult):
            if result.status == NodeStatus.Fail:
                self._skip_below(result.node.unique_id)
            return
        super()._handle_result(result)
        self.run_process.on_result(result)

    def _mark_dependent_errors(self, node_id: str, result: Any, cause: Any) -> None:
        # A test is skipped if one of its tables is. Tables downstream of its other tables may still be built.
        if result.status == RunStatus.Skipped and result.node.resource_type == NodeType.Test:
            return
        self._skip_below(node_id, cause)

    def _skip_below(self, unique_id: str, cause: Any = None) -> None:
        for below in self._below[unique_id]:
            self._skipped_children[below] = cause


def _unchanged(runner: Any) -> Any:
    """Return the result of a node that is not built, and whose tests and descendants do not wait for it anymore."""
    return runner._build_run_result(
        node=runner.node,
        start_time=time.time(),
        status=RunStatus.Success,
        timing_info=[],
        message=UNCHANGED,
        adapter_response={UNCHANGED: True},
    )


def move_nodes(manifest: Any, schemas: Mapping[str, str]) -> None:
    """Let nodes of a manifest be built in other schemas, where everything that refers to them finds them.

    Tables are replaced in one statement, because the schema may have a copy that must not be dropped.
    """
    for unique_id, schema in schemas.items():
        node = manifest.expect(unique_id)
        if node.relation_name:
            node.relation_name = in_schema(node.relation_name, schema)
        node.schema = schema
        if node.config.get("on_table_exists", "rename") in ("rename", "drop"):
            node.config["on_table_exists"] = "replace"
    if schemas:
        manifest.build_flat_graph()


def install_plan(plan: BuildPlan, run: Run) -> None:
    """Replace dbt's build task, so that the next `dbt build` in this process builds a plan.

    Args:
        plan: What to build.
        run: The run that the build belongs to.
    """
    import dbt.task.build

    attributes = {"plan": plan, "run_process": run}
    task: Any = type("Build", (PlannedBuildTask,), attributes)
    dbt.task.build.BuildTask = task  # type: ignore[misc]
