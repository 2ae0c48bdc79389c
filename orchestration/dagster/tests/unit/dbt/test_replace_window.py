"""How dbt/macros/replace_window.sql cuts a window, by rendering its macros alone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
from hypothesis import given
from hypothesis import strategies as st

MACROS = Path(__file__).parents[5] / "dbt" / "macros" / "replace_window.sql"
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
Window = tuple[dt.datetime, dt.datetime]


class _ReturnedError(Exception):
    """How dbt's `return` leaves a macro."""


def _macro(name: str) -> Callable[..., Any]:
    environment = jinja2.Environment(extensions=["jinja2.ext.do"], autoescape=False)

    def leave(value: object) -> None:
        raise _ReturnedError(value)

    def returning(macro: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: object) -> object:
            try:
                return macro(*arguments)
            except _ReturnedError as returned:
                return returned.args[0]

        return call

    made: dict[str, Any] = {"return": leave, "modules": SimpleNamespace(datetime=dt, re=re)}
    # dbt looks every macro up by name, and each of them returns to its caller.
    module = environment.from_string(
        re.sub(r"\bpartition_start\(", "called.partition_start(", MACROS.read_text()).replace(
            "macro called.partition_start(", "macro partition_start("
        ),
        globals={**made, "called": made},
    ).module
    made["partition_start"] = returning(getattr(module, "partition_start"))  # noqa: B009  # a macro
    return returning(getattr(module, name))


window_pieces = _macro("window_pieces")
whole_partitions = _macro("whole_partitions")

windows = st.tuples(
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2030, 1, 1)),
    st.timedeltas(dt.timedelta(microseconds=1), dt.timedelta(days=800)),
).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
days = st.tuples(st.dates(dt.date(2000, 1, 1), dt.date(2030, 1, 1)), st.integers(1, 800)).map(
    lambda drawn: (start := dt.datetime.combine(drawn[0], dt.time()), start + drawn[1] * DAY)
)


@given(
    window=st.one_of(windows, days),
    length=st.integers(1, 100),
    partition=st.sampled_from(["hour", "day", "month", None]),
)
def test_pieces_cover_the_window_once_and_are_no_longer_than_allowed(
    window: Window, length: int, partition: str | None
) -> None:
    unit = HOUR if partition == "hour" else DAY
    pieces = window_pieces(*window, length, partition)
    assert pieces[0][0] == window[0]
    assert pieces[-1][1] == window[1]
    assert [end for _, end in pieces[:-1]] == [start for start, _ in pieces[1:]]
    epoch = dt.datetime(1970, 1, 1)
    for start, end in pieces:
        assert start < end
        partitions = -((epoch - end) // unit) - (start - epoch) // unit
        assert partitions <= length
    # And not more pieces than that needs.
    assert len(pieces) == -(((window[0] - epoch) // unit + (epoch - window[1]) // unit) // length)


@given(
    window=st.one_of(windows, days),
    minutes=st.integers(10, 3 * 24 * 60),
    partition=st.sampled_from(["hour", "day", "month", None]),
)
def test_pieces_of_a_duration_cover_the_window_once(window: Window, minutes: int, partition: str | None) -> None:
    window = (window[0], min(window[1], window[0] + 3 * DAY))
    length = dt.timedelta(minutes=minutes)
    pieces = window_pieces(*window, length, partition)
    assert (pieces[0][0], pieces[-1][1]) == window
    assert [end for _, end in pieces[:-1]] == [start for start, _ in pieces[1:]]
    assert all(dt.timedelta() < end - start <= length for start, end in pieces)
    if DAY % length == dt.timedelta() and partition != "hour":
        # Cuts at the same hours of each day: no piece writes into two day partitions.
        assert all(start.date() == (end - dt.timedelta(microseconds=1)).date() for start, end in pieces)


def test_a_window_within_the_limit_is_one_piece() -> None:
    window = (dt.datetime(2026, 1, 1), dt.datetime(2026, 4, 1))
    assert window_pieces(*window, 90, "day") == [window]
    assert len(window_pieces(*window, 89, "day")) == 2
    assert len(window_pieces(*window, 90, "hour")) == 24


@given(window=windows, partition=st.sampled_from(["hour", "day", "month", "year"]))
def test_only_whole_partitions_of_the_window_are_compacted(window: Window, partition: str) -> None:
    start, end = whole_partitions(*window, partition)
    fields = {"hour": "%H", "day": "%d", "month": "%m", "year": "%Y"}[partition]
    before = dt.timedelta(microseconds=1)
    for border in (start, end):
        assert (border - before).strftime(fields) != border.strftime(fields)
        assert (border.minute, border.second, border.microsecond) == (0, 0, 0)
    if start < end:
        assert window[0] <= start
        assert end <= window[1]
    # What is left out at either side is less than a partition.
    longest = {"hour": HOUR, "day": DAY, "month": 31 * DAY, "year": 366 * DAY}[partition]
    assert start - window[0] < longest
    assert window[1] - end < longest
