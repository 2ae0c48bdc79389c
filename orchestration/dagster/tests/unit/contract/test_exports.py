from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.contract.exports import ExposureContract, Serve, ServeOfExposure
from lakehouse_analytics.contract.models import ContractError, ModelContract, parse


def model(raw: Any) -> tuple[Serve, ...]:
    return parse(ModelContract, {"serve": raw}, resource="model fct", files=["models/gold.yml"]).serve


def mistake(raw: Any) -> str:
    with pytest.raises(ContractError) as caught:
        model(raw)
    return str(caught.value)


def test_one_copy_or_several() -> None:
    one = {"to": "clickhouse", "table": "reporting.daily_revenue", "key": ["order_date"]}
    assert model(one) == (Serve(to="clickhouse", table="reporting.daily_revenue", key=("order_date",)),)
    first, second = model([one, {"to": "crm", "table": "daily", "key": "day"}])
    assert (first.schema_name, first.table_name) == ("reporting", "daily_revenue")
    assert (second.schema_name, second.table_name, second.key) == (None, "daily", ("day",))
    assert parse(ModelContract, {}, resource="model fct", files=[]).serve == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"to": "ch", "tabel": "a"}, "unknown key meta.lakehouse.serve.0.tabel; did you mean `table`?"),
        ({"to": "ch"}, "meta.lakehouse.serve.0.table is missing"),
        ([{"to": "a", "table": "b"}, {"to": "c-d", "table": "b"}], "meta.lakehouse.serve.1.to is 'c-d': string should"),
        ({"to": "ch", "table": "a.b.c"}, "table is 'a.b.c': expected <table> or <schema>.<table>, of letters, digits"),
        ({"to": "ch", "table": "a b"}, "table is 'a b': expected <table> or <schema>.<table>"),
        ({"to": "ch", "table": "a" * 41}, "expected names of at most 40 characters"),
        ({"to": "ch", "table": "t__lakehouse_0"}, "__lakehouse_ is part of the names of staged tables"),
        ({"to": "ch", "table": "t", "key": ["a", "b", "a"]}, "column a is listed twice"),
        ("clickhouse", "meta.lakehouse.serve.0 is 'clickhouse': input should be a valid dictionary"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_to_write(raw: Any, message: str) -> None:
    assert message in mistake(raw)
    assert mistake(raw).startswith("models/gold.yml: model fct: ")


def test_the_copy_of_an_exposure_may_name_its_model() -> None:
    raw = {"serve": {"to": "ch", "table": "t", "model": "days"}}
    found = parse(ExposureContract, raw, resource="exposure sales", files=[]).serve
    assert found == (ServeOfExposure(to="ch", table="t", model="days"),)
    with pytest.raises(ContractError, match=r"x\.yml: exposure sales: unknown key meta\.lakehouse\.serve\.0\.modle"):
        parse(ExposureContract, {"serve": {"modle": "days"}}, resource="exposure sales", files=["x.yml"])
    assert "unknown key meta.lakehouse.serve.0.model" in mistake(raw["serve"])
