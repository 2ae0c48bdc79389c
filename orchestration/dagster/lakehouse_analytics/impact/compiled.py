"""Makes the two sides: compiles a project without a warehouse, at a git ref or from a given manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.text import brief, without_traceback
from lakehouse_analytics.dbt.profile import load_yaml, placeholders
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import PARTIAL_PARSE, DbtRunner, DbtSession
from lakehouse_analytics.impact.nodes import CompiledManifest
from lakehouse_analytics.impact.side import Inputs

_PACKAGES = ("packages.yml", "dependencies.yml", "package-lock.yml")
_MAX_LINE = 2_000
#: dbt's error that a `ref` or `source` names something that does not exist.
_MISSING = re.compile(r"depends on a (?:node|source) named '([^']*)'[^\n]*\bwhich\s+was not found")


class ImpactError(RuntimeError):
    """The two sides cannot be compared. The message says what to do."""


@dataclass(frozen=True)
class Compiler:
    """Compiles sides of one project.

    Attributes:
        project: The project of the user.
        runner: Runs dbt commands for it.
        folder: A temporary folder.
    """

    project: DbtProject
    runner: DbtRunner
    folder: Path

    def current(self, *, parsed: bool = False) -> Inputs:
        """Return the project as it is on disk.

        Args:
            parsed: Whether the parsed project is up to date, so that it does not have to be parsed.

        Raises:
            ImpactError: It does not compile.
        """
        return self.compiled(self.runner, "current", "the project as it is on disk", parsed=parsed)

    def base(self, base: str) -> Inputs:
        """Return the project at a git ref, or of a manifest.

        Args:
            base: The path of a `manifest.json`, or a git ref.

        Raises:
            ImpactError: There is no such file or ref, or it does not compile.
        """
        self.check(base)
        if _is_path(base):
            return self._of_manifest(Path(base))
        root = self._checked_out(base)
        project_dir = root / self.project.project_dir.relative_to(_repository(self.project.project_dir))
        if not (project_dir / "dbt_project.yml").is_file():
            raise ImpactError(f"{self.project.project_dir} has no dbt_project.yml at {base}: use a later commit.")
        return self.compiled(self._runner_in(project_dir), "base", f"the project at {base}")

    def check(self, base: str) -> None:
        """Check that there is such a file or git ref.

        Raises:
            ImpactError: There is none.
        """
        if not _is_path(base):
            self._commit(base)
        elif not Path(base).is_file():
            raise ImpactError(
                f"{base} does not exist: --base is the path of a manifest.json, as `lakehouse manifest` prints, or a "
                "git ref."
            )

    def _of_manifest(self, path: Path) -> Inputs:
        parsed = path.parent / PARTIAL_PARSE
        if parsed.is_file():
            runner = self.runner.model_copy(update={"target_path": str(path.parent)})
            return self.compiled(runner, "base", f"the project of {path}", parsed=True)
        manifest = _json(path)
        models = [node for node in CompiledManifest(manifest).tables.values() if node.resource_type == "model"]
        if not any(node.compiled_code for node in models) and models:
            raise ImpactError(
                f"{path} has no compiled SQL, and there is no {PARTIAL_PARSE} beside it: copy both from the same "
                "target folder, or use the manifest of `dbt compile`."
            )
        return Inputs(manifest)

    def _commit(self, ref: str) -> str:
        repository = _repository(self.project.project_dir)
        name = f"{ref}^{{commit}}"
        commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
        if commit is None:
            raise ImpactError(
                f"{ref} is neither a file nor a commit of {repository}: --base is a git ref, such as origin/main "
                "(fetch it first), or the path of a manifest.json."
            )
        return commit.strip()

    def _checked_out(self, ref: str) -> Path:
        """Return a copy of the repository's files at a git ref."""
        repository = _repository(self.project.project_dir)
        archive, root = self.folder / "base.tar", self.folder / "base"
        if _git(repository, "archive", "--format=tar", f"--output={archive}", self._commit(ref)) is None:
            raise ImpactError(f"`git archive {brief(ref)}` failed in {repository}.")
        with tarfile.open(archive) as files:
            files.extractall(root, filter="tar")
        archive.unlink()
        return root

    def _runner_in(self, project_dir: Path) -> DbtRunner:
        """Return the runner of a copy of the project, with the profile of the copy if it has one."""
        profiles_dir = self.project.profiles_dir
        if profiles_dir.is_relative_to(repository := _repository(self.project.project_dir)):
            copied = self.folder / "base" / profiles_dir.relative_to(repository)
            profiles_dir = copied if (copied / "profiles.yml").is_file() else profiles_dir
        return self.runner.model_copy(update={"project_dir": str(project_dir), "profiles_dir": str(profiles_dir)})

    def compiled(self, runner: DbtRunner, name: str, what: str, *, parsed: bool = False) -> Inputs:
        """Compile one side.

        Args:
            runner: Runs dbt in the folder of the side.
            name: `base` or `current`.
            what: What it is, for messages.
            parsed: Whether to start from the runner's parsed project.

        Raises:
            ImpactError: It does not compile.
        """
        target, record = self.folder / f"{name}-target", self.folder / f"{name}.json"
        project = self.project
        target.mkdir()
        unset = placeholders(project.profile, project.environment, project.variables) if project.profile else {}
        with runner.session(environment=unset) as session:
            if not parsed:
                self._install_packages(session, Path(runner.project_dir), target, what)
            command = [
                "compile",
                "--no-introspect",
                "--no-populate-cache",
                *(() if parsed else ("--no-partial-parse",)),
            ]
            _run(session, command, target, what, hook={"kind": "offline", "path": str(record)}, parsed=parsed)
        manifest = _json(target / "manifest.json")
        recorded = _json(record)
        for unique_id in recorded["problems"]:
            if node := manifest["nodes"].get(unique_id):
                node["compiled_code"] = None
        _hash_large_seeds(manifest, Path(runner.project_dir))
        seeds = {} if parsed else _seed_columns(manifest, Path(runner.project_dir))
        catalog = project.target_path / "catalog.json"
        # Of both sides, because it describes the tables as they are.
        found = _json(catalog) if catalog.is_file() else {}
        return Inputs(manifest, recorded["incremental"], seeds, found)

    def _install_packages(self, session: DbtSession, project_dir: Path, target: Path, what: str) -> None:
        """Install the packages of the copy of the project: those of the project itself, if they are the same."""
        mine = self.project.project_dir
        if project_dir == mine or not any(_declares(project_dir / name) for name in _PACKAGES[:2]):
            return
        installed = self.project.packages_dir
        same = all(_text(project_dir / name) == _text(mine / name) for name in _PACKAGES)
        if same and installed.is_dir() and installed.is_relative_to(mine):
            link = project_dir / installed.relative_to(mine)
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(installed)
        else:
            _run(session, ["deps"], target, what)


def both_sides(project: DbtProject, runner: DbtRunner, base: str, *, parsed: bool = False) -> tuple[Inputs, Inputs]:
    """Return the base and the project as it is on disk. Both are compiled at the same time.

    Args:
        project: The project.
        runner: Runs dbt commands for it.
        base: The path of a `manifest.json`, or a git ref.
        parsed: Whether the parsed project is up to date.

    Raises:
        ImpactError: One of them does not compile, or there is no such base.
    """
    with tempfile.TemporaryDirectory(prefix="lakehouse-impact-") as folder:
        compiler = Compiler(project, runner, Path(folder))
        compiler.check(base)  # before anything is compiled
        with ThreadPoolExecutor(1, thread_name_prefix="compile") as pool:
            current = pool.submit(compiler.current, parsed=parsed)
            return compiler.base(base), current.result()


def same_seeds(base: Inputs, current: Inputs) -> tuple[Inputs, Inputs]:
    """Return both sides without the headers of seeds, if the files of one of them are not known."""
    return base, current if base.seed_columns else replace(current, seed_columns={})


def _run(
    session: DbtSession,
    args: list[str],
    target: Path,
    what: str,
    *,
    hook: Mapping[str, str] | None = None,
    parsed: bool = False,
) -> None:
    lines: list[str] = []

    def log(level: str, message: str) -> None:
        if level != "debug":
            lines.append(message)

    result = session.run(args, log, target_path=target, hook=hook, parsed=parsed)
    if result.exit_code != 0:
        whole = without_traceback("\n".join(result.errors or lines))
        text = "\n".join(brief(line, _MAX_LINE) for line in whole.splitlines())
        raise ImpactError(f"`dbt {args[0]}` failed for {what}:\n{text}{missing_hint(text)}")


def missing_hint(text: str) -> str:
    """Return what to do about dbt's error that there is no such model or source; an empty string for other errors."""
    found = _MISSING.search(text)
    return (
        f"\nThe project has no {found[1]}, which a `ref` or `source` still names. If it was removed or renamed, change "
        "what still reads it."
        if found
        else ""
    )


def _is_path(base: str) -> bool:
    return Path(base).suffix == ".json" or Path(base).is_file()


def _repository(folder: Path) -> Path:
    found = _git(folder, "rev-parse", "--show-toplevel")
    if found is None:
        raise ImpactError(f"{folder} is not in a git repository: give --base the path of a manifest.json.")
    return Path(found.strip())


def _git(folder: Path, *args: str) -> str | None:
    """Return git's output; None if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=False, env=environment
        )
    except FileNotFoundError:
        raise ImpactError("git is not installed: give --base the path of a manifest.json.") from None
    return done.stdout if done.returncode == 0 else None


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ImpactError(f"dbt wrote no {path.name}: remove `write_json: false` from dbt_project.yml.") from None
    except ValueError:
        raise ImpactError(f"{path} cannot be read as JSON.") from None
    return loaded


def _declares(path: Path) -> bool:
    return path.is_file() and bool(load_yaml(path).get("packages"))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _seed_columns(manifest: Mapping[str, Any], project_dir: Path) -> dict[str, tuple[str, ...]]:
    """Return the header of each seed's file."""
    found = {}
    for unique_id, node in manifest["nodes"].items():
        if node["resource_type"] == "seed":
            path = Path(node.get("root_path") or project_dir) / node["original_file_path"]
            if path.is_file():
                with path.open(newline="", encoding="utf-8-sig") as file:
                    header = next(csv.reader(file, delimiter=node["config"].get("delimiter") or ","), [])
                found[unique_id] = tuple(name.strip() for name in header)
    return found


def _hash_large_seeds(manifest: Mapping[str, Any], project_dir: Path) -> None:
    """Replace the checksums of large seeds, which for dbt are those of their paths, by those of their files."""
    for node in manifest["nodes"].values():
        if node["resource_type"] == "seed" and (node.get("checksum") or {}).get("name") == "path":
            path = project_dir / node["original_file_path"]
            if path.is_file():
                with path.open("rb") as file:
                    node["checksum"] = {"name": "sha256", "checksum": hashlib.file_digest(file, "sha256").hexdigest()}
