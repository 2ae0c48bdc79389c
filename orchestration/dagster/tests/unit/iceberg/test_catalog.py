from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lakehouse_analytics.common.redact import ordinary_words
from lakehouse_analytics.doctor.probe import ProbeContext, Status
from lakehouse_analytics.doctor.warehouse import warehouse
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.iceberg.catalog import CLIENTS, CatalogError, check_client, open_catalog, reason, redact
from lakehouse_analytics.settings import Settings

PASSWORD = "s3cr/et@pass%20word"


@pytest.fixture(autouse=True)
def _only_these_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("PYICEBERG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def configure(monkeypatch: pytest.MonkeyPatch, name: str = "LAKE", **properties: str) -> None:
    for key, value in properties.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__{name}__{key.upper()}", value)


def sqlite(path: Path) -> str:
    """The address of a new SQL catalog in a file."""
    from pyiceberg.catalog.sql import SqlCatalog

    address = f"sqlite:///{path}"
    SqlCatalog("lake", uri=address).close()
    return address


def refusal(name: str) -> str:
    with pytest.raises(CatalogError) as caught:
        open_catalog(name)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_a_catalog_is_opened_once_for_each_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, type="sql", uri=sqlite(tmp_path / "one.db"))
    one = open_catalog("lake")
    assert one is open_catalog("lake")
    assert one.name == "lake"
    configure(monkeypatch, uri=sqlite(tmp_path / "other.db"))
    assert open_catalog("lake") is not one
    assert open_catalog("lake").list_namespaces() == []


def test_a_wrong_address_does_not_become_a_new_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, type="sql", uri=f"sqlite:///{tmp_path}/typo.db")
    assert "OperationalError: no such table: iceberg_" in refusal("lake")
    # A refusal is not kept: the same address is right once there is a catalog.
    sqlite(tmp_path / "typo.db")
    assert open_catalog("lake").list_namespaces() == []


def test_an_unknown_catalog_is_named_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, "PROD", type="sql", uri=f"postgresql://lake:{PASSWORD}@nowhere/lake")
    assert refusal("lake") == (
        "LAKEHOUSE_ICEBERG_CATALOG is lake, but pyiceberg has no catalog of that name (it has prod). Set "
        "PYICEBERG_CATALOG__LAKE__TYPE, PYICEBERG_CATALOG__LAKE__URI and what else it needs, or unset "
        "LAKEHOUSE_ICEBERG_CATALOG."
    )


def test_an_underscore_in_the_name_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, "MY_LAKE", type="sql", uri=sqlite(tmp_path / "lake.db"))
    assert "Write - instead of _ in the name" in refusal("my_lake")
    assert open_catalog("my-lake").name == "my-lake"


def test_the_configuration_may_be_a_file(tmp_path: Path) -> None:
    address = sqlite(tmp_path / "lake.db")
    (tmp_path / ".pyiceberg.yaml").write_text(f"catalog:\n  lake:\n    type: sql\n    uri: {address}\n")
    assert open_catalog("lake").properties["uri"] == address


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"type": "sql"}, "cannot be opened: ValueError: URI missing"),
        ({"type": "postgres", "uri": "x"}, "cannot be opened: ValueError: 'postgres' is not a valid CatalogType"),
        ({"type": "hive", "uri": "thrift://127.0.0.1:1"}, "Install pyiceberg[hive]"),
        ({"type": "sql", "uri": f"nosuch://lake:{PASSWORD}@127.0.0.1:1/lake"}, "NoSuchModuleError"),
        ({"type": "sql", "uri": f"postgresql+psycopg2://lake:{PASSWORD}@127.0.0.1:1/lake"}, "OperationalError"),
        ({"type": "sql", "uri": f"postgresql+psycopg2//lake:{PASSWORD}@127.0.0.1:1/lake"}, "ArgumentError"),
        ({"type": "rest", "uri": f"http://lake:{PASSWORD}@127.0.0.1:1", "credential": PASSWORD}, "cannot be opened"),
    ],
)
def test_a_catalog_that_cannot_be_opened_says_why_and_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, str], expected: str
) -> None:
    configure(monkeypatch, **properties)
    message = refusal("lake")
    assert message.startswith("LAKEHOUSE_ICEBERG_CATALOG is lake")
    assert "or unset LAKEHOUSE_ICEBERG_CATALOG" in message
    assert expected in message
    assert not any(part in message for part in (PASSWORD, "s3cr", "et@pass", "pass%20word", "pass word"))


def test_the_client_of_every_type_is_installed_or_the_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.catalog import CatalogType

    modules = {
        "sql": "sql",
        "rest": "rest",
        "hive": "hive",
        "glue": "glue",
        "dynamodb": "dynamodb",
        "bigquery": "bigquery_metastore",
    }
    assert {kind.value for kind in CatalogType} == {*CLIENTS, "in-memory"} == {*modules, "in-memory"}
    refused = {}
    for kind, module in modules.items():
        configure(monkeypatch, type=kind, uri="somewhere://else")
        try:
            check_client("lake")
        except CatalogError as error:
            refused[kind] = str(error)
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(f"pyiceberg.catalog.{module}")
        else:
            importlib.import_module(f"pyiceberg.catalog.{module}")
    assert refused == {
        kind: f"LAKEHOUSE_ICEBERG_CATALOG is lake, a catalog of type {kind}, whose client needs the Python package "
        f"{package}, which is not installed. Install pyiceberg[{kind}], or unset LAKEHOUSE_ICEBERG_CATALOG: row counts "
        "then come from queries."
        for kind, package in {"hive": "thrift", "bigquery": "google-cloud-bigquery"}.items()
    }


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"type": "in-memory"}, "a catalog of type in-memory, whose tables exist in one process only"),
        ({"type": "HIVE"}, "a catalog of type hive"),
        ({"uri": "thrift://metastore:9083"}, "a catalog of type hive"),
    ],
)
def test_a_location_with_a_catalog_that_cannot_be_opened_does_not_load(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, str], expected: str
) -> None:
    configure(monkeypatch, **properties)
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "lake")
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    with pytest.raises(CatalogError, match=expected):
        TrinoResource.of(Settings.load())
    known = ProbeContext(timeout=5)
    known.settings = Settings.load()
    finding = warehouse(known)
    assert finding.status is Status.FAILED
    assert expected in finding.message
    assert "unset LAKEHOUSE_ICEBERG_CATALOG" in finding.fix


@pytest.mark.parametrize(("source", "catalog"), [("metadata", "lake"), ("query", None)])
def test_row_counts_may_always_come_from_queries(
    monkeypatch: pytest.MonkeyPatch, source: str, catalog: str | None
) -> None:
    configure(monkeypatch, type="sql", uri="sqlite://")
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "lake")
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_ROW_COUNTS", source)
    assert TrinoResource.of(Settings.load()).iceberg_catalog == catalog


def test_an_error_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, type="sql", uri="sqlite://")
    assert reason("lake", ValueError("first.\nsecond")) == "ValueError: first"
    assert reason("lake", ValueError()) == "ValueError"


SECRETS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=20).filter(
    lambda secret: len(secret.strip()) >= 8
)


@given(SECRETS, st.text(max_size=10), st.text(max_size=10))
def test_no_secret_of_the_configuration_survives(secret: str, before: str, after: str) -> None:
    assume(secret.strip().lower() not in ordinary_words())  # tests/unit/common/test_redact.py has those
    with pytest.MonkeyPatch.context() as monkeypatch:
        configure(monkeypatch, type="rest", uri="http://lake", s3__secret_access_key=secret)
        assert secret not in redact("lake", f"{before}{secret}{after}")


@pytest.mark.parametrize(
    "key", ["token", "credential", "s3__secret_access_key", "s3__access_key_id", "s3__session_token"]
)
def test_what_is_secret_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    configure(monkeypatch, type="rest", uri="http://lake", warehouse="s3://lake", **{key: "abc123"})
    assert redact("lake", "abc123 of s3://lake at http://lake") == "**** of s3://lake at http://lake"


def test_the_secret_of_an_oauth2_client_is_hidden_without_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, type="rest", uri="http://lake", credential="dagster:hush-hush")
    assert redact("lake", "client_secret=hush-hush of dagster:hush-hush") == "client_secret=**** of ****"


def test_a_password_in_the_address_is_hidden_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, type="sql", uri="postgresql://me:p%40ss@host/db?sslpassword=hush")
    assert redact("lake", "me p%40ss p@ss hush host") == "me **** **** **** host"


def test_importing_the_module_imports_no_pyiceberg() -> None:
    code = "import lakehouse_analytics.iceberg.row_counts, sys; print([m for m in sys.modules if 'pyiceberg' in m])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
