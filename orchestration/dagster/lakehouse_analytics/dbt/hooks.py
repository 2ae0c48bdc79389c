"""Hooks that `lakehouse manifest` installs in dbt's process.

dbt does not record all environment variables that it reads: the manifest lists those of models, the state of partial
parsing contains only a hash of others, and neither includes those of macros that generate schema names. Nor does `dbt
deps` report whether there is anything to install. The hooks use parts of dbt-core 1.11 that are not public;
`tests/integration/test_dbt_hooks.py` shows what broke if one of them changes.
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

#: Start of the log line that gives the reason why `dbt deps` runs.
DEPS_BECAUSE = "dbt deps, because "
#: dbt's modules that define `env_var`, with the kind of files that call it. The module for `profiles.yml` and
#: `packages.yml` is left out.
_READERS = {"base": "yaml", "configured": "yaml", "providers": "code"}
#: Yielded instead of a reason if the command does not have to run.
NOTHING_TO_DO = ""


@contextmanager
def install_hook(options: Mapping[str, str]) -> Iterator[str | None]:
    """Install a hook for one command.

    Args:
        options: The options of the hook. Without `kind`, no hook is installed. `kind: record` writes the variables that
            dbt read to the file `path` at the end of the block. `kind: deps` compares the packages that `project_dir`
            declares with those installed in `packages_dir`; with `versions`, it also compares the installed versions
            with those of the lock file. `kind: offline` compiles without a connection (`offline.offline`).

    Yields:
        For `kind: deps`, `DEPS_BECAUSE` and the reason, or `NOTHING_TO_DO`. Otherwise None.
    """
    options = dict(options)
    kind = options.pop("kind", None)
    if kind == "record":
        with _recording(**options):
            yield None
    elif kind == "offline":
        from lakehouse_analytics.dbt.offline import offline

        with offline(**options):
            yield None
    elif kind == "deps":
        reason = _why_deps(
            Path(options["project_dir"]), Path(options["packages_dir"]), versions=bool(options.get("versions"))
        )
        yield f"{DEPS_BECAUSE}{reason}" if reason else NOTHING_TO_DO
    else:
        yield None


class _Recording(Mapping[str, str]):
    """An environment that records which variables are looked up."""

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
        # While parsing, dbt renders the hooks of models to find their refs, but the manifest contains them unrendered.
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
    variables = {kind: sorted(read[kind]) for kind in ("yaml", "code")}
    Path(path).write_text(json.dumps({**variables, "credentials": _credentials()}))


def _is_only_for_runs(reader: object) -> bool:
    """Return whether the reader renders nothing that is stored in the manifest.

    This applies to query comments and to hooks, which each run renders again.
    """
    model = getattr(reader, "model", None)
    return type(reader).__name__ == "QueryHeaderContext" or getattr(model, "resource_type", None) == "operation"


def _credentials() -> dict[str, Any]:
    """Return what dbt rendered of the profile, without secrets."""
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
    """Return the reason why packages must be installed, or an empty string if the installed ones are those declared."""
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
        return f"the packages cannot be compared with {PACKAGE_LOCK_FILE_NAME}"  # dbt reports the error
    if not isinstance(locked, dict) or locked.get(PACKAGE_LOCK_HASH_KEY) != expected:
        return f"{file} has changed since {PACKAGE_LOCK_FILE_NAME} was written"
    packages = locked.get("packages") or ()
    reason = _not_installed([package.get("name") for package in packages], packages_dir)
    if reason or not versions:
        return reason
    others = [str(p.get("name")) for p in packages if not _is_of_version(packages_dir, p)]
    return (
        f"{some(others)} in {packages_dir.name} has another version than in {PACKAGE_LOCK_FILE_NAME}" if others else ""
    )


def _not_installed(names: list[str | None], packages_dir: Path) -> str:
    """Return which locked packages are not installed as a reason, or an empty string."""
    installed = {path.parent.name for path in packages_dir.glob("*/dbt_project.yml")}
    missing = [name for name in names if name and name not in installed]
    if missing:
        return f"{some(missing)} {'is' if len(missing) == 1 else 'are'} not installed in {packages_dir.name}"
    # Lock files of older versions of dbt do not contain names.
    if len(installed) < len(names):
        return f"{packages_dir.name} has {len(installed)} of the {len(names)} packages of package-lock.yml"
    return ""


def _is_of_version(packages_dir: Path, package: Mapping[str, Any]) -> bool:
    """Return whether the installed package has the version of dbt's package hub, or the git commit, of the lock."""
    import yaml

    folder = packages_dir / str(package.get("name"))
    if package.get("package"):
        project = yaml.safe_load((folder / "dbt_project.yml").read_text()) or {}
        return str(project.get("version")) == str(package.get("version"))
    head = folder / ".git" / "HEAD"
    if package.get("git") and head.is_file():
        return head.read_text().strip() == package.get("revision")
    return True  # a local package, or one whose version is unknown
