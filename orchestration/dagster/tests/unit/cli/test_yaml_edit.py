"""Keys are added to a YAML file as a person would: everything else stays, comments included."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.cli.yaml_edit import CannotEditError, with_keys
from lakehouse_analytics.contract.models import deep_merge

BRONZE = {"+meta": {"lakehouse": {"layer": "bronze"}}}
PROJECT = """\
# The shop.
name: shop
models:
  # All of it.
  shop:
    +materialized: table  # not views
    staging:
      +materialized: view
    marts: {+schema: marts, +meta: {owner: me}}
    flat:
      +meta: {owner: me}
    tall:
      +meta:
        owner: me

vars:
    start: 2020-01-01
"""


def test_keys_are_added_beside_those_that_are_there() -> None:
    additions = {"models": {"shop": {"staging": BRONZE, "new": {"inner": BRONZE}}}, "seeds": {"shop": BRONZE}}
    assert with_keys(PROJECT, additions) == (
        PROJECT.replace(
            "    +materialized: table  # not views\n    staging:\n",
            "    new:\n      inner: {+meta: {lakehouse: {layer: bronze}}}\n"
            "    +materialized: table  # not views\n    staging:\n      +meta: {lakehouse: {layer: bronze}}\n",
        )
        + "seeds:\n  shop: {+meta: {lakehouse: {layer: bronze}}}\n"
    )


@pytest.mark.parametrize("folder", ["marts", "flat", "tall"])
def test_a_meta_that_is_there_keeps_its_keys(folder: str) -> None:
    edited = with_keys(PROJECT, {"models": {"shop": {folder: BRONZE}}})
    assert yaml.safe_load(edited)["models"]["shop"][folder]["+meta"] == {
        "owner": "me",
        "lakehouse": {"layer": "bronze"},
    }
    assert "# not views" in edited


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: shop",
        "name: shop\nmodels: {}\n",
        "models:\n",
        "models:\n  shop:\n    a:\n    b: {+tags: x}\n",
        "models:\n  shop: # all\n",
        "models: {shop: {+enabled: true}}",
        "models:\n  shop:\n    a:\n      +tags: [x]\n  ",
    ],
)
def test_short_files_get_every_key(text: str) -> None:
    additions = {"models": {"shop": {"a": BRONZE}}}
    assert yaml.safe_load(with_keys(text, additions)) == deep_merge(yaml.safe_load(text) or {}, additions)


@pytest.mark.parametrize(
    "text",
    [
        "models:\n  shop: &same {+tags: x}\nseeds:\n  shop: *same\n",  # an alias would change with it
        "models: [a]\n",
        "models: {shop: {+tags: a}}\nmodels: {shop: {+tags: b}}\n",
        "a: b\n...\n",
        "a: [\n",
    ],
)
def test_a_file_that_cannot_be_edited_is_refused(text: str) -> None:
    with pytest.raises(CannotEditError):
        with_keys(text, {"models": {"shop": BRONZE}})


NAMES = st.sampled_from(["shop", "staging", "a b", "ä", "+tags", "on", "1"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.sampled_from(["x", "a: b", "# no", ""]), st.lists(st.integers(), max_size=2)
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda below: st.dictionaries(NAMES, st.one_of(LEAVES, below), max_size=3),
    max_leaves=12,
)
ADDITIONS = st.recursive(
    st.just(BRONZE), lambda below: st.dictionaries(NAMES, below, min_size=1, max_size=3), max_leaves=6
)


@given(TREES, ADDITIONS, st.sampled_from([None, True, False]), st.sampled_from([2, 4]))
def test_the_file_is_what_both_say_or_refused(before: Any, additions: Any, style: bool | None, indent: int) -> None:
    text = yaml.safe_dump({"models": before}, default_flow_style=style, indent=indent, allow_unicode=True)
    try:
        edited = with_keys(text, {"models": additions})
    except CannotEditError:
        # Only where a name that leads to the additions holds something else than a mapping.
        assert not fits(before, additions)
        return
    assert yaml.safe_load(edited) == deep_merge({"models": before}, {"models": additions})


def fits(before: Any, additions: Any) -> bool:
    if not isinstance(additions, dict) or before is None:
        return True
    return isinstance(before, dict) and all(fits(before.get(key), value) for key, value in additions.items())
