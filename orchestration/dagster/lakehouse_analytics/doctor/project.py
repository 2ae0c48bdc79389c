"""The probes of the project: settings, the manifest, and loading the code location."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, Location, ProbeContext, failed, fine
from lakehouse_analytics.settings import Settings, SettingsError


def settings(context: ProbeContext) -> Finding:
    """Load the settings from the environment."""
    try:
        context.settings = Settings.load()
    except SettingsError as error:
        _, *problems = str(error).splitlines()
        return failed("\n".join(problem.strip() for problem in problems), fixes.set_variables(fixes.here()))
    engine = context.settings.engine_type.title
    return fine(f"LAKEHOUSE_ENV is {context.settings.env}, dbt's target {context.settings.target}, on {engine}")


def manifest(context: ProbeContext) -> Finding:
    """Check that the manifest exists, is as new as the project's files, and has valid contracts."""
    from lakehouse_analytics.contract.models import ContractError
    from lakehouse_analytics.dbt.manifest import read

    project = DbtProject.from_settings(context.settings)
    try:
        configuration = project.configuration()
        if problem := _manifest_problem(project):
            return problem
    except ManifestError as error:
        message = str(error).partition(": set ")[0]
        return failed(message, "Set LAKEHOUSE_DBT_PROJECT_DIR to the folder of a dbt project, or correct that file.")
    try:
        strict = context.settings.strict
        context.graph = read(project.manifest(), configuration, project_dir=project.project_dir, strict=strict)
    except ManifestError as error:
        return failed(str(error).partition(" Make it")[0], fixes.parse_project(fixes.here()))
    except ContractError as error:
        return failed(str(error), fixes.correct_contracts(fixes.here()))
    context.project = project
    tables, sources = counted(len(context.graph.tables), "table"), counted(len(context.graph.sources), "source table")
    fresh = f"{project.manifest_path} is fresh: {tables}, {sources}"
    return fine("\n".join([fresh, *context.graph.warnings]))


def _manifest_problem(project: DbtProject) -> Finding | None:
    path = project.manifest_path
    if project.problem:
        return failed(project.problem, fixes.correct_profile(fixes.here()))
    changed = project.changes()
    if changed is None:
        return failed(f"there is no manifest at {path}", fixes.parse_project(fixes.here()))
    if changed:
        return failed(f"{path} is stale: changed since it was made: {some(changed)}", fixes.parse_project(fixes.here()))
    return None


def location(context: ProbeContext) -> Finding:
    """Load `definitions` in a new interpreter, as a code server does."""
    # With this variable, which `dg dev` sets, the location would parse the project, which is not the subject of this
    # probe.
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_IS_DEV_CLI"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lakehouse_analytics.doctor.load"],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=context.timeout * 0.95,  # so that the process ends before the probe's time is over
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return failed(
            f"lakehouse_analytics.definitions did not load within {context.timeout:g} s",
            fixes.show_load_time(fixes.here()),
        )
    seconds = time.monotonic() - began
    answer = json.loads(next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "{}"))
    if done.returncode != 0 or "error" in answer or not answer:
        ended = next(reversed(done.stderr.strip().splitlines()), f"ended with exit code {done.returncode}")
        return failed(
            f"lakehouse_analytics.definitions does not load: {answer.get('error') or ended}",
            fixes.show_load_error(fixes.here()),
        )
    context.location = found = Location(**answer)
    return fine(
        f"{counted(found.assets, 'asset')}, {counted(found.jobs, 'job')}, {counted(len(found.schedules), 'schedule')}, "
        f"{counted(len(found.sensors), 'sensor')}; a fresh interpreter loads it in {seconds:.1f} s"
    )
