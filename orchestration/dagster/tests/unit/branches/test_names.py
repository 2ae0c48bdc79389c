"""The names of branches."""

from __future__ import annotations

import pytest
from lakehouse_analytics.branches.catalog import BranchError, Name, branch_schema
from lakehouse_analytics.branches.names import branch_name


@pytest.mark.parametrize(
    ("text", "name"), [("pr-42", "pr_42"), ("PR-42", "pr_42"), ("feature/new.totals", "feature_new_totals"), ("a", "a")]
)
def test_names_become_parts_of_schemas(text: str, name: str) -> None:
    assert branch_name(text) == name
    assert branch_schema("gold", branch_name(text)) == f"gold__{name}"
    assert Name("gold", "t").on(name) == Name(f"gold__{name}", "t")


@pytest.mark.parametrize("text", ["", "a__b", "ä", "-", "x" * 49, "a;b"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(BranchError, match="is not a name of a branch: expected up to 48"):
        branch_name(text)
