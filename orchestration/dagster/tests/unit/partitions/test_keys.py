"""Keys of two dimensions."""

from __future__ import annotations

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.partitions.keys import joined_key, partition_stretches, split_key


@pytest.mark.parametrize("column", ["area", "market"])
def test_a_key_is_that_of_dagsters_dimensions(column: str) -> None:
    definition = dg.MultiPartitionsDefinition(
        {"date": dg.StaticPartitionsDefinition(["2026-03-01"]), column: dg.StaticPartitionsDefinition(["it's"])}
    )
    key = joined_key(column, "2026-03-01", "it's")
    assert definition.get_partition_keys() == [key]
    assert split_key(column, str(key)) == ("2026-03-01", "it's")


@given(known=st.lists(st.sampled_from("abcdefgh"), unique=True), wanted=st.sets(st.sampled_from("abcdefghij")))
def test_stretches_are_consecutive_and_cover_what_is_wanted(known: list[str], wanted: set[str]) -> None:
    found = partition_stretches(known, wanted)
    assert [key for stretch in found for key in stretch] == [key for key in known if key in wanted]
    for stretch in found:
        first = known.index(stretch[0])
        assert known[first : first + len(stretch)] == stretch
