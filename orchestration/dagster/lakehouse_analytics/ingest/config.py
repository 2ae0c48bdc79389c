"""The YAML file of a connection: the connector, its configuration, the streams, and their tables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lakehouse_analytics.common.text import suggestion
from lakehouse_analytics.common.validation import explain
from lakehouse_analytics.ingest import json_values
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.state import TABLE as STATE_TABLE

#: Names as in the Airbyte API (`ConnectionSyncModeEnum`).
SyncMode = Literal["full_refresh_overwrite", "incremental_append", "incremental_deduped_history"]
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NAME = r"^[A-Za-z_][A-Za-z0-9_-]*$"
_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ConnectorConfig(_Strict):
    """The connector's package. `lock` is relative to the YAML file; `python` is a version or range for uv."""

    package: str
    version: str
    lock: Path
    executable: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    python: str | None = None


class StreamConfig(_Strict):
    """A stream.

    `sync_mode` defaults to incremental_append if the connector supports it, else to full_refresh_overwrite.
    """

    name: str
    namespace: str | None = None
    table: str | None = Field(None, pattern=_IDENTIFIER)
    sync_mode: SyncMode | None = None
    primary_key: tuple[str, ...] = ()

    @property
    def table_name(self) -> str:
        """Name of the table; by default, that of the stream."""
        return self.table or self.name


class Connection(_Strict):
    """A source and its tables. `config` is passed to the connector unchanged."""

    path: Path
    name: str = Field(pattern=_NAME)
    schema_name: str = Field("raw", alias="schema", pattern=_IDENTIFIER)
    connector: ConnectorConfig
    config: dict[str, Any] = Field(default_factory=dict)
    streams: tuple[StreamConfig, ...] = Field(min_length=1)

    @property
    def lock_path(self) -> Path:
        """Absolute path of the lock file."""
        return (self.path.parent / self.connector.lock).resolve()


_MODELS: dict[str, type[_Strict]] = {"": Connection, "connector": ConnectorConfig, "streams": StreamConfig}


def load(path: Path, environ: Mapping[str, str] | None = None) -> Connection:
    """Read and validate a connection's file. `${NAME}` in values of `config` is replaced by the variable in `environ`.

    Raises:
        IngestError: The message names the file, the key, what was expected, and the nearest valid key.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), json_values.YamlLoader)  # noqa: S506  # a SafeLoader
    except FileNotFoundError:
        others = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = f"; {suggestion(path.name, others)}" if others else ""
        raise IngestError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IngestError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise IngestError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', 'syntax error')}") from None
    except (ValueError, RecursionError) as error:
        # PyYAML constructs values while it parses. It may fail on deep nesting, or on a tag such as !!int or
        # !!timestamp with other text.
        raise IngestError(f"{path}: a value cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise IngestError(f"{path}: expected a mapping with the keys {', '.join(_keys(Connection))}")
    if "path" in raw:
        raise IngestError(f"{path}: unknown key 'path'; {suggestion('path', _keys(Connection))}")
    try:
        json_values.check(raw.get("config"), "config")
    except json_values.NotJsonError as error:
        raise IngestError(f"{path}: {error}") from None
    raw["config"] = _substitute(raw.get("config") or {}, path, "config", os.environ if environ is None else environ)
    try:
        connection = Connection.model_validate({**raw, "path": path.resolve()})
    except ValidationError as error:
        raise IngestError(f"{path}: {_explain(error)}") from None
    _check_lock(connection)
    _check_tables(connection)
    return connection


def _keys(model: type[_Strict]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if name != "path"]


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    parent = str(first["loc"][0]) if len(first["loc"]) > 1 else ""
    text = explain(first, repr(key), _keys(_MODELS.get(parent, Connection)))
    return text if first["type"] == "extra_forbidden" else f"key {text}"


def _substitute(value: Any, path: Path, key: str, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _substitute(item, path, f"{key}.{name}", environ) for name, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, path, f"{key}.{index}", environ) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def read(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise IngestError(f"{path}: key {key!r} reads the environment variable {match[1]}, which is not set")
        if json_values.lone_surrogate(environ[match[1]]) is not None:
            raise IngestError(
                f"{path}: key {key!r} reads the environment variable {match[1]}, which is not valid UTF-8"
            )
        return environ[match[1]]

    return _VARIABLE.sub(read, value)


def _check_lock(connection: Connection) -> None:
    wanted = f"{connection.connector.package}=={connection.connector.version}"
    try:
        text = connection.lock_path.read_text(encoding="utf-8")
    except OSError:
        raise IngestError(
            f"{connection.path}: key 'connector.lock': cannot read {connection.lock_path}; docs/ingest.md says how "
            "to create it"
        ) from None
    if not re.search(rf"^{re.escape(wanted)}(\s|$)", text, re.MULTILINE):
        raise IngestError(
            f"{connection.path}: key 'connector.version': {connection.lock_path.name} does not pin {wanted}; "
            "compile it again (docs/ingest.md)"
        )


def _check_tables(connection: Connection) -> None:
    seen: set[str] = set()
    for stream in connection.streams:
        if stream.table_name.lower() == STATE_TABLE:
            raise IngestError(
                f"{connection.path}: key 'streams': table {stream.table_name!r} is where syncs store their state; give "
                f"stream {stream.name!r} another 'table'"
            )
        if stream.table_name.lower() in seen:
            raise IngestError(
                f"{connection.path}: key 'streams': two streams have table {stream.table_name!r}; set 'table' for one"
            )
        seen.add(stream.table_name.lower())
