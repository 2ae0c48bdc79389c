"""`partition` of a contract: a length of time, or a column and its values."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.contract.models import ContractError, ModelContract, parse
from lakehouse_analytics.contract.partitions import ColumnPartition, is_partition_value


def contract(partition: Any) -> ModelContract:
    return parse(ModelContract, {"partition": partition}, resource="model m", files=["m.yml"])


def test_a_column_with_values_or_without() -> None:
    listed = contract({"by": "Region", "values": ["IT", "Köln's", 7]}).partition
    assert listed == ColumnPartition(by="region", values=("IT", "Köln's", "7"))
    assert contract({"by": "customer_id"}).partition == ColumnPartition(by="customer_id")
    assert contract("daily").partition == "daily"
    both = ColumnPartition(by="region", values=("IT",), grain="daily")
    assert contract({"grain": "daily", "by": "region", "values": ["IT"]}).partition == both


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        ("yearly", "meta.lakehouse.partition is 'yearly': input should be 'hourly', 'daily', 'weekly' or 'monthly'"),
        (["region"], "meta.lakehouse.partition is ['region']"),
        ({}, "meta.lakehouse.partition.by is missing"),
        ({"by": ""}, "meta.lakehouse.partition.by is ''"),
        ({"by": "lower(region)"}, "meta.lakehouse.partition.by is 'lower(region)'"),
        ({"by": "monthly"}, "partition.by is 'monthly': the job of these models would be monthly_refresh"),
        ({"by": "region", "value": ["IT"]}, "unknown key meta.lakehouse.partition.value; did you mean `values`?"),
        ({"by": "region", "values": "IT"}, "meta.lakehouse.partition.values is 'IT'"),
        ({"by": "region", "values": []}, "meta.lakehouse.partition.values is []"),
        ({"by": "region", "values": ["IT", ""]}, "meta.lakehouse.partition.values.1 is ''"),
        ({"by": "region", "values": ["IT", False]}, "a value is true or false, as which YAML reads NO, yes and on"),
        ({"by": "region", "values": ["IT", 1.5]}, "meta.lakehouse.partition.values.1 is 1.5"),
        ({"by": "region", "values": ["IT", "IT"]}, "'IT' is listed more than once"),
        ({"by": "region", "values": ["a...b"]}, "'a...b' has `...` or a control character"),
        ({"by": "region", "values": ["a\nb"]}, "has `...` or a control character"),
        ({"by": "region", "grain": "yearly"}, "meta.lakehouse.partition.grain is 'yearly': input should be 'hourly'"),
        ({"grain": "daily"}, "meta.lakehouse.partition.by is missing"),
        ({"by": "date", "grain": "daily"}, "`by: date` is the name of the dimension of time"),
        ({"by": "region", "grain": "daily", "values": ["a|b"]}, "'a|b' has `|`, which separates the dimensions"),
    ],
)
def test_a_mistake_names_the_key_and_what_was_expected(partition: Any, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        contract(partition)
    assert str(caught.value).startswith("m.yml: model m: ")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["IT", "it's", "数量", " ", "a..b", '"', "1|2"])
def test_dagster_accepts_what_the_contract_does(value: str) -> None:
    import dagster as dg

    assert is_partition_value(value)
    assert dg.StaticPartitionsDefinition([value]).get_partition_keys() == [value]
