"""Which sources accept reports."""

from __future__ import annotations

import pytest
from lakehouse_analytics.webhook.sources import ReportedSources, UnknownSourceError
from manifests import Manifest

REPORTED = {"arrives": {"webhook": True}}


def sources() -> ReportedSources:
    m = Manifest()
    m.source("shop", "orders", lakehouse=REPORTED)
    m.source("shop", "items", lakehouse=REPORTED, dagster={"asset_key": ["raw", "items"]})
    m.source("shop", "people")
    m.source("landing", "prices", lakehouse={"arrives": {"files": "landing/*.csv"}})
    return ReportedSources.of(m.graph().sources.values())


def test_sources_are_found_by_dbts_names() -> None:
    assert sources().key("shop/orders") == ("shop", "orders")
    assert sources().key("shop/items") == ("raw", "items")
    assert sources().names == "shop/items, shop/orders"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop/order", "The dbt project has no source table shop/order; did you mean shop/orders?"),
        ("x/y", "The dbt project has no source table x/y."),
        (
            "shop/people",
            "Loads of shop/people cannot be reported: add `arrives: {webhook: true}` to its meta.lakehouse",
        ),
        ("landing/prices", "Loads of landing/prices cannot be reported: add"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownSourceError) as caught:
        sources().key(name)
    assert str(caught.value).startswith(message)
