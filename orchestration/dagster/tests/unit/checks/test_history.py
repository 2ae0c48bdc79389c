"""The memory of the row-count gates: whatever is evaluated, counts are compared with what passed or was accepted."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.checks import history as check_history
from lakehouse_analytics.checks.history import history_of
from lakehouse_analytics.checks.row_count_rules import Counts, evaluate_drift
from lakehouse_analytics.checks.runner import CountedPartitions, Counter, CountResult
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.contract.models import Drift
from lakehouse_analytics.instance import retention
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.definitions import PartitionRange, grain_partitions, windows
from manifests import Manifest
from windowed import windowed

NAMES = (f"m{number}" for number in itertools.count())
DROP = 0.5
#: Each stores some ten evaluations in a database.
EXAMPLES = int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "300")) // 20


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@dataclass
class Gate:
    """One table whose row-count checks are evaluated again and again; with `grain`, one of its windows."""

    instance: dg.DagsterInstance
    rows: dict[str, object]
    grain: str | None = None

    def __post_init__(self) -> None:
        m, self.name = Manifest(), next(NAMES)
        if self.grain:
            windowed(m, self.name, grain=self.grain, lakehouse={"rows": self.rows})
        else:
            m.model(self.name, folder="gold", lakehouse={"rows": self.rows})
        graph = m.graph()
        [self.table] = graph.tables.values()
        self.partitions_def = grain_partitions(graph, "UTC").get("daily") if self.grain else None

    def look(
        self, answer: int | str, *, accepted: bool = False, window: str = "2026-01-05"
    ) -> dict[str, tuple[bool, str]]:
        """Evaluate the checks as a run does, and store them; text says why the table could not be counted."""
        return self.look_at({window: answer}, accepted=accepted)[window]

    def look_at(
        self, answers: Mapping[str, int | str], *, accepted: bool = False
    ) -> dict[str, dict[str, tuple[bool, str]]]:
        windows_of_run = None
        if self.partitions_def:
            span = PartitionRange(windows(self.partitions_def, answers))
            windows_of_run = CountedPartitions("duckdb", self.partitions_def, span, history_of(self.instance))
        counter = Counter(
            NoEngine(),  # type: ignore[arg-type]
            lambda _: [],
            history_of(self.instance),
            accepted=[self.table.unique_id] if accepted else [],
            zone=UTC,
            windows=windows_of_run,
        )
        texts = [answer for answer in answers.values() if isinstance(answer, str)]
        counts = {key: Counts(answer) for key, answer in answers.items() if isinstance(answer, int)}
        answer: CountResult = texts[0] if texts else counts if self.partitions_def else counts[min(counts)]
        found: dict[str, dict[str, tuple[bool, str]]] = {key: {} for key in answers}
        run_id = str(uuid.uuid4())
        for verdict in counter.evaluate(self.table, answer):
            partition = getattr(verdict, "partition", None)
            store(self.instance, verdict, run_id)
            place = found[partition or next(iter(answers))]
            place[verdict.check_name or ""] = (verdict.passed, verdict.description or "")
        return found

    def prune(self) -> None:
        """What `lakehouse instance prune` deletes of check evaluations, on whatever database."""
        storage = self.instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        of_table = retention.Executions.asset_key == asset_key(self.table).to_string()
        retention._trim(storage, retention.Events.id < 0, of_table)

    def skip(self) -> None:
        """A run that planned the checks and died: its model failed, or was skipped."""
        for name in (ROW_COUNT, DRIFT):
            planned = AssetCheckEvaluationPlanned(asset_key=asset_key(self.table), check_name=name)
            kind = DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value
            self.instance.report_dagster_event(
                DagsterEvent(kind, "job", event_specific_data=planned), str(uuid.uuid4())
            )


class NoEngine:
    """The counts are given; nothing is queried."""


def store(instance: dg.DagsterInstance, verdict: dg.AssetCheckResult | dg.AssetCheckEvaluation, run_id: str) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey.from_coercible(verdict.asset_key or ""),
        check_name=verdict.check_name or "",
        passed=verdict.passed,
        metadata=verdict.metadata,
        severity=verdict.severity,
        description=verdict.description,
        partition=getattr(verdict, "partition", None),
    )
    kind = DagsterEventType.ASSET_CHECK_EVALUATION.value
    instance.report_dagster_event(DagsterEvent(kind, "job", event_specific_data=evaluation), run_id)


GRAINS = pytest.mark.parametrize("grain", [None, "daily"])

#: A count, a count that is accepted, a table that cannot be counted, a run that evaluates nothing.
LOOKS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.sampled_from([0, 1, 9, 10, 20, 39, 40, 60, 100])),
        st.tuples(st.just("accept"), st.sampled_from([1, 10, 40, 200])),
        st.tuples(st.just("cannot be counted"), st.just(0)),
        st.tuples(st.just("skip"), st.just(0)),
    ),
    max_size=10,
)


@GRAINS
@settings(max_examples=EXAMPLES)
@given(looks=LOOKS)
def test_a_drop_is_measured_from_the_last_count_that_passed_or_was_accepted(
    instance: dg.DagsterInstance, grain: str | None, looks: Sequence[tuple[str, int]]
) -> None:
    gate = Gate(instance, {"max_drop": DROP, "min": 10, "drift": {"min_history": 3}}, grain)
    level: int | None = None  # what the rules say, without any memory but this
    for what, rows in looks:
        if what == "skip":
            gate.skip()
        elif what == "cannot be counted":
            assert not gate.look("table does not exist")[ROW_COUNT][0]
        elif what == "accept":
            passed, _ = gate.look(rows, accepted=True)[ROW_COUNT]
            assert passed == (rows >= 10)
            level = rows
        else:
            passed, said = gate.look(rows)[ROW_COUNT]
            dropped = bool(level) and (level - rows) / level > DROP  # type: ignore[operator]
            assert passed == (rows >= 10 and not dropped), said
            assert (f"fewer than the {level} of" in said) == dropped
            level = rows if passed else level
    newest = history_of(instance).last(
        dg.AssetCheckKey(asset_key(gate.table), ROW_COUNT), "2026-01-05" if grain else None
    )
    assert (newest.new_baseline if newest else None) == level


@GRAINS
@settings(max_examples=EXAMPLES)
@given(between=st.lists(st.sampled_from(["count", "cannot be counted", "skip"]), min_size=1, max_size=8))
def test_a_count_that_failed_never_passes_by_being_looked_at_again(
    instance: dg.DagsterInstance, grain: str | None, between: Sequence[str]
) -> None:
    gate = Gate(instance, {"max_drop": DROP, "drift": {"min_history": 3, "severity": "error"}}, grain)
    days = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"]
    for day in days:
        assert gate.look(100, window=day)[DRIFT][0]
    for what in ["count", *between, "count"]:
        if what == "skip":
            gate.skip()
            continue
        results = gate.look(5 if what == "count" else "the server is busy")
        assert not any(passed for passed, _ in results.values()), results


def test_drift_does_not_open_by_being_looked_at() -> None:
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"drift": {"severity": "error"}})
        assert all(gate.look(100)[DRIFT][0] for _ in range(7))
        assert not any(gate.look(300)[DRIFT][0] for _ in range(70))  # more than the history is long
        assert gate.look(100)[DRIFT][0]


#: A history this long is used up by a few looks, and too short to be compared by weekday.
SHORT = 3


@settings(max_examples=2 * EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    looks=st.lists(
        st.one_of(
            st.tuples(st.just("count"), st.sampled_from([97, 98, 99, 100, 101, 300])),
            st.tuples(st.just("count"), st.sampled_from([98, 98, 100])),
            st.tuples(st.just("accept"), st.sampled_from([50, 98, 300])),
            st.tuples(st.sampled_from(["cannot be counted", "skip", "prune"]), st.just(0)),
        ),
        min_size=8,
        max_size=24,
    )
)
def test_drift_is_judged_against_the_newest_counts_that_passed_or_were_accepted(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, looks: Sequence[tuple[str, int]]
) -> None:
    monkeypatch.setattr(check_history, "MAX_HISTORY", SHORT)
    monkeypatch.setattr(retention, "KEEP_NEWEST", SHORT)
    # 98 is within drift's limits and below the minimum: such a count passes drift, and is not history.
    rules = Drift(severity="error", min_history=3)
    gate = Gate(instance, {"min": 99, "drift": rules.model_dump()})
    history: list[int] = []  # what the rules say, without any memory but this
    for what, rows in [*[("count", 100)] * 3, *looks]:
        if what == "skip":
            gate.skip()
        elif what == "prune":
            gate.prune()
        elif what == "cannot be counted":
            assert not gate.look("table does not exist")[DRIFT][0]
        else:
            now = datetime.now(UTC)
            verdict = evaluate_drift(rules, rows, [(now, count) for count in history[-SHORT:]], now, UTC)
            passed, said = gate.look(rows, accepted=what == "accept")[DRIFT]
            assert said.startswith(verdict.explanation)
            assert passed == (verdict.passed or what == "accept")
            if what == "accept":
                history = [rows]
            elif passed and rows >= 99:
                history.append(rows)


@GRAINS
def test_drift_does_not_forget_by_counts_that_row_count_refuses(
    grain: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_history, "MAX_HISTORY", SHORT)
    monkeypatch.setattr(retention, "KEEP_NEWEST", SHORT)
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"min": 199, "drift": {"severity": "error", "min_history": 3}}, grain)
        for day in range(1, SHORT + 1):
            gate.look(200, window=f"2026-01-0{day}")
        for number in range(6 * SHORT):
            results = gate.look(198, window="2026-01-06")
            assert (results[ROW_COUNT][0], results[DRIFT][0]) == (False, True)
            if number % SHORT == 0:
                gate.prune()
        passed, said = gate.look(1000, window="2026-01-06")[DRIFT]
        assert not passed
        assert said.startswith(f"1000 rows, 200 ± 12 expected from {SHORT} earlier counts;")


def test_what_drift_reads_does_not_grow_with_counts_that_row_count_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_history, "MAX_HISTORY", SHORT)
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"min": 199, "drift": {"severity": "error", "min_history": 3}})
        read: list[int] = []
        of_check = own.event_log_storage.get_asset_check_execution_history

        def counted(*args: object, **more: object) -> Sequence[object]:
            rows = of_check(*args, **more)  # type: ignore[arg-type]
            read.append(len(rows))
            return rows

        for rows in (200, 200, 200, *[198] * 5 * SHORT):
            gate.look(rows)
        monkeypatch.setattr(own.event_log_storage, "get_asset_check_execution_history", counted)
        gate.look(198)
        assert read == [SHORT]


def test_drift_does_not_forget_what_evaluations_without_a_memory_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    # An earlier version of this project stored such evaluations without the counts before them.
    monkeypatch.setattr(check_history, "MAX_HISTORY", SHORT)
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"drift": {"severity": "error", "min_history": 3}})
        for _ in range(3):
            gate.look(200)
        for _ in range(10 * SHORT):
            old: dict[str, Any] = {"rows": 198, "not_in_history": "row_count failed"}
            verdict = dg.AssetCheckResult(asset_key=asset_key(gate.table), check_name=DRIFT, passed=True, metadata=old)
            store(own, verdict, str(uuid.uuid4()))
        assert not gate.look(1000)[DRIFT][0]


def test_drift_of_a_window_does_not_open_by_building_bad_windows() -> None:
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"drift": {"severity": "error", "min_history": 3}}, "daily")
        gate.look_at({f"2026-01-0{day}": 100 for day in range(1, 6)})
        bad = {f"2026-01-{day:02}": 300 for day in range(6, 26)}
        assert not any(results[DRIFT][0] for results in gate.look_at(bad).values())
        assert not gate.look(300, window="2026-01-26")[DRIFT][0]
        assert gate.look(100, window="2026-01-26")[DRIFT][0]


def test_a_count_that_row_count_refuses_is_no_history_of_drift() -> None:
    with dg.DagsterInstance.ephemeral() as own:
        for grain in (None, "daily"):
            gate = Gate(own, {"min": 10, "drift": {"severity": "error", "min_history": 3}}, grain)
            for day in range(1, 9):
                gate.look(0, window=f"2026-01-{day:02}")
            assert gate.look(1000, window="2026-01-09")[DRIFT] == (True, "not compared: 0 earlier counts, 3 are needed")


@GRAINS
def test_an_accepted_level_stays_accepted_when_the_same_rows_are_built_again(grain: str | None) -> None:
    with dg.DagsterInstance.ephemeral() as own:
        gate = Gate(own, {"max_drop": 0.1, "drift": {"severity": "error", "min_history": 3}}, grain)
        for day in range(1, 6):
            assert gate.look(1000, window=f"2026-01-0{day}")[DRIFT][0]
        refused = gate.look(300, window="2026-01-06")
        assert not refused[DRIFT][0]
        assert f"to accept this count as the new level, run with accept_row_counts: [{gate.name}]" in refused[DRIFT][1]
        accepted = gate.look(300, window="2026-01-06", accepted=True)
        assert accepted[ROW_COUNT] == (True, "300 rows; max_drop not checked: accepted by hand")
        assert accepted[DRIFT][0]
        assert accepted[DRIFT][1].endswith(" (accepted by hand)")
        for _ in range(3):
            gate.look("the server is busy", window="2026-01-06")
            assert all(passed for passed, _ in gate.look(300, window="2026-01-06").values())
        # And the level holds for what follows.
        assert gate.look(300, window="2026-01-07")[DRIFT][0]


def test_what_was_accepted_and_by_which_run_is_recorded(instance: dg.DagsterInstance) -> None:
    gate = Gate(instance, {"max_drop": 0.1, "drift": {}})
    gate.look(1000)
    gate.look(1, accepted=True)
    for name in (ROW_COUNT, DRIFT):
        [newest] = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(asset_key(gate.table), name), limit=1
        )
        assert newest.evaluation
        assert newest.evaluation.metadata["accepted_by_hand"] == dg.BoolMetadataValue(value=True)
        assert newest.run_id


def test_evaluations_of_a_partitioned_past_are_not_the_history_of_a_whole_table(instance: dg.DagsterInstance) -> None:
    gate = Gate(instance, {"max_drop": 0.5}, "daily")
    gate.look(10)
    key = dg.AssetCheckKey(asset_key(gate.table), ROW_COUNT)
    assert history_of(instance).last(key, "2026-01-05")
    assert history_of(instance).last(key) is None


def test_a_baseline_outlives_the_evaluation_that_passed(instance: dg.DagsterInstance) -> None:
    # Someone wipes or prunes old events: the failed evaluations since then still know what they are compared with.
    gate = Gate(instance, {"max_drop": 0.5})
    gate.look(100)
    gate.look(10)
    gate.look("the server is busy")
    storage = instance.event_log_storage
    key = dg.AssetCheckKey(asset_key(gate.table), ROW_COUNT)
    *_, oldest = storage.get_asset_check_execution_history(key, limit=10)
    with storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql("delete from asset_check_executions where id = ?", (oldest.id,))
    passed, said = gate.look(10)[ROW_COUNT]
    assert (passed, said.partition(";")[0]) == (
        False,
        "10 rows, 90% fewer than the 100 of the last passed check (max_drop 50%)",
    )


def test_a_run_that_was_queued_long_ago_and_counts_last_is_the_newest(instance: dg.DagsterInstance) -> None:
    # Dagster numbers evaluations when their run is queued.
    gate = Gate(instance, {"max_drop": 0.5})
    key = dg.AssetCheckKey(asset_key(gate.table), ROW_COUNT)
    planned = AssetCheckEvaluationPlanned(asset_key=key.asset_key, check_name=key.name)
    kind = DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value
    instance.report_dagster_event(DagsterEvent(kind, "job", event_specific_data=planned), "first-queued")
    gate.look(100)
    late = dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, passed=True, metadata={"rows": 40})
    kind = DagsterEventType.ASSET_CHECK_EVALUATION.value
    instance.report_dagster_event(DagsterEvent(kind, "job", event_specific_data=late), "first-queued")
    assert gate.look(30)[ROW_COUNT][0]
