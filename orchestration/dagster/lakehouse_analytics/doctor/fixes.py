"""Instructions for each finding, depending on where doctor runs.

Each command is enclosed in backticks, and a test runs all of them. A checkout has `make`. A pod has a read-only root
file system and an image that was built elsewhere, so instructions for it use kubectl and values.yaml.
"""

from __future__ import annotations

import os
from enum import StrEnum

from lakehouse_analytics.instance.command import NAMESPACE
from lakehouse_analytics.settings import repository_root

VALUES = "values.yaml"
#: Labels that Dagster's chart sets. They do not depend on the name of the release.
_DAEMON, _WEBSERVER = "component=dagster-daemon", "component=dagster-webserver"
#: For a webhook that does not answer.
START_WEBHOOK = (
    "Start `lakehouse webhook` with the same DAGSTER_HOME, LAKEHOUSE_WEBHOOK_TOKEN, LAKEHOUSE_WEBHOOK_HOST and "
    "LAKEHOUSE_WEBHOOK_PORT."
)
_LOAD = "python -m lakehouse_analytics.doctor.load"
_MIGRATE = "dagster instance migrate"
#: Accepted by the charts 1.9.3 and 1.12.19. The limits stay in `concurrency`.
_QUEUE = (
    "dagsterDaemon: {runCoordinator: {enabled: true, type: CustomRunCoordinator, config: {customRunCoordinator: "
    "{module: dagster._core.run_coordinator.queued_run_coordinator, class: QueuedRunCoordinator, config: {}}}}}"
)


class Place(StrEnum):
    """The environment that doctor runs in."""

    CHECKOUT = "checkout"
    POD = "pod"
    ELSEWHERE = "elsewhere"


def here() -> Place:
    """Return the place of this process."""
    if os.getenv("KUBERNETES_SERVICE_HOST"):
        return Place.POD
    return Place.CHECKOUT if (repository_root() / "Makefile").is_file() else Place.ELSEWHERE


def set_variables(place: Place) -> str:
    """Return the instruction for wrong settings."""
    if place is Place.POD:
        return (
            f"Correct them in `env` of the deployment in {VALUES}, or in the Secret of its `envSecrets`; then run "
            "`helm upgrade` as you installed it."
        )
    return "Set them where this process gets its environment" + (
        " (.env, which make reads)." if place is Place.CHECKOUT else "."
    )


def parse_project(place: Place) -> str:
    """Return the instruction for a missing or stale manifest."""
    if place is Place.POD:
        return (
            f"The image holds the manifest. Build a new image, set its tag in {VALUES}, and run `helm upgrade`. If "
            "only a variable differs, set it in `env` there to the value of the build instead."
        )
    return "Run `lakehouse manifest`."


def correct_profile(place: Place) -> str:
    """Return the instruction for a dbt profile that cannot be used."""
    how = "Set LAKEHOUSE_DBT_PROFILES_DIR to the folder of dbt's profiles.yml, or correct that file."
    return f"{how} {parse_project(place)}" if place is Place.POD else how


def correct_contracts(place: Place) -> str:
    """Return the instruction for errors in `meta.lakehouse`."""
    return f"Correct meta.lakehouse in these files. {parse_project(place)}"


def correct_connections(place: Place) -> str:
    """Return the instruction for sources that name connections that do not exist."""
    return f"Correct meta.lakehouse.airbyte of these sources, or the connections in Airbyte. {parse_project(place)}"


def show_load_error(place: Place) -> str:  # noqa: ARG001  # the same everywhere
    """Return the instruction for a code location that does not load."""
    return f"See the whole error: `{_LOAD} --traceback`"


def show_load_time(place: Place) -> str:  # noqa: ARG001
    """Return the instruction for a code location that does not load in time."""
    return f"Try a longer --timeout. If that does not help: `python -X importtime -m {_LOAD.rpartition(' ')[2]}`"


def fill_duckdb(place: Place) -> str:
    """Return the instruction for a missing DuckDB file."""
    if place is Place.POD:
        return (
            f"Set LAKEHOUSE_ENV to prod in {VALUES} to use Trino; or mount a volume that has the file, and set "
            "LAKEHOUSE_DUCKDB_PATH to it."
        )
    make = " or `make demo`" if place is Place.CHECKOUT else ""
    return (
        f"Run `lakehouse ingest`{make}, which creates it, as does the first build of a project without sources. Or set "
        "LAKEHOUSE_DUCKDB_PATH, or the path in dbt's profile, to an existing file."
    )


def fill_sources(place: Place, *, ingest: bool) -> str:
    """Return the instruction for missing schemas of dbt's sources.

    Args:
        place: Where doctor runs.
        ingest: Whether `lakehouse ingest` writes to the engine.
    """
    by_command = ingest and place is not Place.POD
    fill = "Fill them with `lakehouse ingest` or a sync of Airbyte" if by_command else "Let Airbyte sync them"
    return f"{fill}, or correct `schema` and `database` of the sources in the dbt project."


def set_home(place: Place) -> str:
    """Return the instruction for an unset DAGSTER_HOME."""
    if place is Place.POD:
        return f"Do not override DAGSTER_HOME in {VALUES}: the chart and the image set it."
    return "Set it to a folder that stays" + ("; `make doctor` uses .dagster_home." if place is Place.CHECKOUT else ".")


def prepare_home(place: Place) -> str:  # noqa: ARG001  # a pod without a dagster.yaml gets include_instance
    """Return the instruction for a DAGSTER_HOME without a `dagster.yaml`."""
    return "Run `lakehouse init`, which writes it."


def include_instance(place: Place) -> str:  # noqa: ARG001  # only for pods
    """Return the instruction for a pod without a `dagster.yaml`."""
    daemon = f"$({_kubectl('get deploy')} -l {_DAEMON} -o name)"
    return (
        f"Set dagster-user-deployments.includeInstance to true in {VALUES} (the chart has it since 1.12), run "
        "`helm upgrade`, and run doctor again.\n"
        f"With an older chart, check the daemon's log, `{_kubectl('logs')} -l {_DAEMON} --tail=100`, at Deployment "
        f"in the UI, and at the instance: `{_kubectl('exec')} {daemon} -- dagster instance info`"
    )


def reach_storage(place: Place) -> str:
    """Return the instruction for an instance whose database does not answer."""
    if place is Place.POD:
        return f"Check `postgresql` in {VALUES} and its Secret, and that the database runs. Dagster retries for 15 s."
    return "Check `storage` in dagster.yaml, and that the database it names runs. Dagster retries for 15 s."


def migrate(place: Place) -> str:  # noqa: ARG001  # the same everywhere
    """Return the instruction for an instance whose database schema is out of date."""
    return f"Back up the database, and run `{_MIGRATE}`."


def queue_runs(place: Place) -> str:
    """Return the instruction for an instance that starts runs without a queue."""
    if place is Place.POD:
        return (
            f"Set dagsterDaemon.runCoordinator in {VALUES} as follows, keep the limits in `concurrency`, and run "
            "`helm upgrade`. With dagsterDaemon.runCoordinator.enabled: false, charts from 1.12 on have no queue.\n"
            f"{_QUEUE}"
        )
    return "Remove `run_coordinator` from dagster.yaml in DAGSTER_HOME: the queue is Dagster's default."


def limit_pool(place: Place, pool: str) -> str:  # noqa: ARG001  # the same everywhere
    """Return the instruction for a pool whose limit is not 1."""
    return f"Run `dagster instance concurrency set {pool} 1`."


def limit_runs(place: Place) -> str:
    """Return the instruction for a queue that does not limit the runs that build partitions."""
    if place is Place.POD:
        return f"Set additionalInstanceConfig.concurrency in {VALUES} as this repository does, and run `helm upgrade`."
    return "Copy `concurrency` from orchestration/dagster/dagster.yaml to dagster.yaml in DAGSTER_HOME."


def start_daemons(place: Place) -> str:
    """Return the instruction for daemons that do not run."""
    if place is Place.POD:
        return (
            f"See the daemon's log: `{_kubectl('logs')} -l {_DAEMON} --tail=100`; to restart it: "
            f"`{_kubectl('rollout restart deployment')} -l {_DAEMON}`"
        )
    start = "`make dev`, or " if place is Place.CHECKOUT else ""
    return f"Start the daemon: {start}`dagster-daemon run` with the same DAGSTER_HOME. Its log says more."


def switch_on(place: Place, what: str, name: str, page: str) -> str:
    """Return the instruction for a stopped schedule or sensor."""
    if place is Place.POD:
        webserver = f"$({_kubectl('get deploy')} -l {_WEBSERVER} -o name)"
        command = f"{_kubectl('exec')} {webserver} -- dagster {what} start {name} -w /dagster-workspace/workspace.yaml"
    elif place is Place.CHECKOUT:
        command = f"dagster {what} start {name} -w {repository_root()}/orchestration/dagster/dagster_workspace.yaml"
    else:
        return f"Switch it on in the UI ({page})."
    return f"Switch it on in the UI ({page}), or: `{command}`"


def set_clock(place: Place) -> str:
    """Return the instruction for clocks that differ."""
    which = "the clock of this pod's node" if place is Place.POD else "this machine's clock"
    return f"Synchronize {which} and the other machine's by NTP."


def _kubectl(words: str) -> str:
    return f"kubectl -n {_namespace()} {words}"


def _namespace() -> str:
    """Return the namespace of this pod. If no token is mounted, read it from a variable that the chart sets."""
    try:
        return NAMESPACE.read_text().strip()
    except OSError:
        return os.getenv("DAGSTER_K8S_PIPELINE_RUN_NAMESPACE") or "dagster"
