"""The whole code location as one reviewable text: `golden/graph.yaml`."""

from __future__ import annotations

from typing import Any

import dagster as dg
import yaml


def test_the_code_location_is_what_was_reviewed(definitions: dg.Definitions, golden: Any) -> None:
    golden.check("graph.yaml", yaml.safe_dump(described(definitions), sort_keys=False, width=120))


def described(definitions: dg.Definitions) -> dict[str, Any]:
    graph = definitions.resolve_asset_graph()
    nodes = sorted(graph.asset_nodes, key=lambda node: [*node.key.path])
    return {
        "assets": {node.key.to_user_string(): asset(graph, node) for node in nodes if node.is_materializable},
        "external_assets": {node.key.to_user_string(): asset(graph, node) for node in nodes if node.is_external},
        "jobs": {
            job.name: {"tags": dict(sorted(job.tags.items())), "assets": names(job.asset_layer.selected_asset_keys)}
            for job in sorted(definitions.resolve_all_job_defs(), key=lambda job: job.name)
        },
        "schedules": {
            schedule.name: {
                "job": schedule.job_name,
                "cron": schedule.cron_schedule,
                "zone": schedule.execution_timezone,
                "status": schedule.default_status.value,
            }
            for schedule in definitions.schedules or []
            if isinstance(schedule, dg.ScheduleDefinition)
        },
        "sensors": {
            sensor.name: {
                "type": type(sensor).__name__,
                "status": sensor.default_status.value,
                "interval": sensor.minimum_interval_seconds,
            }
            for sensor in sorted(definitions.sensors or [], key=lambda sensor: sensor.name)
        },
    }


def asset(graph: Any, node: Any) -> dict[str, Any]:
    checks = [graph.get(key) for key in sorted(node.check_keys, key=lambda key: key.name)]
    said = {
        "group": node.group_name,
        "deps": names(node.parent_keys),
        "kinds": sorted(node.kinds),
        "owners": sorted(str(owner) for owner in node.owners),
        "tags": sorted(tag for tag in node.tags if not tag.startswith("dagster/")),
        "freshness": freshness(node.freshness_policy),
        "automation": node.automation_condition.get_label() if node.automation_condition else None,
        "checks": {check.key.name: "blocking" if check.blocking else "warning" for check in checks},
    }
    return {key: value for key, value in said.items() if value}


def names(keys: Any) -> list[str]:
    return sorted(key.to_user_string() for key in keys)


def freshness(policy: dg.FreshnessPolicy | None) -> str | None:
    match policy:
        case None:
            return None
        case dg.FreshnessPolicy() if hasattr(policy, "deadline_cron"):
            return f"{policy.lower_bound_delta} before {policy.deadline_cron} {policy.timezone}"  # type: ignore[attr-defined]
        case _:
            return f"within {policy.fail_window.to_timedelta()}"  # type: ignore[attr-defined]
