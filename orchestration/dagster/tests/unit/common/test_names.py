from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.common.names import (
    apart,
    check_name,
    group_name,
    is_group_name,
    key_part,
    plural,
    unique_metadata_key,
)


@pytest.mark.parametrize(
    ("column", "key"),
    [
        ("customer_id", "unique_customers"),
        ("CUSTOMER_ID", "unique_customers"),
        ("company_key", "unique_companies"),
        ("address_sk", "unique_addresses"),
        ("tax_uuid", "unique_taxes"),
        ("order_date", "unique_order_dates"),
        ("day_id", "unique_days"),
        ("branch", "unique_branches"),
        ("analysis", "unique_analyses"),
        ("email", "unique_emails"),
        ("id", "unique_ids"),
        ("_id", "unique__ids"),
        ("paid", "unique_paids"),
    ],
)
def test_distinct_values_are_named_by_what_they_count(column: str, key: str) -> None:
    assert unique_metadata_key(column) == key


@given(st.text(min_size=1).filter(lambda noun: not noun.endswith("sis")))
def test_a_plural_starts_like_its_noun_and_is_longer(noun: str) -> None:
    assert plural(noun).startswith(noun[:-1])
    assert len(plural(noun)) > len(noun)


@given(st.text(min_size=1))
def test_any_name_becomes_one_that_dagster_takes_and_good_ones_stay(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.]+", check_name(name))
    assert is_group_name(group_name(name))
    assert not set(key_part(name)) & set(" /\\\"'*%:$\n\t")
    for made in (check_name, key_part, group_name):
        assert made(made(name)) == made(name)


def test_dbts_own_names_stay_as_they_are() -> None:
    for name in ("stg_orders", "not_null_stg_orders__airbyte_extracted_at", "dim_v1.2"):
        assert check_name(name) == key_part(name) == name
    assert key_part("dim-customer") == "dim-customer"


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


LETTERS = st.characters(categories=["L", "N"], include_characters="_")


@given(st.lists(st.text(LETTERS, min_size=1), min_size=2, max_size=6, unique_by=nfc))
def test_names_of_letters_and_digits_of_any_script_stay_apart(names: list[str]) -> None:
    for made in (check_name, key_part):
        assert len({made(name) for name in names}) == len(names)
    assert len(set(apart(names, group_name).values())) == len(names)


@given(st.lists(st.text(min_size=1, max_size=6), max_size=8))
def test_groups_stay_apart_whatever_they_are_called_and_in_whatever_order_they_come(names: list[str]) -> None:
    made = apart(names, group_name)
    assert len(set(made.values())) == len({*names})
    assert apart(reversed(names), group_name) == made
    assert all(is_group_name(name) for name in made.values())


@pytest.mark.parametrize("name", ["kündigungen", "kunden_ä", "注文", "заказы", "हिन्दी"])
def test_a_model_keeps_its_name_in_any_script(name: str) -> None:
    assert key_part(name) == name
    assert key_part(unicodedata.normalize("NFD", name)) == nfc(name)
