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


def place_of(node: Node, keys: Sequence[object], project_dir: Path, project: str) -> str | None:
    """Return `<file>:<line>` of a key; None if it is not found, such as one that is set in SQL or by an anchor.

    Args:
        node: A model, seed, snapshot or source.
        keys: The key and those above it, below `meta.lakehouse`. The last may be missing in the file.
        project_dir: The folder of the dbt project.
        project: The name of the dbt project. Files of its packages are elsewhere.
    """
    own = (node.patch_path, node.original_file_path) if node.package_name == project else ()
    files = [file for file in dict.fromkeys(own) if file.endswith((".yml", ".yaml"))]
    found = [
        (depth, f"{file}:{line}")
        for file in (*files, PROJECT_FILE)
        for depth, line in _found(project_dir / file, node, keys)
    ]
    # Contracts of folders and sources are merged with those below them, so the whole path may be in another file.
    return max(found, key=lambda one: one[0])[1] if found else None


def _found(file: Path, node: Node, keys: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Yield how many of the keys a contract of the file has, and the line of the last one."""
    import yaml

    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    below = _value(root, f"{node.resource_type}s")
    places = _folders(below, node) if file.name == PROJECT_FILE else _properties(below, node)
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
