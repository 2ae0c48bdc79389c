"""The JSON Schema with which editors validate `meta.lakehouse` in dbt's YAML files."""

from __future__ import annotations

from typing import Any

from lakehouse_analytics.contract.exports import ExposureContract
from lakehouse_analytics.contract.models import ModelContract, SourceContract

_MODELS = ("models", "seeds", "snapshots")


def editor_schema() -> dict[str, Any]:
    """Return the JSON Schema of a dbt properties file.

    It describes `meta.lakehouse` and leaves all of dbt's own keys unrestricted.
    """
    model = ModelContract.model_json_schema(ref_template="#/$defs/{model}")
    source = SourceContract.model_json_schema(ref_template="#/$defs/{model}")
    exposure = ExposureContract.model_json_schema(ref_template="#/$defs/{model}")
    definitions = {**model.pop("$defs", {}), **source.pop("$defs", {}), **exposure.pop("$defs", {})}
    definitions |= {"ModelContract": model, "SourceContract": source, "ExposureContract": exposure}

    def resource(contract: str, **more: Any) -> dict[str, Any]:
        meta = {"type": "object", "properties": {"lakehouse": {"$ref": f"#/$defs/{contract}"}}}
        config = {"type": "object", "properties": {"meta": meta}}
        return {"type": "array", "items": {"type": "object", "properties": {"config": config, "meta": meta, **more}}}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dbt properties with meta.lakehouse",
        "type": "object",
        "properties": {
            **{kind: resource("ModelContract") for kind in _MODELS},
            "sources": resource("SourceContract", tables=resource("SourceContract")),
            "exposures": resource("ExposureContract"),
        },
        "$defs": definitions,
    }
