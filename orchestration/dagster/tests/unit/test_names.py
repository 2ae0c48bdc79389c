from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.names import check_name, key_part, plural, unique_metadata_key


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
        ("email", "unique_emails"),
        ("id", "unique_ids"),
        ("_id", "unique__ids"),
        ("paid", "unique_paids"),
    ],
)
def test_distinct_values_are_named_by_what_they_count(column: str, key: str) -> None:
    assert unique_metadata_key(column) == key


@given(st.text(min_size=1))
def test_a_plural_starts_like_its_noun_and_is_longer(noun: str) -> None:
    assert plural(noun).startswith(noun[:-1])
    assert len(plural(noun)) > len(noun)


@given(st.text(min_size=1))
def test_any_name_becomes_one_that_dagster_takes_and_good_ones_stay(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.]+", check_name(name))
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", key_part(name))
    assert check_name(check_name(name)) == check_name(name)


def test_dbts_own_names_stay_as_they_are() -> None:
    for name in ("stg_orders", "not_null_stg_orders__airbyte_extracted_at", "dim_v1.2"):
        assert check_name(name) == key_part(name) == name
    assert key_part("dim-customer") == "dim-customer"
