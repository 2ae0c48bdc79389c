"""The user's own Dagster code in the folder `defs`: loaded, merged, or refused with one clear error."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from lakehouse_analytics.user_defs import UserDefsError
from tests.own_defs import own_defs

CODE = Path(__file__).parents[2]

ASSETS = """
    import dagster as dg

    @dg.asset(deps=[dg.AssetKey(["gold", "fct_revenue_daily"])])
    def features() -> None: ...

    @dg.asset_check(asset=dg.AssetKey(["gold", "fct_revenue_daily"]))
    def plausible() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    nightly = dg.define_asset_job("nightly_features", ["features"])
    at_night = dg.ScheduleDefinition(job=nightly, cron_schedule="0 3 * * *")
"""
COMPONENT = """
    type: dagster.FunctionComponent
    attributes:
      execution: lakehouse_analytics.defs.made.code.make
      assets: [{key: made}]
"""
CODE_OF_COMPONENT = "def make(context): ...\n"


def test_what_the_folder_defines_is_part_of_the_location(local: Any, tmp_path: Path) -> None:
    files = {"features.py": ASSETS, "made/defs.yaml": COMPONENT, "made/code.py": CODE_OF_COMPONENT}
    with own_defs(tmp_path, files):
        definitions = local.load()
        dg.Definitions.validate_loadable(definitions)
        graph = definitions.resolve_asset_graph()
    revenue = dg.AssetKey(["gold", "fct_revenue_daily"])
    assert graph.get(dg.AssetKey("features")).parent_keys == {revenue}
    assert dg.AssetKey("made") in graph.executable_asset_keys
    assert dg.AssetCheckKey(revenue, "plausible") in graph.asset_check_keys
    assert definitions.resolve_job_def("nightly_features")
    assert "nightly_features_schedule" in {schedule.name for schedule in definitions.schedules or ()}


def test_jobs_and_sensors_are_those_of_the_lakehouse_alone_where_the_folder_is_empty(
    local: Any, tmp_path: Path
) -> None:
    before = local.load()
    with own_defs(tmp_path, {"__init__.py": '"""Nothing yet."""\n', "notes.md": "", "more/__init__.py": ""}):
        after = local.load()
    assert {job.name for job in after.resolve_all_job_defs()} == {job.name for job in before.resolve_all_job_defs()}
    keys = before.resolve_asset_graph().get_all_asset_keys()
    assert after.resolve_asset_graph().get_all_asset_keys() == keys


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken.py", "import dagster\n\n1 / 0\n", r"broken\.py, line 3: ZeroDivisionError: division by zero$"),
        ("broken.py", "def f(:\n", r"broken\.py, line 1: SyntaxError: invalid syntax$"),
        ("broken.py", "import no_such\n", r"broken\.py, line 1: ModuleNotFoundError: No module named 'no_such'$"),
        (
            "deep/broken.py",
            "import dagster as dg\n@dg.asset(partitions_def=3)\ndef a(): ...\n",
            r"deep/broken\.py, line 2: ParameterCheckError: Param \"partitions_def\"",
        ),
        (
            "late.py",
            "import dagster as dg\n@dg.definitions\ndef d():\n    raise ValueError('late')\n",
            r"late\.py, line 4: ValueError: late$",
        ),
        (
            "broken.py",
            "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('set SIZE') from None\n",
            r"broken\.py, line 4: ValueError: set SIZE$",
        ),
        ("made/defs.yaml", "type: dagster.Nope\n", r"made/defs\.yaml: .*no attribute `Nope`"),
        ("made/defs.yaml", "type: [\n", r"made/defs\.yaml: ParserError: while parsing a flow node"),
        (
            "made/defs.yaml",
            "type: dagster.FunctionComponent\nattributes: {execution: x, asset: 1}\n",
            r"made/defs\.yaml: ValidationError: (?s:.*)Extra inputs",
        ),
    ],
)
def test_a_broken_file_is_one_error_that_names_it(
    local: Any, tmp_path: Path, name: str, text: str, message: str
) -> None:
    with own_defs(tmp_path, {"fine.py": ASSETS, name: text}), pytest.raises(UserDefsError, match=message) as error:
        local.load()
    assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "@dg.asset(key=['bronze', 'stg_customers'])\ndef own() -> None: ...",
            r"own\.py: the asset key bronze/stg_customers is also that of dbt model stg_customers "
            r"\(models/bronze/stg_customers\.sql\)",
        ),
        (
            "@dg.asset(key=['exposures', 'revenue_dashboard'])\ndef own() -> None: ...",
            r"own\.py: the asset key \S+ is also that of dbt exposure ",
        ),
        (
            "@dg.asset(key=['faker', 'users'])\ndef own() -> None: ...",
            r"own\.py: the asset key faker/users is also that of dbt source users \(\S+\), which Airbyte fills",
        ),
        ("own = dg.define_asset_job('full_refresh', '*')", r"own\.py: the name full_refresh is that of .* own jobs"),
        (
            "@dg.schedule(name='daily_refresh', target='*', cron_schedule='0 1 * * *')\ndef own(): ...",
            r"own\.py: the name daily_refresh is that of .* own schedules",
        ),
        (
            "@dg.sensor(name='lost_retries', target='*')\ndef own(): ...",
            r"own\.py: the name lost_retries .* own sensors",
        ),
        ("own = dg.Definitions(resources={'dbt': 1})", r"own\.py: the name dbt is that of .* own resources"),
        ("own = dg.Definitions(executor=dg.multiprocess_executor)", r"own\.py sets an executor"),
    ],
)
def test_a_key_or_a_name_that_is_taken_is_an_error_that_names_both(
    local: Any, tmp_path: Path, code: str, message: str
) -> None:
    [exposure] = local.graph.exposure_keys.values()
    code = code.replace("'exposures', 'revenue_dashboard'", ", ".join(map(repr, exposure)))
    files = {"fine.py": ASSETS, "own.py": f"import dagster as dg\n\n{code}\n"}
    files |= {"made/defs.yaml": COMPONENT, "made/code.py": CODE_OF_COMPONENT}
    with own_defs(tmp_path, files), pytest.raises(UserDefsError, match=message):
        local.load()


PROBE = """
import sys
import zipfile
from lakehouse_analytics.definitions import defs
keys = {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
print("own" in keys, sorted({"dbt", "dagster_dbt", "duckdb", "trino", "lakehouse_analytics.defs"} & set(sys.modules)))
"""
REQUIRES = """
from typing import Any
import dagster as dg
from lakehouse_analytics.resources import Airbyte, DuckDBResource, TrinoResource

@dg.asset
def own(
    dbt: dg.ResourceParam[Any], trino: TrinoResource, duckdb: DuckDBResource, airbyte: dg.ResourceParam[Airbyte]
) -> None: ...
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's folder, as a user has it."""
    folder = tmp_path_factory.mktemp("project") / "dagster"
    left_out = shutil.ignore_patterns("tests", "__pycache__", "*.egg-info", ".env", "*.lock")
    shutil.copytree(CODE, folder, ignore=left_out)
    return folder


def run(copy: Path, local: Any, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the copy, whose package goes before the installed one."""
    variables = {**local.variables, "LAKEHOUSE_DBT_PROJECT_DIR": str(local.settings.dbt_project_dir)}
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "PYTHON"))}
    paths = {"PYTHONPATH": str(copy), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{bare['PATH']}"}
    return subprocess.run(
        command,
        env={**bare, "COLUMNS": "200", **variables, **paths},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )


def test_loading_imports_neither_dbt_nor_a_database_for_resources_that_are_required(local: Any, copy: Path) -> None:
    nothing = run(copy, local, sys.executable, "-c", PROBE)
    assert nothing.stdout.strip() == "False []", nothing.stderr
    file = copy / "lakehouse_analytics/defs/own.py"
    file.write_text(REQUIRES)
    try:
        something = run(copy, local, sys.executable, "-c", PROBE)
    finally:
        file.unlink()
    assert something.stdout.strip() == "True ['lakehouse_analytics.defs']", something.stderr


def test_dg_scaffolds_checks_and_lists_what_the_folder_defines(local: Any, copy: Path) -> None:
    scaffolded = run(copy, local, "dg", "scaffold", "defs", "dagster.asset", "features.py")
    assert scaffolded.returncode == 0, scaffolded.stderr
    assert (copy / "lakehouse_analytics/defs/features.py").is_file()

    listed = run(copy, local, "dg", "list", "defs", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"features"' in listed.stdout
    assert '"bronze/stg_customers"' in listed.stdout

    checked = run(copy, local, "dg", "check", "defs")
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_the_package_by_itself_is_a_code_location(local: Any, copy: Path) -> None:
    workspace = copy / "workspace.yaml"
    workspace.write_text("load_from: [{python_package: {package_name: lakehouse_analytics}}]\n")
    validated = run(copy, local, "dagster", "definitions", "validate", "-w", str(workspace))
    assert validated.returncode == 0, validated.stderr
    light = run(copy, local, sys.executable, "-c", "import lakehouse_analytics, sys; print('dagster' in sys.modules)")
    assert light.stdout.strip() == "False", light.stderr


def test_components_have_short_names(local: Any, copy: Path) -> None:
    made = run(copy, local, "dg", "scaffold", "defs", "lakehouse_analytics.FileLanding", "day_ahead_prices")
    assert made.returncode == 0, made.stderr + made.stdout
    written = (copy / "lakehouse_analytics/defs/day_ahead_prices/defs.yaml").read_text()
    assert yaml.safe_load(written)["type"] == "lakehouse_analytics.FileLanding"
    listed = run(copy, local, "dg", "list", "components", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)
    names = re.findall(r"[\w.]+\.(FileLanding|TableSync|Publish)\"", listed.stdout)
    assert sorted(names) == ["FileLanding", "Publish", "TableSync"]


def test_the_package_of_the_image_has_every_file_of_the_folder(local: Any, copy: Path) -> None:
    files = {"made/defs.yaml": COMPONENT, "made/code.py": CODE_OF_COMPONENT, "made/sql/query.sql": "select 1\n"}
    for name, text in files.items():
        path = copy / "lakehouse_analytics/defs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    built = run(copy, local, sys.executable, "-c", build)
    assert built.returncode == 0, built.stderr
    wheel = zipfile.ZipFile(copy / "dist" / built.stdout.splitlines()[-1])
    assert {f"lakehouse_analytics/defs/{name}" for name in files} <= set(wheel.namelist())
