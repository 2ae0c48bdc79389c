"""Loads the user's own Dagster code from the folder `defs`, in addition to the definitions of the dbt project.

`dg.load_from_defs_folder` does the same, but it also imports every installed package with components to list them for
Dagster+: dagster-dbt and thereby dbt, which costs each process 3.9 CPU seconds. It also requires a pyproject.toml
around the package, which an installed package does not have.
"""

from __future__ import annotations

import ast
import importlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.dbt.graph import Graph, Source
from lakehouse_analytics.keys import asset_key

PACKAGE = "lakehouse_analytics.defs"
#: Names of files that dg loads as components.
_COMPONENTS = frozenset({"defs.yaml", "component.yaml"})


class UserDefsError(Exception):
    """A file in the folder `defs` cannot be loaded. The message names the file."""


@dataclass(frozen=True)
class UserDefs:
    """The definitions of the folder `defs`.

    Attributes:
        definitions: All definitions, merged.
        folder: The folder; None if it has no files.
        tree: Dagster's component tree of the folder.
    """

    definitions: dg.Definitions
    folder: Path | None = None
    tree: dg.ComponentTree | None = None

    def file_with(self, has: Callable[[dg.Definitions], bool]) -> Path | None:
        """Return the file whose definitions meet a condition; the folder if no single file does."""
        files = _files(self.folder) if self.folder else ()
        return next((file for file in files if has(self._part(file))), self.folder)

    def _part(self, file: Path) -> dg.Definitions:
        if self.tree is None:
            return dg.Definitions()
        try:
            return self.tree.build_defs(file.parent if file.name in _COMPONENTS else file)
        except Exception:
            return dg.Definitions()  # a module imported by a component defines nothing itself


def load_user_defs() -> UserDefs:
    """Load the definitions of the folder `defs`. If it is empty, nothing is imported.

    Raises:
        UserDefsError: A file in the folder is invalid.
    """
    folder = _folder()
    if folder is None or not any(_files(folder)):
        return UserDefs(dg.Definitions())
    try:
        return _load(PACKAGE, folder, folder.parents[1])
    except Exception as error:
        raise UserDefsError(_explain(error, folder)) from error


def check_collisions(ours: dg.Definitions, own: UserDefs, graph: Graph) -> None:
    """Check that the folder `defs` does not use keys or names of the lakehouse's own definitions.

    Args:
        ours: The definitions of the lakehouse, without the sources that `own` defines.
        own: The user's definitions.
        graph: The manifest's graph.

    Raises:
        UserDefsError: Two definitions share a key or a name. The message names both.
    """
    if own.tree is None:
        return
    if own.definitions.executor is not None:
        raise UserDefsError(
            f"{own.file_with(lambda part: part.executor is not None)} sets an executor, which would apply to all "
            "jobs. Set it only for your own job: `dg.define_asset_job(…, executor_def=…)`."
        )
    for key in sorted(asset_keys(own.definitions) & asset_keys(ours)):
        raise UserDefsError(
            f"{own.file_with(partial(_has_asset, key))}: the asset key {key.to_user_string()} is also that of "
            f"{_owner(key, graph)}. Give one of the two another key: the Python asset by `key=`, a dbt resource by "
            "`meta.dagster.asset_key`."
        )
    for kind in ("jobs", "schedules", "sensors", "resources"):
        for name in sorted(_names(own.definitions, kind) & _names(ours, kind)):
            file = own.file_with(partial(_has_name, kind, name))
            raise UserDefsError(
                f"{file}: the name {name} is that of one of the lakehouse's own {kind}. Choose another."
            )


def asset_keys(definitions: dg.Definitions) -> set[dg.AssetKey]:
    """Return the keys of all assets, including external ones."""
    return {spec.key for spec in asset_specs(definitions)}


def asset_specs(definitions: dg.Definitions) -> Iterator[dg.AssetSpec]:
    """Yield the specs of all assets, including external ones."""
    for one in definitions.assets or ():
        if isinstance(one, dg.AssetsDefinition):
            yield from one.specs
        elif isinstance(one, dg.AssetSpec):
            yield one
        elif isinstance(one, dg.SourceAsset):
            yield dg.AssetSpec(one.key)


def _has_asset(key: dg.AssetKey, definitions: dg.Definitions) -> bool:
    return key in asset_keys(definitions)


def _has_name(kind: str, name: str, definitions: dg.Definitions) -> bool:
    return name in _names(definitions, kind)


def _names(definitions: dg.Definitions, kind: str) -> set[str]:
    found: Any = getattr(definitions, kind) or ()
    return set(found) if isinstance(found, Mapping) else {one.name for one in found}


def _owner(key: dg.AssetKey, graph: Graph) -> str:
    """Return what the dbt project, or the lakehouse itself, defines with a key."""
    for thing in (*graph.tables.values(), *graph.unbuilt.values()):
        if asset_key(thing) == key:
            filled = ", which Airbyte fills" if isinstance(thing, Source) and thing.contract.airbyte else ""
            node = thing.node
            return f"dbt {node.resource_type} {node.name} ({node.original_file_path or 'no file'}){filled}"
    for unique_id, path in graph.exposure_keys.items():
        if dg.AssetKey(path) == key:
            return f"dbt exposure {unique_id.rpartition('.')[2]}"
    return "an asset of the lakehouse itself"


def _folder() -> Path | None:
    spec = find_spec(PACKAGE)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that define something, as Dagster finds them."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "__pycache__" and not path.name.startswith("."):
                yield from _files(path)
        elif path.name in _COMPONENTS or (path.suffix == ".py" and not _has_no_code(path)):
            yield path


def _has_no_code(path: Path) -> bool:
    """Return whether a file is an `__init__.py` that only marks a package."""
    if path.name != "__init__.py":
        return False
    try:
        return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_bytes()).body)
    except SyntaxError:
        return False


def _load(name: str, folder: Path, root: Path) -> UserDefs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # caused by functions that Dagster itself calls
        tree = dg.ComponentTree.from_module(defs_module=importlib.import_module(name), project_root=root)
        return UserDefs(tree.build_defs(folder), folder, tree)


def _explain(error: Exception, folder: Path) -> str:
    """Return the file, the line, and the error that its code raised."""
    causes = [*_causes(error)]
    first = causes[-1]
    if isinstance(first, SyntaxError) and first.filename:
        return f"{first.filename}, line {first.lineno}: {type(first).__name__}: {first.msg}"
    message = f"{type(first).__name__}: {first}"
    for cause in reversed(causes):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if Path(frame.filename).is_relative_to(folder):
                return f"{frame.filename}, line {frame.lineno}: {message}"
    return f"{_broken_component(folder) or folder}: {message}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _broken_component(folder: Path) -> Path | None:
    """Return the first component that does not load by itself.

    Some of Dagster's errors about YAML do not name the file.
    """
    for file in _files(folder):
        if file.name in _COMPONENTS:
            try:
                _load(".".join((PACKAGE, *file.parent.relative_to(folder).parts)), file.parent, folder.parents[1])
            except Exception:  # only the file is of interest; the error is known
                return file
    return None
