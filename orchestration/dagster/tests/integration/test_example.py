"""`lakehouse example energy` as a person runs it: generated files, partitions by date and market, and models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.docs_examples import block

pytestmark = [pytest.mark.engine("duckdb"), pytest.mark.nightly]

COMMAND = block("arrivals.md", "lakehouse example energy")


def run(home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of docs/arrivals.md, with another home folder."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**inherited, "HOME": str(home), "PATH": path}
    return subprocess.run(["bash", "-ec", COMMAND], env=environment, text=True, capture_output=True, check=False)


def test_the_example_of_an_energy_market_is_built_from_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "energy"
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # The one price that is not a number is a warning of the source.
    assert "4 of 4 assets built" in done.stdout
    assert "1 warned, 0 failed" in done.stdout
    files = sorted((folder / "landing/dam").iterdir())
    with duckdb.connect(str(folder / "energy.duckdb"), read_only=True) as db:
        [(rows, days, markets)] = db.sql(
            "select count(*), count(distinct _file_date), count(distinct market) from landing.day_ahead_prices"
        ).fetchall()
        assert (rows, days, markets) == (len(files) * 4 * 24 - 1, len(files), 4)
        assert db.sql("select count(*) from landing.day_ahead_prices__quarantine").fetchall() == [(1,)]
        # Models have the days and months that have ended.
        whole = "(select count(distinct delivery_start::date) from bronze.stg_prices)"
        assert db.sql(f"select count(*) = 4 * {whole} from gold.price_daily").fetchall() == [(True,)]
        assert db.sql("select count(*) >= 4 and count(*) % 4 = 0 from gold.price_monthly").fetchall() == [(True,)]

    again = run(tmp_path)
    assert again.returncode != 0
    assert "has files. Name an empty folder, or one that does not exist" in again.stderr
