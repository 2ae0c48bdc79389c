"""`lakehouse ingest` and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from lakehouse_analytics.common.redact import Redactor
from lakehouse_analytics.ingest import IngestReport, StreamReport
from lakehouse_analytics.ingest.command import ingest
from lakehouse_analytics.ingest.secrets import split

from .conftest import ID, Lake


@pytest.fixture
def runner(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", str(lake.database))
    monkeypatch.setenv("LAKEHOUSE_CONNECTORS_DIR", str(lake.settings.connectors_dir))
    lake.write()
    return CliRunner()


def test_it_ends_with_a_table(lake: Lake, runner: CliRunner) -> None:
    steps = [{"record": ["users", {"id": 1}]}, {"state": ["users", 1]}, {"status": ["users", "COMPLETE"]}]
    lake.scenario(schemas={"users": ID}, steps=steps)
    first = runner.invoke(ingest, ["--config", str(lake.config_path)])
    assert first.exit_code == 0
    assert first.stdout.splitlines()[0].split() == ["stream", "mode", "rows", "read", "rows", "now", "seconds"]
    assert first.stdout.splitlines()[1].split()[:4] == ["users", "first", "1", "1"]
    assert "users: 1 rows read" in first.stderr
    lake.scenario(schemas={"users": ID}, steps=[{"status": ["users", "COMPLETE"]}])
    second = runner.invoke(ingest, ["--config", str(lake.config_path)])
    assert second.stdout.splitlines()[1].split()[:4] == ["users", "incremental", "0", "1"]
    assert second.stdout.splitlines()[-1] == "Nothing new since the last sync."


def test_an_error_is_one_line_and_exit_code_1(lake: Lake, runner: CliRunner) -> None:
    lake.scenario(schemas={"users": ID}, steps=[{"stderr": "no memory"}, {"crash": "exit"}])
    result = runner.invoke(ingest, ["--config", str(lake.config_path), "--count", "3"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: source-fake: `read` ended with exit code 3: no memory"
    assert result.stdout == ""


def test_a_dagster_home_that_cannot_be_written_is_one_line_after_the_table(
    lake: Lake, runner: CliRunner, tmp_path: Path
) -> None:
    steps = [{"record": ["users", {"id": 1}]}, {"state": ["users", 1]}, {"status": ["users", "COMPLETE"]}]
    lake.scenario(schemas={"users": ID}, steps=steps)
    file = tmp_path / "home"
    file.touch()
    result = runner.invoke(ingest, ["--config", str(lake.config_path)], env={"DAGSTER_HOME": str(file)})
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[0] == "users"
    assert result.stderr.splitlines()[-1].startswith(
        "Error: The sync is done, but could not be reported to Dagster: DAGSTER_HOME"
    )


def test_a_sync_is_recorded_as_begun_before_its_connector_looks_at_the_source(
    lake: Lake, runner: CliRunner, tmp_path: Path
) -> None:
    """Rows that reach the source while it is read may be missing: a window that ends then waits for another sync."""
    looked, read = tmp_path / "looked", tmp_path / "read"
    lake.scenario(
        schemas={"users": ID},
        discover_steps=[{"clock": str(looked)}],
        steps=[{"clock": str(read)}, {"record": ["users", {"id": 1}]}, {"status": ["users", "COMPLETE"]}],
    )
    home = tmp_path / "home"
    for number in (1, 2):  # the first one installs the connector
        called = time.time()
        result = runner.invoke(ingest, ["--config", str(lake.config_path)], env={"DAGSTER_HOME": str(home)})
        assert result.exit_code == 0, result.output
        with dg.DagsterInstance.from_config(str(home)) as instance:
            syncs = instance.fetch_materializations(dg.AssetKey(["fake", "users"]), limit=10).records
        assert len(syncs) == number
        assert syncs[0].asset_materialization
        started = syncs[0].asset_materialization.metadata["started"].value
        assert isinstance(started, float)
        assert called <= started <= float(looked.read_text()) < float(read.read_text())


def test_a_wrong_variable_is_an_error_too(runner: CliRunner) -> None:
    result = runner.invoke(ingest, [], env={"LAKEHOUSE_DUCKDB_LOCK_TIMEOUT": "soon"})
    assert result.exit_code == 1
    assert "LAKEHOUSE_DUCKDB_LOCK_TIMEOUT" in result.stderr


def test_importing_it_loads_neither_dagster_nor_duckdb() -> None:
    program = "import sys, lakehouse_analytics.ingest.command; print({'dagster', 'duckdb', 'dbt'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_the_table_lines_up() -> None:
    streams = tuple(
        StreamReport(name, name, "first", rows, 1, rows, 1.25, 1) for name, rows in (("a", 1), ("longer", 1_234_567))
    )
    assert IngestReport("p", "1", "s", "raw", streams).table().splitlines() == [
        "stream  mode   rows read   rows now  seconds",
        "a       first          1          1      1.2",
        "longer  first  1,234,567  1,234,567      1.2",
    ]


def test_secrets_are_found_in_branches_lists_and_numbers() -> None:
    secret = {"airbyte_secret": True}
    spec = {
        "properties": {
            "auth": {"oneOf": [{"properties": {"token": secret}}, {"properties": {"keys": secret, "user": {}}}]},
            "hosts": {"items": {"properties": {"pin": secret}}},
        }
    }
    config = {"auth": {"token": "t0k", "keys": ["k1", "k2"], "user": "u"}, "hosts": [{"pin": 1234, "name": "h"}]}
    public, secrets = split(spec, config)
    assert public == {"auth": {"user": "u"}, "hosts": [{"name": "h"}]}
    assert sorted(secrets) == ["1234", "k1", "k2", "t0k"]


@pytest.mark.parametrize("shown", ['a"b/c', 'a\\"b/c', "a%22b%2Fc"])
def test_every_spelling_of_a_secret_is_masked(shown: str) -> None:
    assert Redactor(['a"b/c'])(f"<{shown}>") == "<****>"


def test_each_line_of_a_key_is_masked() -> None:
    assert Redactor(["-----BEGIN-----\nabcdefghij\n"])("saw abcdefghij") == "saw ****"
