"""The probes of Dagster's instance: storage, daemons, and which schedules and sensors run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.common import durations
from lakehouse_analytics.common.names import counted, plural
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, unchecked

if TYPE_CHECKING:
    from lakehouse_analytics._dagster_internals import InstigatorState, InstigatorType

CHECK_STORAGE = "Check that the database of Dagster's instance runs and can be reached: Dagster retries for a while."
IMPORTS = ("dagster._daemon.controller", "dagster._core.storage.sqlite_storage", "alembic.command")
LOCATION = "lakehouse_analytics"
#: Seconds without a heartbeat after which a daemon counts as dead. Daemons send one every 30 s; Dagster itself waits
#: half an hour.
HEARTBEAT_TIMEOUT = 300.0


def storage(context: ProbeContext) -> Finding:
    """Open the instance of DAGSTER_HOME, run a query, and compare its schema with this version of Dagster."""
    from dagster import DagsterInstance

    home, place = os.getenv("DAGSTER_HOME"), fixes.here()
    if not home:
        return failed("DAGSTER_HOME is not set: Dagster stores its runs there", fixes.set_home(place))
    if not (Path(home) / "dagster.yaml").is_file():
        if place is fixes.Place.POD:
            return unchecked(
                f"this pod has no dagster.yaml ({home}), so that Dagster's database, queue, limits, daemons, schedules "
                "and sensors were not checked",
                fixes.include_instance(place),
            )
        return failed(f"there is no dagster.yaml in DAGSTER_HOME ({home})", fixes.prepare_home(place))
    try:
        instance = DagsterInstance.get()
        runs = instance.get_runs_count()
        old = _outdated_schemas(instance)
    except Exception as error:
        outdated = "Outdated" in type(error).__name__
        fix = fixes.migrate(place) if outdated else fixes.reach_storage(place)
        return failed(f"the instance in {home} cannot be used: {_first_cause(error)}", fix)
    if old:
        return failed(
            f"the schema of the instance in {home} is older than Dagster: {', '.join(old)}", fixes.migrate(place)
        )
    context.instance = instance
    return fine(f"the instance in {home} answers: {counted(runs, 'run')}; its schema is up to date")


def daemons(context: ProbeContext) -> Finding:
    """Check that each daemon that this instance requires has sent a heartbeat recently."""
    from lakehouse_analytics._dagster_internals import get_daemon_statuses

    instance = context.instance
    tolerance = max(HEARTBEAT_TIMEOUT, 3.0 * instance.run_monitoring_poll_interval_seconds)
    statuses = get_daemon_statuses(
        instance, instance.get_required_daemon_types(), heartbeat_tolerance_seconds=tolerance
    )
    unhealthy = [status for status in statuses.values() if not status.healthy]
    if not unhealthy:
        oldest = max(
            (time.time() - s.last_heartbeat.timestamp for s in statuses.values() if s.last_heartbeat), default=0
        )
        names = ", ".join(_short_name(s.daemon_type) for s in statuses.values())
        return fine(f"{names}; last heartbeat {max(oldest, 0):.0f} s ago")
    words = []
    for status in unhealthy:
        heartbeat = status.last_heartbeat
        if heartbeat is None:
            words.append(f"{_short_name(status.daemon_type)}: no heartbeat recorded")
        elif heartbeat.errors:
            error = heartbeat.errors[0].message.strip().splitlines()
            words.append(f"{_short_name(status.daemon_type)}: {error[0] if error else 'an error without a message'}")
        else:
            age = durations.rounded(time.time() - heartbeat.timestamp)
            words.append(f"{_short_name(status.daemon_type)}: no heartbeat for {age}")
    if len(unhealthy) == len(statuses) and len({word.partition(": ")[2] for word in words}) == 1:
        words = [f"no daemon runs: {words[0].partition(': ')[2]}"]
    return failed("\n".join(words), fixes.start_daemons(fixes.here()))


def schedules(context: ProbeContext) -> Finding:
    """Check that every schedule runs. If they do not, nothing is built at night."""
    from lakehouse_analytics._dagster_internals import InstigatorType

    on = _switched_on(context, InstigatorType.SCHEDULE, context.location.schedules)
    off = [name for name, runs in on.items() if not runs]
    return _activation(context, "schedule", [name for name, runs in on.items() if runs], off, [])


def sensors(context: ProbeContext) -> Finding:
    """Check that every sensor that runs by default does run. Sensors that are stopped by default may be on or off."""
    from lakehouse_analytics._dagster_internals import InstigatorType

    declared = context.location.sensors
    on = _switched_on(context, InstigatorType.SENSOR, declared)
    off = [name for name, runs in on.items() if not runs]
    stopped, idle = [name for name in off if declared[name]], [name for name in off if not declared[name]]
    return _activation(context, "sensor", [name for name, runs in on.items() if runs], stopped, idle)


def _activation(context: ProbeContext, what: str, running: list[str], stopped: list[str], idle: list[str]) -> Finding:
    words = []
    if stopped:
        words.append(f"stopped: {', '.join(stopped)}")
    if running:
        words.append(f"running: {', '.join(running)}")
    if idle:
        words.append(f"off, as declared: {', '.join(idle)}")
    if not stopped:
        return fine("; ".join(words) or f"there are no {plural(what)}")
    page = f"{context.settings.webserver_url.rstrip('/')}/automation"
    return failed("; ".join(words), fixes.switch_on(fixes.here(), what, stopped[0], page))


def _switched_on(context: ProbeContext, kind: InstigatorType, declared: Mapping[str, bool]) -> dict[str, bool]:
    from lakehouse_analytics._dagster_internals import InstigatorStatus

    states = context.instance.all_instigator_state(instigator_type=kind)
    found = {}
    for name, by_default in sorted(declared.items()):
        state = _of_location([state for state in states if state.instigator_name == name])
        manual = state and state.status in (InstigatorStatus.RUNNING, InstigatorStatus.STOPPED)
        found[name] = state.status is InstigatorStatus.RUNNING if state and manual else by_default
    return found


def _of_location(states: list[InstigatorState]) -> InstigatorState | None:
    """Return the state of our location or, if there is none, of another. Deployments choose the location's name."""
    ours = [state for state in states if state.origin.repository_origin.code_location_origin.location_name == LOCATION]
    return next(iter([*ours, *states]), None)


def _outdated_schemas(instance: object) -> list[str]:
    """Return the storages whose schema is not the newest."""
    storages = (("runs", "run_storage"), ("events", "event_log_storage"), ("schedules", "schedule_storage"))
    old = []
    for name, attribute in storages:
        storage = getattr(instance, attribute, None)
        version = storage.alembic_version() if storage else None
        if version and version[0] != version[1]:
            old.append(f"{name} at {version[0]}, not {version[1]}")
    return old


def _first_cause(error: BaseException) -> str:
    # Dagster wraps the database's error into "too many retries".
    while error.__cause__:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"


def _short_name(daemon: str) -> str:
    return daemon.removesuffix("_DAEMON").replace("_", " ").lower()
