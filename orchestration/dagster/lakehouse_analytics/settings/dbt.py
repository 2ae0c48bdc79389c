"""Settings of the dbt project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from lakehouse_analytics.common.environment import absolute, repository_root


class DbtSettings(BaseModel):
    """The part of `Settings` about the dbt project."""

    dbt_project_dir: Path = Field(
        default_factory=lambda: repository_root() / "dbt", description="Folder of the dbt project."
    )
    dbt_profiles_dir: Path | None = Field(
        None,
        description="Folder of `profiles.yml`. Default: dbt's own (DBT_PROFILES_DIR, the project's folder, ~/.dbt).",
    )
    dbt_target: str | None = Field(
        None,
        description="Target in `profiles.yml`. Default: the one that LAKEHOUSE_ENV names (`local`, `trino`), then "
        "DBT_TARGET, then `target:`.",
    )
    dbt_vars: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict, description="Variables for dbt, as in `--vars`: a YAML or JSON mapping."
    )
    dbt_target_path: Path | None = Field(
        None, description="Folder of the manifest. Default: `target/<target>` in the dbt project."
    )
    strict: bool = Field(
        False,
        description="Set `true` to refuse models that readers could see half-written, and the like, instead of "
        "warning about them.",
    )

    dbt_threads: int | None = Field(
        None, ge=1, description="Number of dbt's threads. Default: 4 on Trino, 2 on DuckDB."
    )

    _dbt_paths = field_validator("dbt_project_dir", "dbt_profiles_dir", "dbt_target_path")(absolute)

    @field_validator("dbt_vars", mode="before")
    @classmethod
    def _mapping(cls, value: object) -> object:
        try:
            loaded = yaml.safe_load(value) if isinstance(value, str) else value
        except yaml.YAMLError:
            loaded = None
        if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
            raise ValueError('expected a YAML or JSON mapping with names as keys, such as {"start_date": "2026-01-01"}')
        return dict(loaded)
