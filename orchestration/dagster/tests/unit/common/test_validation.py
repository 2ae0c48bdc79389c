"""Messages about mistakes in files and requests, from pydantic's errors."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.common.validation import explain, reason
from pydantic import BaseModel, ValidationError, field_validator


class Model(BaseModel, extra="forbid"):
    name: str
    size: int = 0

    @field_validator("size")
    @classmethod
    def _small(cls, value: int) -> int:
        if value > 10:
            raise ValueError("LIMIT is 10")
        return value


def mistake(**values: Any) -> Any:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(values)
    [item] = caught.value.errors()
    return item


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "a", "siez": 1}, "unknown key here.siez; did you mean `size`?"),
        ({"name": "a", "zzz": 1}, "unknown key here.zzz; keys: name, size"),
        ({}, "here.name is missing"),
        ({"name": 1}, "here.name: input should be a valid string"),
        ({"name": "a", "size": 11}, "here.size: LIMIT is 10"),
    ],
)
def test_a_mistake_is_explained_by_its_key(values: dict[str, Any], expected: str) -> None:
    item = mistake(**values)
    key = f"here.{item['loc'][-1]}"
    assert explain(item, key, Model.model_fields, quoted=lambda word: f"`{word}`", others="keys").startswith(expected)


def test_a_reason_continues_a_sentence() -> None:
    assert reason(mistake(name="a", size="x")).startswith("input should be a valid integer")
