"""The official Dagster chart: its folder, and the keys that its values may have."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendered import helm

#: Keys of Kubernetes objects, whose names the typed models of the rendered objects check.
FREE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Chart:
    """A chart, unpacked."""

    folder: Path

    @classmethod
    def of(cls, name: str, version: str) -> Chart:
        """A folder as it is, or a release of a repository, unpacked into a folder of its own.

        Args:
            name: A folder, or `repository/chart` of a repository that helm knows.
            version: The release to pull, for example `1.13.27`. It is ignored if `name` is a folder.
        """
        if Path(name).is_dir():
            return cls(Path(name))
        folder = Path(tempfile.mkdtemp(prefix="chart-"))
        done = helm("pull", name, "--version", version, "--untar", "--untardir", str(folder))
        if done.returncode:
            pytest.fail(
                f"{done.stderr}\nAdd its repository first: helm repo add dagster https://dagster-io.github.io/helm\n"
                "Or unpack the chart and name its folder: make helm-check CHART=/path/of/dagster",
                pytrace=False,
            )
        return cls(folder / name.rpartition("/")[2])

    @property
    def version(self) -> str:
        """For example `1.12.19`."""
        return str(yaml.safe_load((self.folder / "Chart.yaml").read_text())["version"])

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Its values, with those of its subcharts under their names."""
        values: dict[str, Any] = yaml.safe_load((self.folder / "values.yaml").read_text())
        for path in sorted(self.folder.glob("charts/*/values.yaml")):
            values[path.parent.name] = merged(yaml.safe_load(path.read_text()), values.get(path.parent.name) or {})
        return values

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Its `values.schema.json`."""
        return dict(json.loads((self.folder / "values.schema.json").read_text()))

    def unknown_keys(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Keys of values that the chart does not read, each as one sentence.

        The chart's own schema accepts many of them: Helm ignores a value that no template reads.
        """
        yield from self._unknown(values, self.defaults, self.schema, "")

    def _unknown(self, values: Any, defaults: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        schema = self._resolved(schema)
        if isinstance(values, list):
            item = defaults[0] if isinstance(defaults, list) and defaults else None
            for number, each in enumerate(values):
                yield from self._unknown(each, item, schema.get("items") or FREE, f"{path}[{number}]")
            return
        known = {**dict.fromkeys(defaults if isinstance(defaults, dict) else ()), **schema.get("properties", {})}
        # An object without named properties, such as labels, may have any key.
        if not isinstance(values, dict) or not schema.get("properties"):
            return
        if "properties" in schema and schema.get("additionalProperties") is True and path:
            return  # an object of Kubernetes
        for key, value in values.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                advice = f"Did you mean {near[0]}?" if near else f"It knows: {', '.join(sorted(known))}."
                yield f"{where}: the chart {self.version} does not read this key. {advice}"
                continue
            below = defaults.get(key) if isinstance(defaults, dict) else None
            yield from self._unknown(value, below, schema["properties"].get(key) or FREE, where)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """A schema behind its reference. References to the schemas of Kubernetes are not followed."""
        while isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/$defs/"):
            schema = self.schema["$defs"][reference.rpartition("/")[2]]
        for choice in schema.get("anyOf", ()):
            if choice.get("type") != "null":
                return self._resolved(choice)
        return schema


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of values as Helm merges them: objects by key, everything else as a whole."""
    both = {**below}
    for key, value in above.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both
