"""Makes the manifest: runs `dbt deps` if the installed packages are not those declared, then `dbt parse`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.names import some
from lakehouse_analytics.common.redact import MASK
from lakehouse_analytics.common.text import MAX_TEXT, brief, shortened, without_traceback
from lakehouse_analytics.dbt.hooks import DEPS_BECAUSE
from lakehouse_analytics.dbt.profile import Profile, ProfileError, is_secret, load_yaml, placeholders
from lakehouse_analytics.dbt.project import RUN_TIME, STAMP, DbtProject, ManifestError
from lakehouse_analytics.dbt.runner import DbtRunner, DbtSession

_PACKAGES = ("packages.yml", "dependencies.yml")
#: Maximum length of a line of dbt's errors, which may quote a value, in characters.
_MAX_LINE = 2_000


def prepare(project: DbtProject, dbt: DbtRunner, echo: Callable[[str], None] = print) -> Path:
    """Parse the project into its target path. If that fails, the target path is not changed.

    Args:
        project: The project.
        dbt: Runs dbt commands.
        echo: Prints a line for the user.

    Returns:
        The path of the manifest.

    Raises:
        ManifestError: dbt could not parse the project. The message contains dbt's errors.
    """
    project.configuration()
    if project.problem:
        raise ManifestError(project.problem)
    try:
        project.target_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(
            f"{project.target_path} cannot be created ({error.strerror}): set LAKEHOUSE_DBT_TARGET_PATH."
        ) from None
    unset = placeholders(project.profile, project.environment, project.variables) if project.profile else {}
    if unset:
        echo(f"Not set, but only the connection needs them, not the parsing: {', '.join(sorted(unset))}")
    with (
        tempfile.TemporaryDirectory(prefix=".parse-", dir=project.target_path) as folder,
        dbt.session(environment=unset) as session,
    ):
        fresh, record = Path(folder), Path(folder) / "record.json"
        if _declares_packages(project):
            _install_packages(project, session, fresh, echo)
        before = project.fingerprint()  # after `dbt deps`, which may write package-lock.yml
        echo(f"dbt parse --target {project.target}")
        recording = {"kind": "record", "path": str(record)}
        _run(project, session, ["parse", "--no-partial-parse"], fresh, hook=recording, echo=echo)
        if not (fresh / "manifest.json").is_file():
            raise ManifestError(
                f"`dbt parse` wrote no manifest for {project.project_dir}: remove `write_json: false` from `flags` in "
                "dbt_project.yml, or unset DBT_WRITE_JSON."
            )
        found = json.loads(record.read_bytes())
        _verify_profile(project.profile, found["credentials"])
        counted = _manifest_variables(found)
        if rendered := sorted(counted & unset.keys()):
            names = some([brief(name) for name in rendered])
            raise ManifestError(
                f"{project.project_dir} reads {names} while it is parsed, not only for the connection "
                "in profiles.yml: set it, or give env_var() a default. An image's build takes it from DBT_ENVIRONMENT."
            )
        fingerprint = {**before, "variables": project.fingerprint(counted)["variables"]}
        # The stamp is removed first and replaced last. Without it, the manifest counts as missing.
        project.stamp_path.unlink(missing_ok=True)
        for name in ("partial_parse.msgpack", "manifest.json"):
            if (fresh / name).is_file():
                os.replace(fresh / name, project.target_path / name)
        (fresh / STAMP).write_text(json.dumps(fingerprint, indent=0, sort_keys=True))
        os.replace(fresh / STAMP, project.stamp_path)
    return project.manifest_path


def _install_packages(project: DbtProject, session: DbtSession, folder: Path, echo: Callable[[str], None]) -> None:
    """Run `dbt deps` if the installed packages are not those declared or locked."""
    hook: dict[str, str] | None = {
        "kind": "deps",
        "project_dir": str(project.project_dir),
        "packages_dir": str(project.packages_dir),
        # Without an earlier manifest of this target, a change of the lock file cannot be detected.
        **({} if project.stamp_path.is_file() else {"versions": "true"}),
    }
    if _lock_changed(project):
        hook = None
        echo(f"{DEPS_BECAUSE}package-lock.yml has changed since the last manifest")
    _run(project, session, ["deps"], folder, hook=hook, echo=echo)


def _manifest_variables(found: Mapping[str, Any]) -> set[str]:
    """Return the names of the environment variables that influence the manifest."""
    return {*found["yaml"], *(name for name in found["code"] if name not in RUN_TIME)}


def _verify_profile(profile: Profile | None, theirs: Mapping[str, Any]) -> None:
    """Raise an error if dbt renders the profile differently than this program.

    Otherwise, rows would be counted in another database than the one that dbt builds in.
    """
    if profile is None or not theirs:
        return
    file = profile.database_file
    ours = {
        "type": profile.adapter,
        "database": profile.database,
        "schema": profile.fields.get("schema", theirs["schema"]),  # dbt-duckdb has a default
        "path": file and str(file),
    }
    for name, value in theirs.items():
        if value is not None and name != "path" and ours[name] != value:
            secret = any(is_secret(variable) for variable in profile.variables(*profile.reads))
            difference = (
                f"dbt renders {MASK}"
                if secret
                else f"dbt renders {shortened(value)}, this program {shortened(ours[name])}"
            )
            raise ManifestError(
                f"`{name}` of {profile.where}: {difference}. Write it without Jinja, or with env_var() alone."
            )
    if theirs.get("path") and file and os.path.realpath(theirs["path"]) != os.path.realpath(file):
        raise ManifestError(
            f"`path` of {profile.where}: dbt renders {brief(theirs['path'], MAX_TEXT)}, this program "
            f"{brief(file, MAX_TEXT)}. Write it without Jinja, or with env_var() alone."
        )


def _declares_packages(project: DbtProject) -> bool:
    try:
        return any(
            load_yaml(project.project_dir / name).get("packages")
            for name in _PACKAGES
            if (project.project_dir / name).is_file()
        )
    except ProfileError as error:
        raise ManifestError(str(error)) from None


def _lock_changed(project: DbtProject) -> bool:
    """Return whether the lock file has changed since the last manifest, for example by a `git pull`."""
    changed = project.changes()
    return changed is not None and "package-lock.yml" in changed


def _run(
    project: DbtProject,
    session: DbtSession,
    args: list[str],
    folder: Path,
    *,
    hook: Mapping[str, str] | None,
    echo: Callable[[str], None],
) -> None:
    """Run a dbt command, and print its warnings and the reason why it runs."""
    lines: list[str] = []

    def log(level: str, message: str) -> None:
        if level != "debug":
            lines.append(message)
        if level == "warn" or message.startswith(DEPS_BECAUSE):
            echo(message.strip())

    result = session.run(args, log, target_path=folder, hook=hook)
    if result.exit_code != 0:
        whole = without_traceback("\n".join(result.errors or lines))
        text = "\n".join(brief(line, _MAX_LINE) for line in whole.splitlines())
        if "Required var" in text:
            text += "\nSet it in LAKEHOUSE_DBT_VARS, or give var() a default."
        raise ManifestError(f"`dbt {args[0]}` failed in {project.project_dir} (target {project.target}):\n{text}")
