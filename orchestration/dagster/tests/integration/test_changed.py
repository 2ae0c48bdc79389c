"""`lakehouse build --changed`: what differs from the base, everything downstream of it, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli.commands import main

from .conftest import FILES, Lakehouse

MORE = {
    "dbt_project.yml": FILES["dbt_project.yml"] + "\n        vars: {factor: 1}\n",
    "macros/doubled.sql": "{% macro doubled(column) %}2 * {{ column }}{% endmacro %}",
    "models/silver/sa.sql": "select id, {{ doubled('n') }} as n, '{{ run_started_at }}' as at from {{ ref('a') }}",
    "models/silver/sb.sql": "select id, n + {{ var('factor') }} as n from {{ ref('b') }}",
    "models/silver/short.sql": "{{ config(materialized='ephemeral') }} select id, n from {{ ref('sb') }} where id < 9",
    "models/gold/gb.sql": "select sum(n) as n from {{ ref('short') }}",
    "models/silver/va.sql": "{{ config(materialized='view') }} select * from {{ ref('sa') }}",
    "models/gold/ga.sql": "select sum(n) as n from {{ ref('va') }}",
}


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def command(*words: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == exit_code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    return result.output


@pytest.fixture(autouse=True)
def _repository(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_and_build(lakehouse, monkeypatch)


def commit_and_build(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit the project, and build it."""
    monkeypatch.setenv("DAGSTER_HOME", str(lakehouse.root))
    lakehouse.files |= MORE
    lakehouse.write()
    (lakehouse.project / ".gitignore").write_text("target\n")
    git(lakehouse.root, "init", "--quiet")
    git(lakehouse.root, "add", "dbt")
    git(lakehouse.root, "commit", "--quiet", "--message", "one")
    assert lakehouse.run().success


def built(lakehouse: Lakehouse, *words: str, exit_code: int = 0) -> tuple[str, set[str], set[str]]:
    """Build; the output, the tables that were built, and the checks that were evaluated."""
    before = {run.run_id for run in lakehouse.instance.get_runs()}
    output = command("build", "--changed", "--base", "HEAD", *words, exit_code=exit_code)
    tables: set[str] = set()
    checks: set[str] = set()
    for run in lakehouse.instance.get_runs():
        if run.run_id not in before:
            outcome = lakehouse.outcome(run.run_id, run.is_success)
            tables |= outcome.built
            checks |= outcome.checks.keys()
    return output, tables, checks


def test_what_differs_and_all_downstream_is_built(lakehouse: Lakehouse, tmp_path: Path) -> None:
    output, tables, _ = built(lakehouse)
    assert "No table or test differs from HEAD, so nothing is built." in output
    assert tables == set()

    lakehouse.files |= {
        "macros/doubled.sql": "{% macro doubled(column) %}3 * {{ column }}{% endmacro %}",
        "models/gold/new.sql": "select count(*) as n from {{ ref('sb') }}",
        "models/bronze/bronze.yml": FILES["models/bronze/bronze.yml"].replace(
            "columns: [{name: id, data_tests: [unique]}, {name: n",
            "columns: [{name: id, data_tests: [unique, not_null]}, {name: n",
        ),
    }
    lakehouse.write()
    names = tmp_path / "tables.txt"
    dry, nothing, _ = built(lakehouse, "--dry-run", "--write-tables", str(names))
    assert nothing == set()
    assert names.read_text().split() == ["gold/ga", "gold/new", "metrics/m", "silver/sa", "silver/va"]
    output, tables, checks = built(lakehouse)
    lines = (
        "gold/new: new",
        "silver/sa: macro doubled",
        "test not_null_b_id: new",
        "3 tables downstream: gold/ga, metrics/m, silver/va",
    )
    for line in lines:
        assert f"  {line}\n" in dry
        assert f"  {line}\n" in output
    assert tables == {"gold/ga", "gold/new", "metrics/m", "silver/sa", "silver/va"}
    assert "bronze/b:not_null_b_id" in checks
    assert not {name for name in checks if name.startswith("bronze/a")}
    assert "5 of 5 assets built" in output
    assert "b (only checks)" in output


def test_a_variable_differs_and_a_gate_fails(lakehouse: Lakehouse) -> None:
    lakehouse.files |= {
        "dbt_project.yml": FILES["dbt_project.yml"] + "\n        vars: {factor: 'nullif(1, 1)'}\n",
        "models/silver/silver.yml": "models: [{name: sb, columns: [{name: n, data_tests: [not_null]}]}]",
    }
    lakehouse.write()
    output, tables, checks = built(lakehouse, exit_code=1)
    assert "  silver/sb: compiled SQL\n" in output
    assert tables == {"silver/sb"}
    assert "silver/sb:not_null_sb_n" in checks
    assert "silver/sb failed its gate" in output
    assert "gb (not built)" in output


def test_the_base_is_a_manifest(lakehouse: Lakehouse, tmp_path: Path) -> None:
    """That of a deployed image: the manifest, and what dbt parsed, of the same folder."""
    target = next(lakehouse.project.glob("target/*/manifest.json")).parent
    deployed = tmp_path / "deployed"
    deployed.mkdir()
    for name in ("manifest.json", "partial_parse.msgpack"):
        (deployed / name).write_bytes((target / name).read_bytes())
    base = ("--changed", "--base", str(deployed / "manifest.json"))
    assert "so nothing is built" in command("build", *base)
    lakehouse.files["models/gold/gb.sql"] = "select sum(n) + 1 as n from {{ ref('short') }}"
    lakehouse.write()
    assert "gold/gb: SQL\n  1 table downstream: metrics/m\n" in command("build", *base, "--dry-run")


def test_without_changed_everything_is_built(lakehouse: Lakehouse) -> None:
    output = command("build")
    assert "Build: Dagster job full_refresh" in output
    assert "8 of 8 assets built" in output
    assert "--base is for --changed." in command("build", "--base", "HEAD", exit_code=2)
    assert "nowhere is neither a file nor a commit" in command("build", "--changed", "--base", "nowhere", exit_code=1)


def test_a_run_of_a_branch_is_refused_where_the_branch_is_not_set(lakehouse: Lakehouse) -> None:
    """Its pod has another environment than the code server: it must not write to the tables themselves."""
    job = lakehouse.definitions().resolve_job_def("full_refresh")
    run = job.execute_in_process(instance=lakehouse.instance, tags={"lakehouse/branch": "pr_42"}, raise_on_error=False)
    outcome = lakehouse.outcome(run.run_id, run.success)
    assert "launched on the branch pr_42, but LAKEHOUSE_BRANCH is not set where it is executed" in outcome.failure
    assert outcome.built == set()


@pytest.mark.engine("trino")
def test_on_a_branch(lakehouse: Lakehouse) -> None:
    """Only what differs is written there; a branch begins with copies of tables, and without views."""
    assert "There is no branch pr_42. Create it: lakehouse branch create pr_42" in command(
        "build", "--branch", "pr-42", "--changed", "--base", "HEAD", exit_code=1
    )
    command("branch", "create", "pr-42")
    main_tables = lakehouse.database.contents()
    lakehouse.files["models/gold/ga.sql"] = "select sum(n) + 1 as n from {{ ref('va') }}"
    lakehouse.write()
    output, tables, _ = built(lakehouse, "--branch", "PR-42")
    assert "  gold/ga: SQL\n  1 table downstream: metrics/m\n  1 view that they read: silver/va\n" in output
    # Their asset keys are others, so that no sensor takes them for tables of the lakehouse.
    assert tables == {"pr_42/gold/ga", "pr_42/metrics/m", "pr_42/silver/va"}
    assert lakehouse.database.contents() == main_tables
    [[before]] = lakehouse.sql("select n from gold.ga")
    assert lakehouse.sql("select n from gold__pr_42.ga") == [(before + 1,)]
    assert lakehouse.sql("select count(*) from silver__pr_42.sb") == [(100,)]
    assert "LAKEHOUSE_BRANCH=pr_42" in output
    assert {run.tags.get("lakehouse/branch") for run in lakehouse.instance.get_runs(limit=1)} == {"pr_42"}

    lakehouse.files["models/gold/ga.sql"] = "select sum(n) as n from {{ ref('va') }}"
    lakehouse.write()
    command("manifest")
    again = command("branch", "create", "pr-42", "--replace")
    assert again.startswith("Dropped the branch pr_42 and ")
    output, tables, _ = built(lakehouse, "--branch", "pr-42")
    assert "so nothing is built" in output
    assert lakehouse.sql("select n from gold__pr_42.ga") == [(before,)]
    assert "Dropped the branch pr_42" in command("branch", "drop", "pr-42", "--if-exists")
    assert command("branch", "drop", "pr-42", "--if-exists") == "There is no branch pr_42.\n"
