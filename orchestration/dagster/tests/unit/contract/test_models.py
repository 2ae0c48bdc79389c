from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import (
    ContractError,
    Drift,
    ModelContract,
    Rows,
    SourceContract,
    deep_merge,
    is_owner,
    parse,
)

FILES = ["models/gold/models.yml", "models/gold/fct.sql", "models/gold/models.yml"]


def model(raw: Any) -> ModelContract:
    return parse(ModelContract, raw, resource="model fct", files=FILES)


def mistake(raw: Any, kind: type[Any] = ModelContract) -> str:
    with pytest.raises(ContractError) as caught:
        parse(kind, raw, resource="model fct", files=FILES)
    return str(caught.value)


def test_a_full_contract_is_taken_as_written() -> None:
    found = model(
        {
            "layer": "gold",
            "rows": {
                "not_empty": False,
                "min": 10,
                "max": 10,
                "max_drop": 0.25,
                "severity": "warn",
                "drift": {"mads": 4, "min_history": 3, "severity": "error"},
            },
            "distinct": ["customer_id", "order_id"],
            "freshness": {"within": "6h", "cron": "0 6 * * *", "column": "ordered_at"},
            "owner": "team:growth",
            "automation": "eager",
            "partition": "daily",
            "pool": "heavy",
            "kubernetes": {"cpu": "500m", "memory": "4Gi"},
            "maintenance": {"optimize": False, "retain": "7d"},
        }
    )
    drift = Drift(mads=4, min_history=3, severity="error")
    assert found.rows == Rows(not_empty=False, min=10, max=10, max_drop=0.25, severity="warn", drift=drift)
    assert found.distinct == ("customer_id", "order_id")
    assert found.freshness is not None
    assert found.freshness.within == timedelta(hours=6)
    assert found.maintenance is not None
    assert found.maintenance.retain == timedelta(days=7)
    assert found.ineffective_keys() == ["pool", "kubernetes"]


@pytest.mark.parametrize("raw", [None, {}])
def test_saying_nothing_is_a_contract_without_rules(raw: Any) -> None:
    assert model(raw) == ModelContract()
    assert model(raw).ineffective_keys() == []


@pytest.mark.parametrize("raw", ["bronze", ["bronze"], 3, True, 0, "", [], False])
def test_anything_but_a_mapping_is_refused(raw: Any) -> None:
    assert f"meta.lakehouse must be a mapping, not {type(raw).__name__}" in mistake(raw)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"layer": "brass"}, "layer is 'brass'"),
        ({"layer": ["gold"]}, "layer is ['gold']"),
        ({"rows": 100}, "rows is 100"),
        ({"rows": True}, "rows is True"),
        ({"rows": []}, "rows is []"),
        ({"rows": {"min": "100"}}, "rows.min is '100'"),
        ({"rows": {"min": 1.0}}, "rows.min is 1.0"),
        ({"rows": {"min": True}}, "rows.min is True"),
        ({"rows": {"min": -1}}, "rows.min is -1"),
        ({"rows": {"max": "many"}}, "rows.max is 'many'"),
        ({"rows": {"not_empty": "yes"}}, "rows.not_empty is 'yes'"),
        ({"rows": {"not_empty": 1}}, "rows.not_empty is 1"),
        ({"rows": {"max_drop": "0.5"}}, "rows.max_drop is '0.5'"),
        ({"rows": {"max_drop": True}}, "rows.max_drop is True"),
        ({"rows": {"max_drop": 50}}, "rows.max_drop is 50"),
        ({"rows": {"max_drop": -0.1}}, "rows.max_drop is -0.1"),
        ({"rows": {"max_drop": float("nan")}}, "rows.max_drop is nan"),
        ({"rows": {"severity": "fatal"}}, "rows.severity is 'fatal'"),
        ({"rows": {"severity": "ERROR"}}, "rows.severity is 'ERROR'"),
        ({"rows": {"drift": True}}, "rows.drift is True"),
        ({"rows": {"drift": {"mads": 0}}}, "rows.drift.mads is 0"),
        ({"rows": {"drift": {"mads": "6"}}}, "rows.drift.mads is '6'"),
        ({"rows": {"drift": {"mads": float("inf")}}}, "rows.drift.mads is inf"),
        ({"rows": {"drift": {"min_history": 2}}}, "rows.drift.min_history is 2"),
        ({"distinct": "customer_id"}, "distinct is 'customer_id'"),
        ({"distinct": [1]}, "distinct.0 is 1"),
        ({"distinct": ["ok", ""]}, "distinct.1 is ''"),
        ({"distinct": {"a": 1}}, "distinct is {'a': 1}"),
        ({"freshness": "26h"}, "freshness is '26h'"),
        ({"freshness": {"within": "26h", "column": 3}}, "freshness.column is 3"),
        ({"owner": 5}, "owner is 5"),
        ({"owner": ["team:a"]}, "owner is ['team:a']"),
        ({"automation": "eagre"}, "automation is 'eagre'"),
        ({"partition": "yearly"}, "partition is 'yearly'"),
        ({"pool": "a b"}, "pool is 'a b'"),
        ({"kubernetes": {"cpu": 2}}, "kubernetes.cpu is 2"),
        ({"kubernetes": {"memory": "4 GB"}}, "kubernetes.memory is '4 GB'"),
        ({"maintenance": {"optimize": "on"}}, "maintenance.optimize is 'on'"),
        ({"maintenance": {"retain": 7}}, "maintenance.retain is 7"),
        ({"maintenance": {"orphans": "week"}}, "maintenance.orphans is 'week'"),
        ({"maintenance": {"small_file": "64 MB"}}, "maintenance.small_file is '64 MB'"),
        ({"maintenance": {"small_file": "64MiB"}}, "maintenance.small_file is '64MiB'"),
        ({"maintenance": {"small_file": "0MB"}}, "maintenance.small_file is '0MB'"),
        ({"maintenance": {"small_file": 64}}, "maintenance.small_file is 64"),
        ({"maintenance": {"small_files": 0}}, "maintenance.small_files is 0"),
        ({"maintenance": {"small_manifests": 0}}, "maintenance.small_manifests is 0"),
        ({"maintenance": {"deleted": 0}}, "maintenance.deleted is 0"),
        ({"maintenance": {"deleted": 10}}, "maintenance.deleted is 10"),
        ({"maintenance": {"changed": 1.5}}, "maintenance.changed is 1.5"),
        ({"maintenance": {"analyze": "yes"}}, "maintenance.analyze is 'yes'"),
        ({"maintenance": False}, "maintenance is False"),
        ({1: 2}, "1 is 1"),
    ],
)
def test_a_wrong_type_or_value_names_file_model_key_and_value(raw: Any, path: str) -> None:
    message = mistake(raw)
    assert message.startswith("models/gold/models.yml or models/gold/fct.sql: model fct: meta.lakehouse.")
    assert f"meta.lakehouse.{path}: " in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("raw", "path", "hint"),
    [
        ({"layr": "gold"}, "meta.lakehouse.layr", "did you mean `layer`?"),
        ({"owners": "team:a"}, "meta.lakehouse.owners", "did you mean `owner`?"),
        ({"rows": {"minn": 1}}, "meta.lakehouse.rows.minn", "did you mean `min`?"),
        ({"rows": {"max_drops": 1}}, "meta.lakehouse.rows.max_drops", "did you mean `max_drop`?"),
        ({"rows": {"drift": {"mad": 1}}}, "meta.lakehouse.rows.drift.mad", "did you mean `mads`?"),
        ({"kubernetes": {"mem": "1Gi"}}, "meta.lakehouse.kubernetes.mem", "did you mean `memory`?"),
        ({"freshness": {"within": "1h", "corn": ""}}, "meta.lakehouse.freshness.corn", "did you mean `cron`?"),
        (
            {"maintenance": {"zzz": 1}},
            "meta.lakehouse.maintenance.zzz",
            "valid keys: analyze, changed, ",
        ),
        ({"maintenance": {"retian": "7d"}}, "meta.lakehouse.maintenance.retian", "did you mean `retain`?"),
        # Keys of another level are unknown here.
        ({"min": 3}, "meta.lakehouse.min", "valid keys: "),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(raw: Any, path: str, hint: str) -> None:
    assert f"unknown key {path}; {hint}" in mistake(raw)


def test_sources_have_keys_of_their_own() -> None:
    assert "unknown key meta.lakehouse.layer; valid keys: airbyte, arrives, freshness, maintenance" in mistake(
        {"layer": "bronze"}, SourceContract
    )
    assert "meta.lakehouse.airbyte.connection is ''" in mistake({"airbyte": {"connection": ""}}, SourceContract)
    assert "meta.lakehouse.airbyte.connection is missing" in mistake({"airbyte": {}}, SourceContract)
    found = parse(SourceContract, {"airbyte": {"connection": "prod"}}, resource="source a.b", files=FILES)
    assert found.airbyte is not None
    assert found.airbyte.connection == "prod"
    assert found.maintenance is None
    assert "meta.lakehouse.maintenance.retain is 7" in mistake({"maintenance": {"retain": 7}}, SourceContract)


def test_all_mistakes_are_reported_together_one_a_line() -> None:
    lines = mistake({"layr": "gold", "rows": {"min": "1", "severty": "warn"}, "owner": "growth"}).splitlines()
    assert len(lines) == 4
    for wanted in ("layr", "rows.min", "rows.severty", "owner"):
        assert sum(f"meta.lakehouse.{wanted}" in line for line in lines) == 1


def test_min_above_max_is_refused_and_equal_ones_are_not() -> None:
    assert "min 5 is above max 3" in mistake({"rows": {"min": 5, "max": 3}})
    assert model({"rows": {"min": 3, "max": 3}}).rows is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("26h", timedelta(hours=26)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("7 d", timedelta(days=7)),
    ],
)
def test_durations_are_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    freshness = model({"freshness": {"within": text}}).freshness
    assert freshness is not None
    assert freshness.within == expected


@pytest.mark.parametrize(
    "value", ["", "26", "h", "1.5h", "-1h", "26H", "1h30m", " 26h", "26h\n", "٣h", "26 hours", 26, 26.0, None, ["26h"]]
)
def test_anything_else_is_no_duration(value: Any) -> None:
    assert "meta.lakehouse.freshness.within is " in mistake({"freshness": {"within": value}})


def test_a_duration_beyond_all_bounds_is_a_mistake_and_no_crash() -> None:
    assert "expected at most 36500d" in mistake({"freshness": {"within": "99999999w"}})
    assert "expected at most 36500d" in mistake({"freshness": {"within": "999999999w"}})
    assert "expected a duration such as 30m" in mistake({"freshness": {"within": "9999999999w"}})


def test_a_long_value_is_never_shown_whole() -> None:
    assert len(mistake({"freshness": {"within": "x" * 100_000}})) < 300
    assert len(mistake({"rows": {"min": ["x"] * 100_000}})) < 300


@pytest.mark.parametrize("text", ["0h", "59s"])
def test_freshness_is_evaluated_by_the_minute(text: str) -> None:
    assert "use at least 1m" in mistake({"freshness": {"within": text}})


def test_freshness_needs_to_say_within() -> None:
    assert "meta.lakehouse.freshness.within is missing" in mistake({"freshness": {"cron": "0 6 * * *"}})


@pytest.mark.parametrize("cron", ["0 6 * * *", "@daily", "0 6 * * MON-FRI"])
def test_crons_are_what_dagster_takes(cron: str) -> None:
    freshness = model({"freshness": {"within": "1h", "cron": cron}}).freshness
    assert freshness is not None
    assert freshness.cron == cron


@pytest.mark.parametrize("cron", ["", "6am", "0 6 * *", "60 6 * * *", "* * * * * *", "0 0 30 2 *", 6, ["0 6 * * *"]])
def test_anything_else_is_no_cron(cron: Any) -> None:
    assert "meta.lakehouse.freshness.cron is " in mistake({"freshness": {"within": "1h", "cron": cron}})


def test_within_may_not_reach_past_the_deadline_before() -> None:
    # Dagster refuses it too, with a message that names neither file nor model.
    message = mistake({"freshness": {"within": "25h", "cron": "0 6 * * *"}})
    assert "longer than the 1 day, 0:00:00 between two deadlines of cron '0 6 * * *'" in message
    assert model({"freshness": {"within": "24h", "cron": "0 6 * * *"}}).freshness is not None


@pytest.mark.parametrize("owner", ["team:growth", "team:data-platform", "team:a.b", "ann.lee+dbt@example.co.uk"])
def test_owners_are_mail_addresses_or_teams(owner: str) -> None:
    assert model({"owner": owner}).owner == owner


@pytest.mark.parametrize("owner", ["growth", "team:", "team: growth", "ann@example", "@example.com", "a b@example.com"])
def test_anything_else_is_no_owner(owner: str) -> None:
    assert "expected an email address or team:<name>" in mistake({"owner": owner})


@given(st.text("aZ0.%-_ @:\n|", max_size=12), st.sampled_from(["", "team:", "a@b.", "@b.de"]))
def test_dagster_takes_every_owner_that_we_take(text: str, known: str) -> None:
    for owner in (text, known + text, text + known):
        if is_owner(owner):
            dg.AssetSpec("a", owners=[owner])


def test_two_columns_that_would_be_reported_as_one_are_refused() -> None:
    assert "customer_id and customer_key would both be reported as unique_customers" in mistake(
        {"distinct": ["customer_id", "customer_key"]}
    )
    assert "would both be reported as" in mistake({"distinct": ["order_id", "order_id"]})


@pytest.mark.parametrize("key", ["layer", "rows", "freshness", "owner", "partition", "pool", "maintenance"])
def test_null_takes_back_what_a_folder_said(key: str) -> None:
    assert model({key: None}) == ModelContract()


TREES = st.recursive(
    st.none() | st.integers(), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_every_value_of_the_upper_and_what_it_does_not_touch(base: Any, over: Any) -> None:
    before = repr((base, over))
    merged = deep_merge(base, over)
    assert merged.keys() == base.keys() | over.keys()
    for key in merged:
        if key not in over:
            assert merged[key] == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            assert merged[key] == deep_merge(base[key], over[key])
        else:
            assert merged[key] == over[key]
    assert repr((base, over)) == before


@given(MAPPINGS, MAPPINGS)
def test_merging_nothing_or_the_same_again_changes_nothing(a: Any, b: Any) -> None:
    assert deep_merge(a, {}) == a
    assert deep_merge({}, a) == a
    assert deep_merge(deep_merge(a, b), b) == deep_merge(a, b)
