"""In which line of the dbt project a key of `meta.lakehouse` is, for messages.

dbt's manifest has the file of a resource, but no lines. The file is only parsed after a mistake was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.dbt.nodes import Node

if TYPE_CHECKING:
    import yaml

PROJECT_FILE = "dbt_project.yml"


class ContractLines:
    """Finds the lines of the keys of one project's contracts. Each file is parsed once.

    Args:
        project_dir: The folder of the dbt project.
        project: The name of the dbt project. Files of its packages are elsewhere.
    """

    def __init__(self, project_dir: Path, project: str) -> None:
        self._project_dir, self._project = project_dir, project
        self._roots: dict[str, yaml.Node | None] = {}

    def place_of(self, node: Node, keys: Sequence[object]) -> str | None:
        """Return `<file>:<line>` of a key; None if it is not found, such as one that an anchor sets.

        It is not searched if the code of the resource may set it by `config()`, or if the resource has versions, each
        of which may have a `config` of its own.

        Args:
            node: A model, seed, snapshot or source.
            keys: The key and those above it, below `meta.lakehouse`. The last may be missing in the file.
        """
        if node.version is not None or "lakehouse" in (node.raw_code or ""):
            return None
        own = (node.patch_path, node.original_file_path) if node.package_name == self._project else ()
        files = [file for file in dict.fromkeys(own) if file.endswith((".yml", ".yaml"))]
        found = [
            (depth, f"{file}:{line}")
            for file in (*files, PROJECT_FILE)
            for depth, line in _found(self._root(file), file, node, keys)
        ]
        # Contracts of folders and sources are merged with those below them, so the whole path may be in another file.
        return max(found, key=lambda one: one[0])[1] if found else None

    def _root(self, file: str) -> yaml.Node | None:
        """Return the parsed file; None if it cannot be read."""
        if file not in self._roots:
            self._roots[file] = _composed(self._project_dir / file)
        return self._roots[file]


def _composed(file: Path) -> yaml.Node | None:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml is ten times as fast
    try:
        root: yaml.Node | None = yaml.compose(file.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return root


def _found(root: yaml.Node | None, file: str, node: Node, keys: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Yield how many of the keys a contract of a file has, and the line of the last one."""
    below = _value(root, f"{node.resource_type}s")
    places = _folders(below, node) if file == PROJECT_FILE else _properties(below, node)
    for place in places:
        for meta in (_value(_value(place, "config"), "meta"), _value(place, "meta"), _value(place, "+meta")):
            depth, line = _deepest(_value(meta, "lakehouse"), keys)
            if depth:
                yield depth, line


def _properties(below: yaml.Node | None, node: Node) -> Iterator[yaml.Node]:
    """Yield the mappings of a file of properties that configure a resource, the most specific first."""
    if node.resource_type == "source":
        for source in _named(below, node.source_name):
            yield from _named(_value(source, "tables"), node.name)
            yield source
    else:
        yield from _named(below, node.name)


def _folders(below: yaml.Node | None, node: Node) -> Iterator[yaml.Node]:
    """Yield the mappings of dbt_project.yml that configure a resource, the most specific first."""
    found = []
    for part in (None, *node.fqn):
        below = below if part is None else _value(below, part)
        if below is None:
            break
        found.append(below)
    yield from reversed(found)


def _deepest(below: yaml.Node | None, keys: Sequence[object]) -> tuple[int, int]:
    """Return how many of some nested keys are there, and the line of the last one."""
    depth = line = 0
    for key in keys:
        found = _item(below, key)
        if found is None:
            break
        depth, line, below = depth + 1, found[0].start_mark.line + 1, found[1]
    return depth, line


def _item(node: yaml.Node | None, key: object) -> tuple[yaml.Node, yaml.Node] | None:
    """Return where an item of a mapping or a list begins, and its value."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return next(((name, value) for name, value in node.value if name.value == str(key)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    found = _item(node, key)
    return found[1] if found else None


def _named(node: yaml.Node | None, name: str) -> Iterator[yaml.Node]:
    """Yield the items of a list that have a name."""
    import yaml

    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        found = _value(item, "name")
        if isinstance(found, yaml.ScalarNode) and found.value == name:
            yield item
