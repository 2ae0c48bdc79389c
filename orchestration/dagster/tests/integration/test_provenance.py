"""The origin of a query: from a query in Trino to its run and asset, and from an asset to the page of its query."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse

pytestmark = [pytest.mark.integration, pytest.mark.trino]

COMMENT = re.compile(r"/\* (?P<json>\{.*?\}) \*/")


def queries_of(trino: TrinoResource, run_id: str, **comment: str) -> list[dict[str, Any]]:
    """What Trino keeps of dbt's queries of a run whose comments say so, as its UI has it."""
    rows = trino.fetch_all(
        f"select query_id, query from system.runtime.queries where query like '%{run_id}%' and source like 'dbt%'"
    )
    found = []
    for query_id, sql in rows:
        said = COMMENT.search(str(sql))
        assert said, sql
        if json.loads(said["json"]).items() >= comment.items():
            found.append(page(trino, str(query_id)))
    return found


def page(trino: TrinoResource, query_id: str) -> dict[str, Any]:
    from lakehouse_analytics.engines.trino.session import http_session

    server = trino.server()
    assert server.secret
    with http_session(server) as session:
        session.auth = (server.user, server.secret.get_secret_value())
        answer = session.get(f"{server.address}/v1/query/{query_id}", timeout=10)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.engine("trino")
def test_every_query_tells_its_run_and_every_materialization_its_query(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run("full_refresh", assets=["bronze/a", "silver/sa"])
    assert outcome.success, outcome.failure
    trino = TrinoResource.of(Settings.load())

    queries = queries_of(trino, outcome.run_id, app="lakehouse-analytics", job="full_refresh", partition="")
    tags = Counter(tag for query in queries for tag in query["session"]["clientTags"])
    assert tags == dict.fromkeys(("job:full_refresh", f"run:{outcome.run_id}", "unpartitioned"), len(queries))

    for asset in outcome.built:
        of_asset = {query["queryId"] for query in queries_of(trino, outcome.run_id, asset=asset)}
        address, _, query_id = outcome.metadata[asset]["query"].partition("?")
        assert query_id in of_asset
        assert address == f"{trino.ui_url or trino.server().address}/ui/query.html"
        assert "create" in page(trino, query_id)["query"].lower()

    # Row counts use dbt's connection, and belong to no node. Trino may forget an old query between listing and
    # reading it: look at no query that is older than this run.
    began = min(query["queryStats"]["createTime"] for query in queries)
    counts = trino.fetch_all(
        "select query_id from system.runtime.queries where source like 'dbt%' and query like '%count(%'"
        f" and created >= from_iso8601_timestamp('{began}')"
    )
    ours = f"run:{outcome.run_id}"
    assert [query_id for (query_id,) in counts if ours in page(trino, str(query_id))["session"]["clientTags"]]
