"""What a side that does not compile says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.exceptions import TargetNotFoundError
from lakehouse_analytics.impact.compiled import _hash_large_seeds, missing_hint

NODE = SimpleNamespace(original_file_path="models/b.sql", unique_id="model.shop.b", resource_type="model")


@pytest.mark.parametrize("disabled", [None, False])
@pytest.mark.parametrize(
    ("name", "kind", "version"), [("a", "node", None), ("raw.a", "source", None), ("a", "node", 2)]
)
def test_what_still_names_a_removed_model(name: str, kind: str, version: int | None, disabled: bool | None) -> None:
    text = str(TargetNotFoundError(NODE, name, kind, target_version=version, disabled=disabled))
    assert missing_hint(text) == (
        f"\nThe project has no {name}, which a `ref` or `source` still names. If it was removed or renamed, change "
        "what still reads it."
    )


def test_other_errors_have_no_hint() -> None:
    assert missing_hint(str(TargetNotFoundError(NODE, "a", "node", disabled=True))) == ""
    assert missing_hint("Compilation Error\n  'a' is undefined") == ""


def test_a_large_seed_is_compared_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    found = []
    for text in ("id\n1\n", "id\n1\n", "id\n2\n"):
        (tmp_path / "seeds" / "large.csv").write_text(text)
        # As dbt writes it for files of more than 1 MB.
        seed: dict[str, Any] = {
            "resource_type": "seed",
            "original_file_path": "seeds/large.csv",
            "checksum": {"name": "path", "checksum": "seeds/large.csv"},
        }
        _hash_large_seeds({"nodes": {"seed.shop.large": seed}}, tmp_path)
        found.append(seed["checksum"])
    assert found[0] == found[1] != found[2]
