"""The types of doctor: probes, their findings, and the context that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from lakehouse_analytics.dbt.graph import Graph
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.engines.engine_type import EngineType
    from lakehouse_analytics.settings import Settings

#: Fraction of a probe's time limit that it waits for other systems. A timeout that the probe reports itself explains
#: more than the probe being stopped.
PATIENCE = 0.8


class Status(StrEnum):
    """The status of a finding.

    `skipped`: the probe does not apply to this deployment, or `--skip` excludes it. `unchecked`: the probe applies, but
    could not find out the state, which may be wrong.
    """

    OK = "ok"
    FAILED = "failed"
    UNCHECKED = "unchecked"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The finding of a probe.

    Attributes:
        status: The status.
        message: What was found. Each line after the first is a finding of its own.
        fix: How to fix it; empty if there is nothing to do.
    """

    status: Status
    message: str
    fix: str = ""


def fine(message: str) -> Finding:
    """Return a finding without problems."""
    return Finding(Status.OK, message)


def failed(message: str, fix: str) -> Finding:
    """Return a finding that has to be fixed."""
    return Finding(Status.FAILED, message, fix)


def unchecked(message: str, how: str = "") -> Finding:
    """Return a finding for what could not be checked: the reason, and how to check it manually."""
    return Finding(Status.UNCHECKED, message, how)


def skipped(message: str) -> Finding:
    """Return a finding for a probe that does not apply, with the reason."""
    return Finding(Status.SKIPPED, message)


class FailedError(Exception):
    """Ends a probe with a finding."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.finding = failed(message, fix)


@dataclass(frozen=True)
class Result:
    """The finding of a probe, and its duration in seconds."""

    name: str
    status: Status
    message: str
    fix: str
    seconds: float


@dataclass(frozen=True)
class Location:
    """What the code location declares. Schedules and sensors map their name to whether they run by default."""

    assets: int
    jobs: int
    schedules: Mapping[str, bool]
    sensors: Mapping[str, bool]


@dataclass
class ProbeContext:
    """State that the probes share.

    Each attribute without a default is set by the probe of that name. A probe that reads it must list that probe in
    `needs`.

    Attributes:
        timeout: Time limit of each probe, in seconds.
        left_out: Names of the probes to skip.
    """

    timeout: float
    left_out: frozenset[str] = frozenset()
    settings: Settings = field(init=False)
    project: DbtProject = field(init=False)
    graph: Graph = field(init=False)
    location: Location = field(init=False)
    instance: DagsterInstance = field(init=False)

    @property
    def patience(self) -> float:
        """Seconds that a probe waits for other systems."""
        return self.timeout * PATIENCE

    @property
    def graph_if_any(self) -> Graph | None:
        """The graph, or None if there is no manifest."""
        return getattr(self, "graph", None)

    @property
    def engine_type(self) -> EngineType:
        """The engine according to the manifest or, if there is none, the settings."""
        graph = self.graph_if_any
        return graph.engine if graph else self.settings.engine_type


@dataclass(frozen=True)
class Probe:
    """A check of one aspect of the deployment.

    Attributes:
        name: The name in the report and for `--skip`.
        run: Runs the probe; may raise.
        needs: Probes that must have succeeded before.
        after: Probes that must have ended before, with any status.
        timeout_advice: What to check if the probe exceeds its time limit.
        imports: Returns the modules that the probe needs and that take seconds to import. Their import does not count
            against the time limit.
    """

    name: str
    run: Callable[[ProbeContext], Finding]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    timeout_advice: str = "Check whether the system that it queries is overloaded, or blocked by a firewall."
    imports: Callable[[], tuple[str, ...]] = tuple
