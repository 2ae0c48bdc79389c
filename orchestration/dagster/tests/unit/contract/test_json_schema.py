"""The published JSON Schema says what the contract says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from lakehouse_analytics.contract.json_schema import editor_schema

DBT = Path(__file__).parents[5] / "dbt"
PROPERTIES = sorted(p for folder in ("models", "seeds", "snapshots", "tests") for p in (DBT / folder).rglob("*.yml"))


def test_the_published_schema_is_the_one_of_the_contract() -> None:
    published = json.loads((DBT / "lakehouse.schema.json").read_text())
    assert published == editor_schema(), "run `make schema`"


@pytest.mark.parametrize("path", PROPERTIES, ids=lambda path: path.relative_to(DBT).as_posix())
def test_the_schema_accepts_our_own_files(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), editor_schema())


def _model(**contract: Any) -> dict[str, Any]:
    return {"models": [{"name": "m", "config": {"meta": {"lakehouse": contract}}}]}


@pytest.mark.parametrize(
    "contract",
    [
        {"layr": "bronze"},
        {"layer": "platinum"},
        {"rows": {"min": -1}},
        {"rows": {"max_drop": 1.5}},
        {"rows": {"drift": {"mad": 3}}},
        {"freshness": {"within": "26 hours"}},
        {"freshness": {}},
        {"distinct": "customer_id"},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_contract_refuses(contract: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_model(**contract), editor_schema())


def test_the_schema_accepts_a_full_contract() -> None:
    full = _model(
        layer="bronze",
        rows={"min": 1, "max_drop": 0.5, "severity": "error", "drift": {"mads": 5, "severity": "warn"}},
        distinct=["customer_id"],
        freshness={"within": "26h", "cron": "0 6 * * *"},
        owner="team:growth",
        automation="eager",
    )
    jsonschema.validate(full, editor_schema())
    source = {"sources": [{"name": "s", "config": {"meta": {"lakehouse": {"airbyte": {"connection": "x"}}}}}]}
    jsonschema.validate(source, editor_schema())


def test_the_schema_knows_what_an_exposure_can_have() -> None:
    def exposure(**contract: Any) -> dict[str, Any]:
        return {"exposures": [{"name": "sales", "config": {"meta": {"lakehouse": contract}}}]}

    copy = {"to": "clickhouse", "table": "reporting.days"}
    jsonschema.validate(exposure(serve=[copy, copy | {"model": "days"}]), editor_schema())
    for wrong in ({"layer": "gold"}, {"serve": copy | {"modle": "days"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(exposure(**wrong), editor_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_model(serve=copy | {"model": "days"}), editor_schema())
