"""Durations in messages."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.common import durations
from lakehouse_analytics.contract.models import Maintenance

SIZES = {"s": 1, "min": 60, "h": 3_600, "days": 86_400}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (-0.2, "0 s"),
        (74.6, "75 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (61 * 60 + 59, "61 min"),
        (7_200, "2 h"),
        (2 * 3_600 + 5 * 60, "2 h 5 min"),
        (30 * 3_600 + 5 * 60 + 59, "30 h 5 min"),
        (-30 * 3_600, "-30 h"),
        (7 * 86_400, "7 days"),
        (7 * 86_400 + 3_700, "7 days 1 h"),
    ],
)
def test_a_duration_is_rounded_to_its_two_largest_units(seconds: float, expected: str) -> None:
    assert durations.rounded(seconds) == expected
    assert durations.rounded(timedelta(seconds=seconds)) == expected


@given(st.floats(-1e8, 1e8))
def test_a_rounded_duration_is_less_than_one_of_its_units_too_short(seconds: float) -> None:
    text = durations.rounded(seconds)
    parts = re.findall(r"(\d+) (\w+)", text)
    total = sum(int(number) * SIZES[unit] for number, unit in parts)
    smallest = {"s": 1, "min": 60, "h": 60, "days": 3_600}[parts[0][1]]
    assert 0 <= round(abs(seconds)) - total < smallest
    assert text.startswith("-") == (round(seconds) < 0)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (timedelta(), "0s"),
        (timedelta(days=7), "7d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=90), "90s"),
        (timedelta(milliseconds=1500), "1.5s"),
    ],
)
def test_a_setting_is_in_its_largest_unit(time: timedelta, expected: str) -> None:
    assert durations.exact(time) == expected


@given(st.integers(1, 10**8))
def test_a_contract_reads_what_is_written(seconds: int) -> None:
    time = timedelta(seconds=seconds)
    assert Maintenance.model_validate({"retain": durations.exact(time)}).retain == time
