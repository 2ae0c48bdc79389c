"""`lakehouse example` makes a project with generated data in a folder, and builds it."""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import dagster as dg

from lakehouse_analytics.cli.build import Build, build_and_summarize, title
from lakehouse_analytics.cli.partitions import WHOLE, first_of_last_month, partition_range
from lakehouse_analytics.common.environment import repository_root
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.jobs import MAIN, job_of
from lakehouse_analytics.settings import Settings

_MARKETS = {"AT": 1.02, "DE": 1.0, "FR": 0.93, "IT": 1.18}


class ExampleError(Exception):
    """The example cannot be made. The message says what to do."""


def run(name: str, folder: Path) -> bool:
    """Make an example in a folder, and build it with its own Dagster instance and database.

    Args:
        name: Name of a folder of `examples/`.
        folder: A folder that is empty or does not exist.

    Returns:
        Whether everything was built.

    Raises:
        ExampleError: The folder has files, or the checkout has no such example.
    """
    started = time.monotonic()
    folder = folder.absolute()
    copy(name, folder)
    title(f"Data: {folder}")
    for line in GENERATORS[name](folder):
        click.echo(line)
    environment = environment_of(name, folder)
    os.environ.update(environment)
    Path(environment["DAGSTER_HOME"]).mkdir()
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    title("Manifest: dbt parse")
    prepare(project, dbt_runner(settings, project), click.echo)

    # Imported here, because loading the code location needs the manifest.
    from lakehouse_analytics.definitions import defs

    definitions = defs()
    instance = open_home()
    done = build_and_summarize(settings, instance, definitions, _builds(definitions, instance), started)
    variables = " ".join(f"{variable}={value}" for variable, value in environment.items())
    click.echo(f"The settings of this example:  export {variables}")
    return done


def copy(name: str, folder: Path) -> None:
    """Copy an example, and the macros that its models use.

    Raises:
        ExampleError: The folder has files, or the checkout has no such example.
    """
    source = repository_root() / "examples" / name
    if not source.is_dir():
        raise ExampleError(f"{source} does not exist: `lakehouse example` needs a checkout of the repository.")
    if folder.exists() and any(folder.iterdir()):
        raise ExampleError(f"{folder} has files. Name an empty folder, or one that does not exist.")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    shutil.copytree(repository_root() / "dbt" / "macros", folder / "macros")


def environment_of(name: str, folder: Path) -> dict[str, str]:
    """Return the variables of an example: its project, its database, and its Dagster instance."""
    return {
        "LAKEHOUSE_DBT_PROJECT_DIR": str(folder),
        "LAKEHOUSE_DUCKDB_PATH": str(folder / f"{name}.duckdb"),
        "DAGSTER_HOME": str(folder / ".dagster_home"),
    }


def _builds(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Iterator[Build]:
    """Yield the loads of the sources, then the runs of the models: daily ones, and those of longer partitions.

    The values of dynamic partitions are known once the sources are loaded.
    """
    everything = definitions.resolve_implicit_global_asset_job_def()
    sources = [spec.key for spec in definitions.resolve_all_asset_specs() if spec.group_name == "sources"]
    loaded = [key for key in sources if key in everything.asset_layer.executable_asset_keys]
    for key in loaded:
        yield Build(everything.get_subset(asset_selection={key}))
    known = {job.name for job in definitions.jobs or ()}
    by_column = sorted(name for name in known if name.startswith("daily_") and name.endswith("_refresh"))
    for name in (MAIN, *(name for name in by_column if name != "daily_refresh"), job_of("monthly")):
        job = definitions.resolve_job_def(name) if name in known else None
        if job and job.asset_layer.executable_asset_keys:
            yield Build(job, *(partition_range(job.partitions_def, first_day(), instance) or WHOLE))


def first_day() -> date:
    """Return the first day for which files are generated: the first of the month before the last one."""
    return first_of_last_month()


def day_ahead_prices(folder: Path) -> Iterator[str]:
    """Generate a file of day-ahead prices per day, up to tomorrow, and yield what it says to the user."""
    landing = folder / "landing" / "dam"
    landing.mkdir(parents=True)
    days = (datetime.now(UTC).date() + timedelta(days=1) - first_day()).days + 1
    chance = random.Random(1)  # noqa: S311  # the same prices in each run
    for number in range(days):
        day = first_day() + timedelta(days=number)
        path = landing / f"{day}_prices.csv"
        path.write_text("".join(_lines(day, chance, broken=number == days // 2)))
        # A file that has just changed is not read yet, because it may still be written.
        os.utime(path, (time.time() - 60,) * 2)
    yield f"{days} files of day-ahead prices in {landing}, one row with a price that is not a number."


def _lines(day: date, chance: random.Random, *, broken: bool) -> Iterator[str]:
    yield "market,delivery_start,price,volume_mwh\n"
    weekend = 0.8 if day.weekday() >= 5 else 1.0
    level = 75 + 20 * math.sin(day.toordinal() / 9) + chance.gauss(0, 6)
    for market, factor in _MARKETS.items():
        for hour in range(24):
            shape = 1 + 0.35 * math.sin((hour - 4) / 24 * 2 * math.pi) + 0.15 * math.sin((hour - 16) / 6 * math.pi)
            price = f"{level * factor * weekend * shape + chance.gauss(0, 4):.2f}"
            if broken and market == "FR" and hour == 3:
                price = "n/a"
            yield f"{market},{day}T{hour:02}:00:00Z,{price},{chance.uniform(400, 2400) * factor:.3f}\n"


#: Writes the data of an example into its folder, and yields lines for the user.
GENERATORS: dict[str, Callable[[Path], Iterator[str]]] = {"energy": day_ahead_prices}
