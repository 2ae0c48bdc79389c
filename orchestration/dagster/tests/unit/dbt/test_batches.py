from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.dbt.batches import BatchErrors, Batches
from lakehouse_analytics.dbt.run_results import NodeResult
from lakehouse_analytics.partitions.definitions import Window

EVENTS = "model.shop.events"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> tuple[datetime, datetime]:
    start = BEGIN + timedelta(days=number - 1)
    return start, start + timedelta(days=1)


def window(number: int) -> Window:
    start, end = day(number)
    return Window(f"{start:%Y-%m-%d}", start, end)


def error(thread: str, reason: str) -> tuple[str, str, Any]:
    node = SimpleNamespace(unique_id=EVENTS)
    return "CatchableExceptionOnRun", thread, SimpleNamespace(node_info=node, exc=reason)


def result(thread: str, number: int, status: str) -> tuple[str, str, Any]:
    node = SimpleNamespace(unique_id=EVENTS)
    return "LogBatchResult", thread, SimpleNamespace(node_info=node, batch_index=number, status=status)


def test_a_reason_belongs_to_the_next_result_of_its_thread() -> None:
    reasons = BatchErrors()
    for event in [
        error("1", "of batch 2"),
        error("2", "of batch 1"),
        ("MainReportVersion", "1", None),
        result("2", 1, "error"),
        result("1", 2, "error"),
        error("1", "of a model that was tried again"),
        result("1", 3, "OK"),
        result("1", 4, "error"),  # without a reason of its own
    ]:
        reasons.record(*event)
    assert reasons.for_model(EVENTS) == {1: "of batch 1", 2: "of batch 2"}
    assert reasons.for_model("model.shop.other") == {}


def test_failed_batches_are_named_with_their_reasons() -> None:
    batches = Batches([day(1), day(5)], [day(4), day(2), day(3)], {day(2)[0]: "bad", day(3)[0]: "bad"})
    assert batches.message.splitlines() == [
        "3 of 5 batches failed, the others were replaced:",
        "2026-01-02, 2026-01-03: bad",
        "2026-01-04: dbt gave no reason",
    ]
    assert Batches([day(1)], []).message == ""


def test_many_reasons_are_cut() -> None:
    batches = Batches([], [day(n) for n in range(1, 7)], {day(n)[0]: f"reason {n}" for n in range(1, 7)})
    assert batches.message.count("reason ") == 3
    assert "and 3 further reasons" in batches.message


@given(st.data())
def test_each_window_is_replaced_or_has_a_reason(data: st.DataObject) -> None:
    numbers = range(1, data.draw(st.integers(1, 8)) + 1)
    states = {n: data.draw(st.sampled_from(["replaced", "failed", "absent"])) for n in numbers}
    reasons = {
        day(n)[0]: f"reason {n}" for n, state in states.items() if state == "failed" and data.draw(st.booleans())
    }
    batches = Batches(
        [day(n) for n, state in states.items() if state == "replaced"],
        [day(n) for n, state in states.items() if state == "failed"],
        reasons,
    )
    found = batches.errors_by_window(window(n) for n in numbers)
    assert {w.key: reason is None for w, reason in found.items()} == {
        window(n).key: state == "replaced" for n, state in states.items()
    }
    for n in numbers:
        if day(n)[0] in reasons:
            assert found[window(n)] == f"reason {n}"


def test_a_window_of_several_batches_is_replaced_only_if_all_of_them_were() -> None:
    hours = [(BEGIN + timedelta(hours=h), BEGIN + timedelta(hours=h + 1)) for h in range(24)]
    assert Batches(hours, []).errors_by_window([window(1)]) == {window(1): None}
    assert Batches(hours[:-1], hours[-1:], {hours[-1][0]: "bad"}).errors_by_window([window(1)]) == {window(1): "bad"}


@pytest.mark.parametrize("reasons", [{1: "bad day"}, {}])
def test_the_result_of_a_microbatch_model_has_the_reasons(reasons: dict[int, str]) -> None:
    def written(*numbers: int) -> list[list[str]]:
        return [[moment.isoformat() for moment in day(number)] for number in numbers]

    item = {
        "unique_id": EVENTS,
        "status": "partial success",
        "message": "PARTIAL SUCCESS (1/2)",
        "batch_results": {"successful": written(2), "failed": written(1)},
    }
    reason = reasons.get(1, "dbt gave no reason")
    message = f"1 of 2 batches failed, the others were replaced:\n2026-01-01: {reason}"
    assert NodeResult.read(item, reasons).message == message
    assert NodeResult.read({"unique_id": "a", "status": "success"}).batches is None
