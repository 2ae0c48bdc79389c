"""What a probe is, what it may find, and what probes tell each other."""

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

#: Of a probe's time, what it waits for somebody else: what it says then is better than that it was ended.
PATIENCE = 0.8


class Status(StrEnum):
    """The result of a probe.

    `skipped`: it does not apply to this deployment, or `--skip` leaves it out. `unchecked`: it applies, and could not
    be checked here, so that it may well be wrong.
    """

    OK = "ok"
    FAILED = "failed"
    UNCHECKED = "unchecked"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        message: What is so. Further lines are further findings.
        fix: What a person does about it; empty where nothing is to be done.
    """

    status: Status
    message: str
    fix: str = ""


def fine(message: str) -> Finding:
    """All is well."""
    return Finding(Status.OK, message)


def failed(message: str, fix: str) -> Finding:
    """Something has to be fixed."""
    return Finding(Status.FAILED, message, fix)


def unchecked(message: str, how: str = "") -> Finding:
    """It could not be checked: why, and how a person checks it."""
    return Finding(Status.UNCHECKED, message, how)


def skipped(message: str) -> Finding:
    """It does not apply, and why."""
    return Finding(Status.SKIPPED, message)


class FailedError(Exception):
    """A finding, from deep inside a probe."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.finding = failed(message, fix)


@dataclass(frozen=True)
class Result:
    """A probe's finding, and how long it took."""

    name: str
    status: Status
    message: str
    fix: str
    seconds: float


@dataclass(frozen=True)
class Location:
    """What the code location declares. Schedules and sensors by name: whether they run unless somebody stops them."""

    assets: int
    jobs: int
    schedules: Mapping[str, bool]
    sensors: Mapping[str, bool]


@dataclass
class ProbeContext:
    """What probes have found out for those that need them.

    What is not set here is set by the probe of that name, which must be one of the reader's `needs`.

    Attributes:
        timeout: Seconds that each probe has.
        left_out: Probes to skip.
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
        """Seconds to wait for an answer."""
        return self.timeout * PATIENCE

    @property
    def graph_if_any(self) -> Graph | None:
        """The graph, where there is a manifest."""
        return getattr(self, "graph", None)

    @property
    def engine_type(self) -> EngineType:
        """The engine: as the manifest says, if there is one."""
        graph = self.graph_if_any
        return graph.engine if graph else self.settings.engine_type


@dataclass(frozen=True)
class Probe:
    """One question.

    Attributes:
        name: For people and for `--skip`.
        ask: Finds out; may raise.
        needs: Probes that must have gone well before.
        after: Probes that must have ended before, however.
        if_silent: What to look at where it gives no answer in time.
        imports: Names the modules of some CPU seconds that it needs; their import is no part of its time.
    """

    name: str
    ask: Callable[[ProbeContext], Finding]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    if_silent: str = "See whether what it asks is overloaded, or cut off by a firewall."
    imports: Callable[[], tuple[str, ...]] = tuple
