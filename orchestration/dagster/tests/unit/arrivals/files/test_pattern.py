"""Patterns of files."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.files.pattern import FilePattern


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("s3://landing/dam/{date:%Y-%m-%d}_*.csv", "s3://landing/dam"),
        ("s3://landing/*.csv", "s3://landing"),
        ("/data/in/**/prices.csv", "/data/in"),
        ("/data/in/prices.csv", "/data/in"),
        ("/data/in/pre*.csv", "/data/in"),
    ],
)
def test_the_root_is_the_folder_before_the_first_special_character(text: str, root: str) -> None:
    assert FilePattern(text).root == root


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("/in/*.csv", "a.csv", True),
        ("/in/*.csv", "sub/a.csv", False),
        ("/in/*.csv", "a.csv.gz", False),
        ("/in/**.csv", "sub/a.csv", True),
        ("/in/**/a.csv", "a.csv", True),
        ("/in/**/a.csv", "x/y/a.csv", True),
        ("/in/a+b(1).csv", "a+b(1).csv", True),
        ("/in/a.csv", "aXcsv", False),
        ("/in/**.csv", "_loaded/a.csv", False),
        ("/in/**.csv", "_quarantine/a.csv", False),
        ("/in/{date}_x.csv", "2026-01-31_x.csv", True),
        ("/in/{date:%Y/%m/%d}/x.csv", "2026/01/31/x.csv", True),
        ("/in/{date:%Y%m%d%H}.csv", "2026013123.csv", True),
        ("/in/{date}_x.csv", "26-1-31_x.csv", False),
    ],
)
def test_what_matches(text: str, path: str, expected: bool) -> None:
    assert FilePattern(text).matches(path) is expected


@given(day=st.dates(), name=st.text("abc-_ é", max_size=5))
@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "year=%Y/month=%m/day=%d"])
def test_the_date_of_a_path_is_the_one_it_was_written_with(form: str, day: date, name: str) -> None:
    pattern = FilePattern(f"/in/{{date:{form}}}_*.csv")
    # strftime does not pad years before 1000.
    path = f"{day.strftime(form.replace('%Y', f'{day.year:04}'))}_{name}.csv"
    assert pattern.matches(path)
    assert pattern.date_of(path) == day


def test_a_date_that_does_not_exist_is_none() -> None:
    pattern = FilePattern("/in/{date}.csv")
    assert pattern.matches("2026-02-30.csv")
    assert pattern.date_of("2026-02-30.csv") is None
    assert FilePattern("/in/*.csv").date_of("2026-02-03.csv") is None
