"""A dbt project of any size, in the four layers: what both sides of a benchmark load."""

from __future__ import annotations

from pathlib import Path

#: Of a hundred models: how many are in each layer.
SHARES = {"bronze": 40, "silver": 30, "gold": 20, "metrics": 10}
TESTS_A_MODEL = 3

_PROJECT = """\
name: bench
version: "1.0"
profile: bench
models:
  bench:
    +materialized: table
"""
_PROFILES = """\
bench:
  target: local
  outputs:
    local: {type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}", schema: main, threads: 2}
"""
_SCHEMA_NAME = "{% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}\n"


def generate(folder: Path, models: int) -> None:
    """Write a dbt project: every model documented, with its columns, and three generic tests on each."""
    _write(folder / "macros" / "generate_schema_name.sql", _SCHEMA_NAME)
    _write(folder / "profiles.yml", _PROFILES)
    _write(folder / "dbt_project.yml", _PROJECT + "".join(f"    {layer}: {{+schema: {layer}}}\n" for layer in SHARES))
    above: list[str] = []
    for layer, share in SHARES.items():
        names = [f"{layer}_{number:04}" for number in range(max(1, models * share // 100))]
        for number, name in enumerate(names):
            parents = list(dict.fromkeys(above[(number * step) % len(above)] for step in (1, 3))) if above else []
            _write(folder / "models" / layer / f"{name}.sql", _select(parents))
        _write(folder / "models" / layer / "models.yml", "models:\n" + "".join(_describe(name) for name in names))
        above = names


def _select(parents: list[str]) -> str:
    rows = [f"select id, name, amount, updated_at from {{{{ ref('{parent}') }}}}" for parent in parents]
    return "\nunion\n".join(
        rows or ["select 1 as id, 'one' as name, 1.5 as amount, timestamp '2026-01-01 00:00:00' as updated_at"]
    )


def _describe(name: str) -> str:
    return f"""\
  - name: {name}
    description: Generated; {name} stands for a table of a real project.
    columns:
      - name: id
        description: Key of the row.
        data_tests: [unique, not_null]
      - name: name
        description: What people call it.
        data_tests: [not_null]
      - name: amount
        description: Money, in the currency of the account.
      - name: updated_at
        description: When the row was last written, UTC.
"""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
