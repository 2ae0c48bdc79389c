"""What `lakehouse manifest` adds to dbt, inside dbt's own process.

dbt keeps no list of the environment variables that it read: the manifest has those of models, the state of partial
parsing only a hash of the others, and neither those of macros that name schemas. Nor does `dbt deps` tell whether it
has anything to do. Uses parts of dbt-core 1.11 that are not public; `tests/integration/test_dbt_hooks.py` says what
broke when one of them changes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.names import some

#: Begins the line that says why `dbt deps` goes on.
DEPS_BECAUSE = "dbt deps, because "
#: Modules of dbt that define `env_var`, except the one for `profiles.yml` and `packages.yml`, by what calls it.
_READERS = {"base": "yaml", "configured": "yaml", "providers": "code"}


#: Instead of a reason: the command need not run.
NOTHING_TO_DO = ""


@contextmanager
def installed(options: Mapping[str, str]) -> Iterator[str | None]:
    """Install a hook for one command.

    Args:
        options: None, or those of a kind. `kind: record` writes what dbt read to the file `path` when the block ends.
            `kind: deps` compares the packages of `project_dir`, installed in `packages_dir`, with those that it
            declares; with `versions`, also their versions with those of the lock.

    Yields:
        Of `deps`, `DEPS_BECAUSE` and the reason, or `NOTHING_TO_DO`; of others None.
    """
    options = dict(options)
    kind = options.pop("kind", None)
    if kind == "record":
        with _recording(**options):
            yield None
    elif kind == "deps":
        reason = _why_deps(
            Path(options["project_dir"]), Path(options["packages_dir"]), versions=bool(options.get("versions"))
        )
        yield f"{DEPS_BECAUSE}{reason}" if reason else NOTHING_TO_DO
    else:
        yield None


class _Recording(Mapping[str, str]):
    """An environment that remembers which variables were looked up."""

    def __init__(self, environment: Mapping[str, str], read: set[str]) -> None:
        self._environment, self._read = environment, read

    def __getitem__(self, name: str) -> str:
        self._read.add(name)
        return self._environment[name]

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return name in self._environment

    def __iter__(self) -> Iterator[str]:
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)


class _Context:
    """dbt's invocation context with a recording environment."""

    def __init__(self, context: Any, read: set[str]) -> None:
        self._context, self.env = context, _Recording(context.env, read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


@contextmanager
def _recording(path: str) -> Iterator[None]:
    import importlib

    read: dict[str, set[str]] = {"yaml": set(), "code": set(), "hook": set()}
    parser: Any = importlib.import_module("dbt.parser.base")
    render, rendering_hook = parser.get_rendered, [False]

    def render_and_tell(*args: Any, **options: Any) -> Any:
        # dbt renders hooks of models while it parses, for their refs; the manifest keeps them as they are written.
        rendering_hook[0] = sys._getframe(1).f_code.co_name == "update_parsed_node_config"
        try:
            return render(*args, **options)
        finally:
            rendering_hook[0] = False

    changed = [(parser, "get_rendered", render)]
    parser.get_rendered = render_and_tell
    for name, kind in _READERS.items():
        module: Any = importlib.import_module(f"dbt.context.{name}")
        original = module.get_invocation_context

        def recording(original: Any = original, kind: str = kind) -> Any:
            reader = sys._getframe(1).f_locals.get("self")
            kept = "hook" if rendering_hook[0] or _is_only_for_runs(reader) else kind
            return _Context(original(), read[kept])

        changed.append((module, "get_invocation_context", original))
        module.get_invocation_context = recording
    try:
        yield
    finally:
        for owner, name, original in changed:
            setattr(owner, name, original)
    said = {kind: sorted(read[kind]) for kind in ("yaml", "code")}
    Path(path).write_text(json.dumps({**said, "credentials": _credentials()}))


def _is_only_for_runs(reader: object) -> bool:
    """Whether it renders no part of the manifest: comments of queries, and hooks, which a run renders again."""
    model = getattr(reader, "model", None)
    return type(reader).__name__ == "QueryHeaderContext" or getattr(model, "resource_type", None) == "operation"


def _credentials() -> dict[str, Any]:
    """What dbt made of the profile, without anything secret."""
    from dbt.adapters.factory import FACTORY

    adapters: list[Any] = [*FACTORY.adapters.values()]
    for adapter in adapters:
        credentials = adapter.config.credentials
        return {
            "type": credentials.type,
            "database": credentials.database,
            "schema": credentials.schema,
            "path": str(Path(path).absolute()) if (path := getattr(credentials, "path", None)) else None,
        }
    return {}


def _why_deps(project_dir: Path, packages_dir: Path, *, versions: bool = False) -> str:
    """Why packages must be installed; empty if those installed are those that the project declares."""
    from copy import deepcopy

    import yaml
    from dbt.config.project import package_and_project_data_from_root, package_config_from_data
    from dbt.config.renderer import PackageRenderer
    from dbt.constants import DEPENDENCIES_FILE_NAME, PACKAGE_LOCK_FILE_NAME, PACKAGE_LOCK_HASH_KEY
    from dbt.task.deps import _create_sha1_hash
    from dbt_common.context import set_invocation_context

    set_invocation_context(dict(os.environ))
    lock = project_dir / PACKAGE_LOCK_FILE_NAME
    try:
        declared, file = package_and_project_data_from_root(str(project_dir))  # type: ignore[no-untyped-call]
        if not (declared or {}).get("packages"):
            return ""
        if not lock.is_file():
            return f"there is no {PACKAGE_LOCK_FILE_NAME}"
        variables = yaml.safe_load(os.environ.get("LAKEHOUSE_DBT_VARS", "") or "{}")
        plain = deepcopy(declared)
        rendered = plain if file == DEPENDENCIES_FILE_NAME else PackageRenderer(variables).render_data(plain)
        expected = _create_sha1_hash(package_config_from_data(rendered, declared).packages)
        locked = yaml.safe_load(lock.read_text())
    except Exception:
        return f"the packages cannot be compared with {PACKAGE_LOCK_FILE_NAME}"  # dbt will say what is wrong
    if not isinstance(locked, dict) or locked.get(PACKAGE_LOCK_HASH_KEY) != expected:
        return f"{file} has changed since {PACKAGE_LOCK_FILE_NAME} was written"
    packages = locked.get("packages") or ()
    reason = _not_installed([package.get("name") for package in packages], packages_dir)
    if reason or not versions:
        return reason
    others = [str(p.get("name")) for p in packages if not _is_of_version(packages_dir, p)]
    return (
        f"{some(others)} in {packages_dir.name} is of another version than in {PACKAGE_LOCK_FILE_NAME}"
        if others
        else ""
    )


def _not_installed(names: list[str | None], packages_dir: Path) -> str:
    """Which locked packages are not installed, as a reason."""
    installed = {path.parent.name for path in packages_dir.glob("*/dbt_project.yml")}
    missing = [name for name in names if name and name not in installed]
    if missing:
        return f"{some(missing)} {'is' if len(missing) == 1 else 'are'} not installed in {packages_dir.name}"
    # Locks that an older dbt wrote have no names.
    if len(installed) < len(names):
        return f"{packages_dir.name} has {len(installed)} of the {len(names)} packages of package-lock.yml"
    return ""


def _is_of_version(packages_dir: Path, package: Mapping[str, Any]) -> bool:
    """Whether what is installed is the release of dbt's package hub, or the commit of git, that the lock names."""
    import yaml

    folder = packages_dir / str(package.get("name"))
    if package.get("package"):
        said = yaml.safe_load((folder / "dbt_project.yml").read_text()) or {}
        return str(said.get("version")) == str(package.get("version"))
    head = folder / ".git" / "HEAD"
    if package.get("git") and head.is_file():
        return head.read_text().strip() == package.get("revision")
    return True  # local, or not to be known
