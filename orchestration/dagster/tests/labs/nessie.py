"""A branch of Nessie survives maintenance of main. See README.md beside this file."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import dagster as dg
import requests
from lakehouse_analytics.assets.maintenance import maintenance_assets
from lakehouse_analytics.contract.models import ModelContract
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.nodes import Config, Node
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.maintenance import plan as maintenance
from lakehouse_analytics.settings import Settings
from pyiceberg.catalog import Catalog, load_catalog

NESSIE = os.environ.get("NESSIE_URL", "http://127.0.0.1:19120")
CATALOG = os.environ.get("NESSIE_TRINO_CATALOG", "nessie")
SCHEMA = "lab"


def catalog_of(branch: str) -> Catalog:
    """pyiceberg's view of one branch; storage keys come from the stack's own catalog."""
    of = "PYICEBERG_CATALOG__LAKEHOUSE__S3__"
    keys = {f"s3.{k.removeprefix(of).lower().replace('_', '-')}": v for k, v in os.environ.items() if k.startswith(of)}
    return load_catalog(branch, type="rest", uri=f"{NESSIE}/iceberg/{branch}", warehouse="lakehouse", **keys)


def main() -> int:
    """Write a branch, run maintenance on main, read the branch."""
    os.environ.update(LAKEHOUSE_ENV="trino", LAKEHOUSE_TRINO_CATALOG=CATALOG)
    os.environ.pop("LAKEHOUSE_ICEBERG_CATALOG", None)
    trino = TrinoResource.of(Settings.load())
    name = f"orders_{int(time.time())}"
    branch = f"audit-{name}"
    table = f"{CATALOG}.{SCHEMA}.{name}"
    trino.fetch_all(f"create schema if not exists {CATALOG}.{SCHEMA}")
    trino.fetch_all(f"create table {table} as select n as id from unnest(sequence(1, 5000)) as t(n)")

    head = requests.get(f"{NESSIE}/api/v2/trees/main", timeout=30).json()["reference"]
    made = requests.post(f"{NESSIE}/api/v2/trees", params={"name": branch, "type": "BRANCH"}, json=head, timeout=30)
    made.raise_for_status()
    on_branch = catalog_of(branch).load_table(f"{SCHEMA}.{name}")
    on_branch.append(on_branch.scan(limit=10).to_arrow())
    trino.fetch_all(f"insert into {table} values 5001")
    time.sleep(3)

    maintenance.MARGIN = timedelta()
    contract = ModelContract.model_validate({"maintenance": {"retain": "1s", "orphans": "1s"}})
    node = Node(
        "model.lab",
        "model",
        name,
        original_file_path="models/models.yml",
        database=CATALOG,
        schema=SCHEMA,
        config=Config("table"),
    )
    model = Table("model.lab", (SCHEMA, name), SCHEMA, contract, node, ())
    graph = Graph(tables={"model.lab": model}, sources={}, tests={}, exposures={}, adapter="trino")
    assets = maintenance_assets(graph, floor=timedelta(), max_runtime=0)
    done = dg.materialize(assets, resources={"engine": trino}, raise_on_error=False)
    for event in done.get_asset_materialization_events():
        print(event.step_materialization_data.materialization.metadata["steps"].value)

    rows = catalog_of(branch).load_table(f"{SCHEMA}.{name}").scan().to_arrow().num_rows
    print(f"maintenance: {'succeeded' if done.success else 'failed'}; the branch {branch} has {rows} rows")
    return 0 if done.success and rows == 5010 else 1


if __name__ == "__main__":
    sys.exit(main())
