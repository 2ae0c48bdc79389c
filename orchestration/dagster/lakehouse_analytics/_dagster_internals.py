"""All uses of Dagster's private API.

Any release of Dagster may change it. No other module imports `dagster._*`. `tests/unit/test_dagster_internals.py` tests
each use, and explains what to check if one fails.

Names are imported on first use: some of these modules import SQLAlchemy or the daemon, which a process that loads the
code location does not need.
"""

from __future__ import annotations

import importlib
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg
    from dagster._check import CheckError as CheckError
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationTargetMaterializationData as AssetCheckEvaluationTargetMaterializationData,
    )
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph as AssetGraph
    from dagster._core.definitions.assets.graph.asset_graph import AssetNode as AssetNode
    from dagster._core.definitions.assets.job.asset_job import JobScopedAssetGraph as JobScopedAssetGraph
    from dagster._core.definitions.assets.job.asset_job import build_asset_job as build_asset_job
    from dagster._core.definitions.assets.job.asset_layer import AssetLayer as AssetLayer
    from dagster._core.definitions.dependency import NodeHandle as NodeHandle
    from dagster._core.definitions.output import OutputDefinition as OutputDefinition
    from dagster._core.definitions.resource_requirement import OutputManagerRequirement as OutputManagerRequirement
    from dagster._core.definitions.resource_requirement import ResourceRequirement as ResourceRequirement
    from dagster._core.definitions.run_request import InstigatorType as InstigatorType
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as UnresolvedAssetJobDefinition,
    )
    from dagster._core.definitions.utils import is_valid_name as is_valid_name
    from dagster._core.event_api import PartitionKeyFilter as PartitionKeyFilter
    from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES as BULK_ACTION_TERMINAL_STATUSES
    from dagster._core.execution.backfill import BulkActionsFilter as BulkActionsFilter
    from dagster._core.execution.backfill import BulkActionStatus as BulkActionStatus
    from dagster._core.instance.config import DAGSTER_CONFIG_YAML_FILENAME as DAGSTER_CONFIG_YAML_FILENAME
    from dagster._core.instance.ref import InstanceRef as InstanceRef
    from dagster._core.instance.utils import RUNLESS_RUN_ID as RUNLESS_RUN_ID
    from dagster._core.run_coordinator.base import RunCoordinator as RunCoordinator
    from dagster._core.scheduler.instigation import InstigatorState as InstigatorState
    from dagster._core.scheduler.instigation import InstigatorStatus as InstigatorStatus
    from dagster._core.scheduler.instigation import ScheduleInstigatorData as ScheduleInstigatorData
    from dagster._core.scheduler.instigation import TickStatus as TickStatus
    from dagster._core.storage.asset_check_execution_record import (
        AssetCheckExecutionRecord as AssetCheckExecutionRecord,
    )
    from dagster._core.storage.asset_check_execution_record import (
        AssetCheckExecutionRecordStatus as AssetCheckExecutionRecordStatus,
    )
    from dagster._core.storage.asset_check_execution_record import (
        AssetCheckPartitionInfo as AssetCheckPartitionInfo,
    )
    from dagster._core.storage.dagster_run import FINISHED_STATUSES as FINISHED_STATUSES
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as AssetCheckExecutionsTable
    from dagster._core.storage.event_log.schema import AssetEventTagsTable as AssetEventTagsTable
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as SqlEventLogStorageTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage as SqlEventLogStorage
    from dagster._core.storage.runs.schema import RunsTable as RunsTable
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage as SqlRunStorage
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as ASSET_PARTITION_RANGE_END_TAG
    from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as ASSET_PARTITION_RANGE_START_TAG
    from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG as AUTO_RETRY_RUN_ID_TAG
    from dagster._core.storage.tags import BACKFILL_ID_TAG as BACKFILL_ID_TAG
    from dagster._core.storage.tags import PARENT_RUN_ID_TAG as PARENT_RUN_ID_TAG
    from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG as RETRY_ON_ASSET_OR_OP_FAILURE_TAG
    from dagster._core.storage.tags import ROOT_RUN_ID_TAG as ROOT_RUN_ID_TAG
    from dagster._core.storage.tags import WILL_RETRY_TAG as WILL_RETRY_TAG
    from dagster._daemon.controller import get_daemon_statuses as get_daemon_statuses
    from dagster._time import get_current_datetime as get_current_datetime
    from dagster._utils.schedules import get_smallest_cron_interval as get_smallest_cron_interval
    from dagster._utils.schedules import is_valid_cron_string as is_valid_cron_string
    from dagster._utils.schedules import schedule_execution_time_iterator as schedule_execution_time_iterator
    from dagster._utils.tags import is_valid_tag_key as is_valid_tag_key

#: Modules of Dagster, and the names used from each.
USED: dict[str, tuple[str, ...]] = {
    "dagster._check": ("CheckError",),
    "dagster._core.definitions.asset_checks.asset_check_evaluation": ("AssetCheckEvaluationTargetMaterializationData",),
    "dagster._core.definitions.assets.graph.asset_graph": (
        "AssetGraph",
        "AssetNode",
    ),
    "dagster._core.definitions.assets.job.asset_job": (
        "JobScopedAssetGraph",
        "build_asset_job",
    ),
    "dagster._core.definitions.assets.job.asset_layer": ("AssetLayer",),
    "dagster._core.definitions.dependency": ("NodeHandle",),
    "dagster._core.definitions.output": ("OutputDefinition",),
    "dagster._core.definitions.resource_requirement": (
        "OutputManagerRequirement",
        "ResourceRequirement",
    ),
    "dagster._core.definitions.run_request": ("InstigatorType",),
    "dagster._core.definitions.unresolved_asset_job_definition": ("UnresolvedAssetJobDefinition",),
    "dagster._core.definitions.utils": ("is_valid_name",),
    "dagster._core.event_api": ("PartitionKeyFilter",),
    "dagster._core.execution.backfill": (
        "BULK_ACTION_TERMINAL_STATUSES",
        "BulkActionStatus",
        "BulkActionsFilter",
    ),
    "dagster._core.instance.config": ("DAGSTER_CONFIG_YAML_FILENAME",),
    "dagster._core.instance.ref": ("InstanceRef",),
    "dagster._core.instance.utils": ("RUNLESS_RUN_ID",),
    "dagster._core.run_coordinator.base": ("RunCoordinator",),
    "dagster._core.scheduler.instigation": (
        "InstigatorState",
        "InstigatorStatus",
        "ScheduleInstigatorData",
        "TickStatus",
    ),
    "dagster._core.storage.asset_check_execution_record": (
        "AssetCheckExecutionRecord",
        "AssetCheckExecutionRecordStatus",
        "AssetCheckPartitionInfo",
    ),
    "dagster._core.storage.dagster_run": ("FINISHED_STATUSES",),
    "dagster._core.storage.event_log.schema": (
        "AssetCheckExecutionsTable",
        "AssetEventTagsTable",
        "SqlEventLogStorageTable",
    ),
    "dagster._core.storage.event_log.sql_event_log": ("SqlEventLogStorage",),
    "dagster._core.storage.runs.schema": ("RunsTable",),
    "dagster._core.storage.runs.sql_run_storage": ("SqlRunStorage",),
    "dagster._core.storage.tags": (
        "ASSET_PARTITION_RANGE_END_TAG",
        "ASSET_PARTITION_RANGE_START_TAG",
        "AUTO_RETRY_RUN_ID_TAG",
        "BACKFILL_ID_TAG",
        "PARENT_RUN_ID_TAG",
        "RETRY_ON_ASSET_OR_OP_FAILURE_TAG",
        "ROOT_RUN_ID_TAG",
        "WILL_RETRY_TAG",
    ),
    "dagster._daemon.controller": ("get_daemon_statuses",),
    "dagster._time": ("get_current_datetime",),
    "dagster._utils.schedules": (
        "get_smallest_cron_interval",
        "is_valid_cron_string",
        "schedule_execution_time_iterator",
    ),
    "dagster._utils.tags": ("is_valid_tag_key",),
}
_MODULE_OF = {name: module for module, names in USED.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def step_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> dg.StepExecutionContext:
    """Return Dagster's own context of the step."""
    return context.op_execution_context._step_execution_context


def keys_of_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> AbstractSet[dg.AssetKey]:
    """Return the keys of all assets that the run builds, in any step.

    Args:
        context: Context of one of its steps.
    """
    return step_of(context).job_def.asset_layer.selected_asset_keys


def remember_output_keys(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> None:
    """Cache the asset keys of a step's outputs, which Dagster otherwise collects once per output.

    Args:
        context: Context of the step, before its first output.
    """
    step = step_of(context)
    keys = step.get_output_asset_keys()
    step.get_output_asset_keys = lambda: keys  # type: ignore[method-assign]


def named(definition: OutputDefinition, name: str | None) -> OutputDefinition:
    """Rename an output definition in place, unless the name is None, and return it."""
    definition._name = name or definition.name
    return definition
