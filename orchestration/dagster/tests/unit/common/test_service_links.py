"""Kubernetes describes the Services of a namespace in variables; none of them is taken for a setting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lakehouse_analytics.common.service_links import remove_service_links, service_links
from lakehouse_analytics.settings import Settings

Ports = list[tuple[str, int, str]]


def injected(service: str, host: str, ports: Ports) -> dict[str, str]:
    """The variables of a Service, as `FromServices` of Kubernetes' pkg/kubelet/envvars/envvars.go makes them.

    Args:
        service: Its name (DNS-1035).
        host: Its cluster IP.
        ports: Name, number and protocol of each.
    """

    def upper(text: str) -> str:
        return text.upper().replace("-", "_")

    name = upper(service)
    found = {f"{name}_SERVICE_HOST": host, f"{name}_SERVICE_PORT": str(ports[0][1])}
    found |= {f"{name}_SERVICE_PORT_{upper(port)}": str(number) for port, number, _ in ports if port}
    for position, (_, number, protocol) in enumerate(ports):
        address = f"{protocol.lower()}://{f'[{host}]' if ':' in host else host}:{number}"
        if position == 0:
            found[f"{name}_PORT"] = address
        start = f"{name}_PORT_{number}_{protocol}"
        found |= {start: address, f"{start}_PROTO": protocol.lower(), f"{start}_PORT": str(number)}
        found[f"{start}_ADDR"] = host
    return found


# Names that are, or come near to, those of settings are the interesting ones.
label = st.from_regex(r"[a-z]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
of_settings = st.sampled_from(sorted(Settings.model_fields)).map(lambda name: name.replace("_", "-"))
service_name = st.one_of(
    label,
    st.sampled_from(["lakehouse", "lakehouse-trino", "lakehouse-smtp", "lakehouse-airbyte", "lakehouse-duckdb"]),
    st.one_of(label, of_settings, of_settings.map(lambda name: name.rpartition("-")[0] or "x")).map(
        "lakehouse-{}".format
    ),
    label.map("dbt-{}".format),
    label.map("pyiceberg-catalog--{}".format),
).filter(lambda name: len(name) <= 63)
number = st.integers(1, 65535)
protocol = st.sampled_from(["TCP", "UDP", "SCTP"])
ports = st.lists(
    st.tuples(st.from_regex(r"[a-z]([a-z0-9]{0,6}[a-z0-9])?", fullmatch=True), number, protocol), min_size=1, max_size=3
)
host = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
services = st.lists(st.tuples(service_name, host, ports), max_size=6, unique_by=lambda service: service[0])
real = st.fixed_dictionaries(
    {},
    optional={
        "LAKEHOUSE_ENV": st.sampled_from(["local", "trino"]),
        "LAKEHOUSE_TRINO_HOST": st.one_of(host, st.just("trino.internal")),
        "LAKEHOUSE_TRINO_PORT": number.map(str),
        "LAKEHOUSE_SMTP_HOST": host,
        "LAKEHOUSE_SMTP_PORT": number.map(str),
        "LAKEHOUSE_AIRBYTE_URL": host.map(lambda ip: f"http://{f'[{ip}]' if ':' in ip else ip}:8000/api"),
        "LAKEHOUSE_NOTIFY": st.just("log"),
        "LAKEHOUSE_DUCKDB_PATH": st.just("/data/lake.duckdb"),
        # Of a dbt project's own; the values are what a Service might have, too.
        "LAKEHOUSE_CASHIER_SERVICE_HOST": host,
        "LAKEHOUSE_CASHIER_SERVICE_PORT": number.map(str),
        "LAKEHOUSE_CASHIER_PORT": number.map(str),
        "DBT_THREADS": number.map(str),
        "PYICEBERG_CATALOG__LAKE__URI": host.map("http://{}:8181".format),
    },
)


@given(services, real)
@example([("lakehouse-trino", "10.0.0.1", [("http", 8080, "TCP")])], {})
@example([("lakehouse-trino", "10.0.0.1", [("http", 8080, "TCP")])], {"LAKEHOUSE_TRINO_PORT": "8443"})
@example([("lakehouse-x", "10.0.0.1", [("", 80, "TCP")]), ("lakehouse-x-service", "10.0.0.2", [("", 81, "TCP")])], {})
def test_settings_are_as_they_would_be_without_services(
    services: list[tuple[str, str, Ports]], real: dict[str, str]
) -> None:
    links: dict[str, str] = {}
    for service in services:
        links |= injected(*service)
    # A user's own variable that has the name of a link is given to the pod in its place.
    if overlap := {
        name for name in real if name in links and name not in ("LAKEHOUSE_TRINO_PORT", "LAKEHOUSE_SMTP_PORT")
    }:
        real = {name: value for name, value in real.items() if name not in overlap}
    environment = {**links, **real}
    remove_service_links(environment)
    others = {name: value for name, value in links.items() if not name.startswith(("LAKEHOUSE_", "DBT_", "PYICEBERG_"))}
    # Exactly: no link is left, no variable of the user's is gone, and other programs' links are as they were.
    assert environment == {**others, **real}
    assert loaded(environment) == loaded(real)


def loaded(environment: Mapping[str, str]) -> Settings:
    with mock.patch.dict(os.environ, environment, clear=True):
        return Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAKEHOUSE_TRINO_PORT", "8080"),
        ("LAKEHOUSE_AIRBYTE_URL", "tcp://10.0.0.1:80"),  # wrong, and reported as wrong
        ("LAKEHOUSE_TRINO_PORT", "tcp://trino:8080"),  # no address that Kubernetes gives: a mistake of the user's
        ("LAKEHOUSE_TRINO_SERVICE_HOST", "10.0.0.1"),
        ("LAKEHOUSE_TRINO_SERVICE_PORT", "8080"),
        ("LAKEHOUSE_TRINO_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("LAKEHOUSE_TRINO_PORT_8080_TCP", "tcp://10.0.0.1:8081"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("MY_POSTGRES_PORT", "tcp://10.96.0.1:5432"),
    ],
)
def test_what_is_not_certainly_a_service_stays(name: str, value: str) -> None:
    assert service_links({name: value}) == frozenset()


def test_a_process_that_imports_us_has_none_before_anything_reads_them() -> None:
    """Every process of ours imports the package first: the code server, a run, the command, dbt's child."""
    links = injected("lakehouse-trino", "10.0.0.1", [("http", 8080, "TCP")])
    links |= injected("lakehouse-airbyte", "10.0.0.2", [("http", 80, "TCP")])
    links |= injected("kubernetes", "10.96.0.1", [("https", 443, "TCP")])
    program = "import lakehouse_analytics, os, json; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **links}, capture_output=True, text=True, check=True
    )
    assert '"KUBERNETES_SERVICE_HOST": "10.96.0.1"' in done.stdout
    assert "LAKEHOUSE_" not in done.stdout


def test_dbt_reads_the_profile_beside_a_service_called_lakehouse_trino(monkeypatch: pytest.MonkeyPatch) -> None:
    """`dbt` by hand, which does not import us: `kubectl exec deploy/… -- dbt debug`."""
    import yaml
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context
    from lakehouse_analytics.settings import repository_root

    profile = yaml.safe_load((repository_root() / "dbt/profiles.yml").read_text())
    port = profile["lakehouse"]["outputs"]["trino"]["port"]
    links = injected("lakehouse-trino", "10.0.0.1", [("http", 8080, "TCP")])
    for variables, expected in ((links, 8080), ({**links, "LAKEHOUSE_TRINO_PORT": "8443"}, 8443), ({}, 8080)):
        set_invocation_context(variables)
        assert ProfileRenderer({}).render_value(port) == expected
