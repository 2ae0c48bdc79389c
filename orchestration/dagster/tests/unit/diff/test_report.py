"""The reports of differences."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.diff.compare import Difference, Sample
from lakehouse_analytics.diff.report import as_json, as_markdown, as_text


def difference(**values: Any) -> Difference:
    counts = {"base_rows": 10, "head_rows": 11, "added": 2, "removed": 1, "changed": 3, "unchanged": 6}
    texts = {"table": "gold/t", "base": "snapshot:7", "head": "main", "key_origin": "dbt's test unique"}
    return Difference(**{**texts, **counts, "key": ("id",), **values})


SAMPLES = [
    Sample("added", {"id": "1"}, {"name": "a|`b`\n", "n": None}),
    Sample("removed", {}, {"id": "2", "name": ""}, 3),
    Sample("changed", {"id": "3"}, {"n": ("1", None)}),
]


def test_markdown_for_a_comment() -> None:
    text = as_markdown(
        difference(
            columns={"a": 1, "b|c": 3, "d": 0},
            only_head={"new": "bigint"},
            types={"n": ("integer", "bigint")},
            excluded=["loaded_at"],
            notes=["main has 1 row whose key is null or not a number."],
        )
    )
    assert text == (
        "### `gold/t`: `snapshot:7` → `main`\n\n"
        "| | rows |\n|---|---:|\n| before | 10 |\n| after | 11 |\n"
        "| added | 2 |\n| removed | 1 |\n| changed | 3 |\n| unchanged | 6 |\n\n"
        "| column | changed values | of matched rows |\n|---|---:|---:|\n"
        "| `b\\|c` | 3 | 33.3 % |\n| `a` | 1 | 11.1 % |\n\n"
        "Rows are matched by `id` (dbt's test unique).\n\n"
        "Only in `main`: new (bigint).\n\n"
        "Type of `n`: integer → bigint.\n\n"
        "Not compared: `loaded_at`.\n\n"
        "main has 1 row whose key is null or not a number."
    )


def test_no_difference() -> None:
    same = difference(added=0, removed=0, changed=0, unchanged=11, base_rows=11)
    assert as_markdown(same).splitlines()[2] == "No differences in 11 rows."
    assert json.loads(as_json(same))["equal"] is True


def test_examples() -> None:
    text = as_text(difference(samples=SAMPLES))
    assert "  id 1: name a|`b`\\u000a, n null" in text
    assert "  id 2, name '' (3 rows)" in text
    assert "  id 3: n 1 → null" in text
    markdown = as_markdown(difference(samples=SAMPLES))
    assert "- id `1`: name ``a|`b`\\u000a``" in markdown
    found = json.loads(as_json(difference(samples=SAMPLES)))["samples"]
    assert found[2] == {"kind": "changed", "key": {"id": "3"}, "rows": 1, "values": {"n": {"base": "1", "head": None}}}


@given(value=st.text(max_size=200))
def test_a_value_never_adds_a_line(value: str) -> None:
    sample = [Sample("added", {"id": value}, {"n": value})]
    plain = difference(samples=[Sample("added", {"id": "1"}, {"n": "1"})])
    odd = difference(samples=sample)
    assert len(as_markdown(odd).splitlines()) == len(as_markdown(plain).splitlines())
    assert len(as_text(odd).splitlines()) == len(as_text(plain).splitlines())
