"""Which failures of PostgreSQL may pass, by the messages of its drivers."""

from __future__ import annotations

import pytest
from lakehouse_analytics.common.postgres_errors import is_transient


@pytest.mark.parametrize(
    "message",
    [
        'connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs the server running?',
        'could not translate host name "db.internal" to address: Temporary failure in name resolution',
        "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  the database system is starting up',
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  sorry, too many clients already',
        "ERROR:  canceling statement due to conflict with recovery",
    ],
)
def test_failures_of_connections_and_of_a_server_that_restarts_may_pass(message: str) -> None:
    assert is_transient(message)


@pytest.mark.parametrize(
    "message",
    [
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "etl"',
        'connection to server at "10.0.0.1", port 5432 failed: fe_sendauth: no password supplied',
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  database "shop" does not exist',
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  no pg_hba.conf entry for host "10.0.0.2"',
        'connection to server at "10.0.0.1", port 5432 failed: FATAL:  permission denied for database "shop"',
        "ERROR:  division by zero",
    ],
)
def test_answers_of_the_server_do_not(message: str) -> None:
    assert not is_transient(message)


def test_a_state_takes_precedence() -> None:
    assert is_transient("whatever", "57P01")
    assert is_transient("whatever", "40001")
    assert not is_transient("whatever", "42P01")
    assert not is_transient("canceling statement due to statement timeout", "57014")
