"""Connections by name: which addresses are accepted, and that no message contains a password."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.connections import Connection, connection
from lakehouse_analytics.common.environment import SettingsError
from lakehouse_analytics.settings import Settings

DATABASES = ("postgresql", "mysql", "mariadb")


def parse(url: str, *schemes: str) -> Connection:
    return connection("shop", schemes or DATABASES, {"LAKEHOUSE_CONNECTION_SHOP": url})


def problem(url: str, *schemes: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse(url, *schemes)
    return str(error.value)


def test_every_part_of_an_address() -> None:
    found = parse("postgresql://etl:p%40ss%2Fw%3Ard@db.internal:5433/shop%20eu?sslmode=require&sslpassword=hidden1")
    assert (found.name, found.scheme, found.host, found.port) == ("shop", "postgresql", "db.internal", 5433)
    assert (found.user, found.password, found.database) == ("etl", "p@ss/w:rd", "shop eu")
    assert found.options == {"sslmode": "require", "sslpassword": "hidden1"}
    assert found.redacted == "postgresql://etl:****@db.internal:5433/shop eu?sslmode=require&sslpassword=****"
    assert "p@ss" not in repr(found)
    assert "hidden1" not in repr(found)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("mysql://root@127.0.0.1/shop", "mysql://root@127.0.0.1/shop"),
        ("MariaDB://root@[::1]:3307/shop", "mariadb://root@[::1]:3307/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql:///shop?host=/run/postgresql"),
        ("mysql:///shop?unix_socket=/run/mysqld.sock", "mysql:///shop?unix_socket=/run/mysqld.sock"),
        (" postgresql://host/shop ", "postgresql://host/shop"),
    ],
)
def test_parts_that_may_be_missing(url: str, redacted: str) -> None:
    found = parse(url)
    assert (found.redacted, found.password, found.database) == (redacted, None, "shop")


@pytest.mark.parametrize(("url", "path"), [("chdb:///data/shop", "/data/shop"), ("chdb://", "")])
def test_files_of_chdb(url: str, path: str) -> None:
    found = parse(url, "clickhouse", "chdb")
    assert (found.database, found.redacted, found.url) == (path, url, url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://etl:secret99@host/shop", "the scheme postgres is not usable here; did you mean 'postgresql'?"),
        ("oracle://etl:secret99@host/shop", "the scheme oracle is not usable here; known: mariadb, mysql, postgresql"),
        ("etl:secret99@host/shop", "the address has no scheme"),
        ("etl:secret99://host/shop", "the address has no scheme"),
        ("mysql://etl:secret99@host", "the address has no database"),
        ("mysql://etl:secret99@host/", "the address has no database"),
        ("mysql://etl:secret99@/shop", "the address has no host"),
        ("mysql://etl:secret99@host/shop/more", "its database contains /"),
        ("mysql://etl:secret99@host:port/shop", "its host or port is wrong"),
        ("mysql://etl:secret99@host/shop?a", "its options are not of the form name=value&…"),
        ("mysql://etl:%ff99secret@host/shop", "a percent-encoded character is not UTF-8"),
    ],
)
def test_a_wrong_address(url: str, expected: str) -> None:
    message = problem(url)
    assert message.startswith(f"LAKEHOUSE_CONNECTION_SHOP: {expected}")
    assert "secret" not in message


#: The delimiters of addresses, and some other characters.
PASSWORDS = st.text(st.sampled_from("@/:#?%[]&=+ é" + string.ascii_letters + string.digits), min_size=1, max_size=12)


@given(PASSWORDS)
def test_every_password_can_be_encoded(password: str) -> None:
    found = parse(f"postgresql://etl:{quote(password, safe='')}@host/shop")
    assert (found.password, found.database) == (password, "shop")
    assert found.redacted == "postgresql://etl:****@host/shop"


@given(PASSWORDS)
@example("1/ss")
@example("1?a=")
@example("a#")
@example("p[x")
def test_a_password_that_is_not_encoded_is_not_shown(password: str) -> None:
    """It is either parsed as what it is, or an error that does not quote it."""
    address = f"postgresql://etl:Zq7{password}Zq7@host/shop"
    found: Connection | SettingsError
    try:
        found = parse(address)
    except SettingsError as error:
        found = error
    if isinstance(found, Connection):
        assert (found.host, found.database) == ("host", "shop")
        assert "Zq7" not in found.redacted
    else:
        assert "Zq7" not in str(found)
        assert (found.__cause__, found.__context__) == (None, None)


def test_a_missing_variable() -> None:
    with pytest.raises(SettingsError) as error:
        connection("shop", DATABASES, {"LAKEHOUSE_CONNECTIONS_SHOP": "x", "LAKEHOUSE_CONNECTION_SHOP": " "})
    assert str(error.value) == (
        "LAKEHOUSE_CONNECTION_SHOP is not set: the address of the connection `shop`, such as "
        "postgresql://user:password@host/database; did you mean LAKEHOUSE_CONNECTIONS_SHOP, which is set?"
    )


def test_errors_of_drivers_are_redacted() -> None:
    found = parse("mysql://etl:Tr0ub4dor%26@host/shop?ssl_key_password=k3yPhrase")
    assert found.redact(ValueError("denied: Tr0ub4dor& or Tr0ub4dor%26, k3yPhrase")) == "denied: **** or ****, ****"
    assert found.redact("user etl on host") == "user etl on host"


def test_the_variables_are_no_misspelt_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    # Similar to LAKEHOUSE_CONNECTORS_DIR.
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_DIR", "postgresql://host/shop")
    Settings.load()
    monkeypatch.setenv("LAKEHOUSE_CONNECTOR_DIR", "/x")
    with pytest.raises(SettingsError, match="LAKEHOUSE_CONNECTOR_DIR: no such setting"):
        Settings.load()
