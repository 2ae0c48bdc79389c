"""Asking Trino: what is tried again and what is not, log-ins, and whose certificates count.

`Coordinator` speaks as much of Trino's protocol as it takes to fail on purpose where a real one cannot be made to;
tests/integration/test_trino_resource.py asks a real one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.trino import client as trino_client
from lakehouse_analytics.engines.trino.client import (
    LONGEST_WAIT,
    STATEMENT_ATTEMPTS,
    backoff,
    execute,
    is_read_only,
    may_be_repeated,
    wait_until_ready,
)
from lakehouse_analytics.engines.trino.errors import classify_dbt
from lakehouse_analytics.engines.trino.queries import kill_query, list_queries, parse_duration, resource_group_of
from lakehouse_analytics.engines.trino.session import (
    TrinoError,
    TrinoServer,
    TrinoUnavailableError,
    check_token,
    http_session,
)
from pydantic import SecretStr

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
KEY = "k" * 32
READ, WRITE = "select 1", "insert into t values 1"
QUERY_ID = "20261121_020000_00001_abcde"

Answer = int | str | dict[str, object] | Callable[[], dict[str, object]]


class Coordinator(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: a status, "drop", or a page; then all is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.seen: list[str] = []
        #: The answer to what is not in `answers`, and to everything below /v1/query.
        self.always: dict[str, object] | None = None
        self.query: object = 404
        self.session = ""

    @property
    def statements(self) -> int:
        return self.seen.count("POST /v1/statement")

    def page(self, *, more: bool = False, **fields: object) -> dict[str, object]:
        base = f"http://127.0.0.1:{self.server_port}"
        next_uri = {"nextUri": f"{base}/v1/statement/executing/{QUERY_ID}/x/1"} if more else {}
        return {"id": QUERY_ID, "infoUri": f"{base}/ui", "stats": {"state": "RUNNING"}, **next_uri, **fields}

    def error(self, kind: str, name: str) -> dict[str, object]:
        return self.page(error={"errorType": kind, "errorName": name, "message": "…"})


class Handler(BaseHTTPRequestHandler):
    server: Coordinator
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        of_query = self.path.startswith("/v1/query")
        path = self.path if of_query or self.path in ("/v1/info", "/v1/statement") else "/next"
        self.server.seen.append(f"{self.command} {path}")
        self.server.session = self.headers.get("X-Trino-Session") or self.server.session
        if of_query:
            answer: object = self.server.query
        else:
            answer = self.server.answers.pop(0) if self.server.answers else self._fine(path)
        answer = answer() if callable(answer) else answer
        if answer == "drop":
            self.close_connection = True
            return
        status, body = (answer, b"no") if isinstance(answer, int) else (200, json.dumps(answer).encode())
        self.send_response(204 if self.command == "DELETE" else status)
        self.send_header("Content-Length", "0" if self.command == "DELETE" else str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "DELETE" else body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _fine(self, path: str) -> Answer:
        if path == "/v1/info":
            return {"starting": False}
        return self.server.always or self.server.page(more=path == "/v1/statement")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(trino_client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(trino_client, "JITTER", 0.01)
    monkeypatch.setattr(trino_client, "REQUEST_ATTEMPTS", 1)
    with Coordinator() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def server_at(port: int, **more: object) -> TrinoServer:
    fields: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "http_scheme": "http",
        "user": "me",
        "catalog": "lakehouse",
    }
    return TrinoServer(**{**fields, "start_timeout": 5.0, **more})


def ask(coordinator: Coordinator, sql: str) -> str:
    return execute(server_at(coordinator.server_port), sql).query_id


def refused(coordinator: Coordinator, sql: str) -> TrinoError:
    with pytest.raises(TrinoError) as caught:
        ask(coordinator, sql)
    return caught.value


@pytest.mark.parametrize("answer", [503, 502, 504, 429, "drop"])
@pytest.mark.parametrize("sql", [READ, WRITE])
def test_a_statement_that_was_never_taken_is_sent_again(coordinator: Coordinator, answer: Answer, sql: str) -> None:
    coordinator.answers = [answer]
    assert ask(coordinator, sql) == QUERY_ID
    assert coordinator.statements == 3  # of which one tests whether the server is ready


@pytest.mark.parametrize("answer", [503, 404, "drop"])
def test_a_statement_lost_while_it_ran_is_repeated_only_when_it_reads(coordinator: Coordinator, answer: Answer) -> None:
    coordinator.answers = [coordinator.page(more=True), answer]
    error = refused(coordinator, WRITE)
    assert QUERY_ID in str(error)
    assert not error.failure.certainly_not_applied
    assert coordinator.statements == 1
    assert coordinator.seen[-1] == "DELETE /next"  # it may still run

    coordinator.seen.clear()
    coordinator.answers = [coordinator.page(more=True), answer]
    assert ask(coordinator, READ) == QUERY_ID
    assert coordinator.statements >= 2


def test_a_query_that_trino_refused_for_now_is_sent_again(coordinator: Coordinator) -> None:
    coordinator.answers = [coordinator.error("INSUFFICIENT_RESOURCES", "QUERY_QUEUE_FULL")] * 2
    assert ask(coordinator, WRITE) == QUERY_ID
    assert coordinator.statements == 3


def test_a_write_with_an_unknown_outcome_is_not_repeated(coordinator: Coordinator) -> None:
    coordinator.answers = [coordinator.error("INTERNAL_ERROR", "REMOTE_TASK_ERROR")]
    assert refused(coordinator, WRITE).failure.transient
    assert coordinator.statements == 1


def test_permanent_errors_come_at_once_with_the_query(coordinator: Coordinator) -> None:
    coordinator.answers = [coordinator.error("USER_ERROR", "DIVISION_BY_ZERO")]
    error = refused(coordinator, READ)
    assert f"(query {QUERY_ID})" in str(error)
    assert not isinstance(error, DatabaseError)
    assert coordinator.statements == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_log_in_is_asked_once(coordinator: Coordinator, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trino_client, "REQUEST_ATTEMPTS", 5)
    coordinator.answers = [status] * 9
    error = refused(coordinator, READ)
    assert isinstance(error, TrinoUnavailableError)
    assert "LAKEHOUSE_TRINO_USER" in str(error)
    assert len(coordinator.seen) == 1
    with pytest.raises(TrinoUnavailableError, match="LAKEHOUSE_TRINO_USER"):
        wait_until_ready(server_at(coordinator.server_port))
    assert len(coordinator.seen) == 2


def test_tries_are_bounded(coordinator: Coordinator) -> None:
    coordinator.answers = [coordinator.error("INTERNAL_ERROR", "REMOTE_TASK_ERROR")] * 99
    assert refused(coordinator, READ).failure.name == "REMOTE_TASK_ERROR"
    assert coordinator.statements == STATEMENT_ATTEMPTS


def test_a_starting_server_is_waited_for(coordinator: Coordinator) -> None:
    coordinator.answers = [{"starting": True}, 503, "drop", {"starting": True}]
    said: list[str] = []
    wait_until_ready(server_at(coordinator.server_port), said.append)
    assert coordinator.seen[:5] == ["GET /v1/info"] * 5
    assert coordinator.statements == 1
    assert len(said) == 1
    assert re.search(r"is not ready; retrying for up to 5 s: SERVER_STARTING_UP", said[0])


def test_a_catalog_that_will_never_answer_is_told_at_once_as_the_database_being_unusable(
    coordinator: Coordinator,
) -> None:
    coordinator.answers = [{"starting": False}, coordinator.error("USER_ERROR", "CATALOG_NOT_FOUND")]
    with pytest.raises(TrinoUnavailableError, match="LAKEHOUSE_TRINO_CATALOG"):
        wait_until_ready(server_at(coordinator.server_port))
    assert coordinator.statements == 1


def test_a_server_that_is_ready_is_not_spoken_of(coordinator: Coordinator) -> None:
    said: list[str] = []
    wait_until_ready(server_at(coordinator.server_port), said.append)
    assert said == []


def test_readiness_sets_no_session_property_of_its_own(coordinator: Coordinator) -> None:
    """A user may lack the right to set any."""
    wait_until_ready(server_at(coordinator.server_port))
    assert coordinator.session == ""
    wait_until_ready(server_at(coordinator.server_port, session_properties={"query_max_run_time": "1h"}))
    assert coordinator.session == "query_max_run_time=1h"


def _delayed(page: dict[str, Any], seconds: float) -> Callable[[], dict[str, Any]]:
    """Return an answer that takes some time."""

    def answer() -> dict[str, Any]:
        time.sleep(seconds)
        return page

    return answer


def queued(coordinator: Coordinator, pages: int, seconds: float = 0.4) -> list[Answer]:
    """Pages of a statement that waits, and what `/v1/query/<id>` says while it does."""
    page = coordinator.page(more=True, stats={"state": "QUEUED"})
    return [{"starting": False}, *[_delayed(page, seconds)] * pages]


GROUP: dict[str, object] = {"resourceGroupId": ["global", "etl"], "state": "QUEUED"}


def test_time_in_the_queue_uses_up_no_outage(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trino_client, "REPORT_AFTER", 0.5)
    coordinator.query = GROUP
    coordinator.answers = queued(coordinator, 5)
    said: list[str] = []
    wait_until_ready(server_at(coordinator.server_port, start_timeout=0.5), said.append)  # it waits for 2 s
    assert coordinator.statements == 1
    assert said == [f"Trino: query {QUERY_ID} is waiting in resource group global.etl"]


def test_a_statement_that_runs_on_is_ended_after_the_wait(coordinator: Coordinator) -> None:
    running = coordinator.page(more=True)
    coordinator.answers = [{"starting": False}, *[_delayed(running, 0.4)] * 99]
    with pytest.raises(TrinoUnavailableError, match=r"was not ready within 1 s .*EXCEEDED_TIME_LIMIT.*cluster is busy"):
        wait_until_ready(server_at(coordinator.server_port, start_timeout=1))
    assert any(line.startswith("DELETE") for line in coordinator.seen)


@pytest.mark.parametrize("sql", [READ, WRITE])
def test_a_full_queue_is_tried_again_for_its_own_time(
    coordinator: Coordinator, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trino_client, "LONGEST_WAIT_IN_QUEUE", 0.02)
    full = coordinator.error("INSUFFICIENT_RESOURCES", "QUERY_QUEUE_FULL")
    coordinator.answers = [full] * (STATEMENT_ATTEMPTS * 3)
    said: list[str] = []
    execute(server_at(coordinator.server_port), sql, log=said.append)
    assert coordinator.statements == STATEMENT_ATTEMPTS * 3 + 1
    [message] = said
    assert "the queue is full; retrying for 1800 s (LAKEHOUSE_TRINO_QUEUE_TIMEOUT)" in message


@pytest.mark.parametrize("ask", [wait_until_ready, lambda server: execute(server, WRITE)])
def test_a_queue_that_stays_full_is_told_with_what_to_change(
    coordinator: Coordinator, ask: Callable[[TrinoServer], object]
) -> None:
    full = coordinator.error("INSUFFICIENT_RESOURCES", "QUERY_QUEUE_FULL")
    coordinator.always = full
    with pytest.raises(TrinoUnavailableError) as caught:
        ask(server_at(coordinator.server_port, queue_timeout=0.3, start_timeout=0.01))
    for words in ("0.3 s (LAKEHOUSE_TRINO_QUEUE_TIMEOUT)", "the queue is full", "LAKEHOUSE_DBT_THREADS"):
        assert words in str(caught.value)
    assert "not ready" not in str(caught.value)
    assert coordinator.statements > 2


def test_a_statement_with_a_bound_does_not_stay_in_the_queue(coordinator: Coordinator) -> None:
    coordinator.query = GROUP
    coordinator.answers = queued(coordinator, 99, 0.2)[1:]
    with pytest.raises(TrinoError, match=r"QUERY_QUEUED: .* in the queue of resource group global.etl") as caught:
        execute(server_at(coordinator.server_port, statement_timeout=0.5), READ)
    assert not isinstance(caught.value, TrinoUnavailableError)
    assert coordinator.statements == 1


def test_queries_are_listed_and_ended_over_http(coordinator: Coordinator) -> None:
    query = {"queryId": QUERY_ID, "state": "QUEUED", "resourceGroupId": ["a", "b"], "query": "select 1"}
    session = {"source": "dbt-trino-1", "clientTags": ["run:x"]}
    coordinator.query = [{**query, "session": session, "queryStats": {"queuedTime": "1.50m"}}, {}]
    server = server_at(coordinator.server_port)
    found = next(query for query in list_queries(server) if query.id == QUERY_ID)
    assert (found.resource_group, found.queued, found.ended) == ("a.b", timedelta(seconds=90), False)
    assert found.belongs_to("x")
    assert not found.belongs_to("y")
    kill_query(server, QUERY_ID, "over")
    assert coordinator.seen[-1] == f"PUT /v1/query/{QUERY_ID}/killed"

    coordinator.query = 404
    with pytest.raises(TrinoError):
        list_queries(server)
    assert resource_group_of(server, QUERY_ID) == ""


@given(st.integers(0, 10**6), st.sampled_from(["ns", "us", "ms", "s", "m", "h", "d"]))
def test_durations_of_trino(hundredths: int, unit: str) -> None:
    sizes = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
    got = parse_duration(f"{hundredths / 100:.2f}{unit}").total_seconds()
    assert got == pytest.approx(hundredths / 100 * sizes[unit], abs=1e-6)


def test_what_is_no_duration() -> None:
    with pytest.raises(ValueError, match="'forever'"):
        parse_duration("forever")


@pytest.mark.parametrize("answer", [404, 405, {"gateway": "hello"}, {}])
def test_a_gateway_that_hides_the_state_is_asked_a_query(coordinator: Coordinator, answer: Answer) -> None:
    coordinator.answers = [answer]
    wait_until_ready(server_at(coordinator.server_port))
    assert coordinator.statements == 1


def test_a_server_that_never_starts_is_named_with_what_was_tried(coordinator: Coordinator) -> None:
    coordinator.answers = [{"starting": True}] * 999
    with pytest.raises(TrinoUnavailableError) as caught:
        wait_until_ready(server_at(coordinator.server_port, start_timeout=0.3))
    for word in (
        f"http://127.0.0.1:{coordinator.server_port}", "LAKEHOUSE_TRINO_HOST", "LAKEHOUSE_TRINO_PORT",
        "0.3 s (LAKEHOUSE_TRINO_START_TIMEOUT)", f"attempts: {len(coordinator.seen)};", "SERVER_STARTING_UP",
    ):  # fmt: skip
        assert word in str(caught.value)
    assert coordinator.statements == 0


def test_without_patience_a_server_is_asked_once(coordinator: Coordinator) -> None:
    coordinator.answers = [503] * 9
    with pytest.raises(TrinoUnavailableError, match="attempts: 1;"):
        wait_until_ready(server_at(coordinator.server_port, start_timeout=0))
    assert len(coordinator.seen) == 1


@given(st.integers(1, 60))
def test_waits_grow_and_are_bounded(attempt: int) -> None:
    def wait(number: int) -> float:
        return backoff()(SimpleNamespace(attempt_number=number))  # type: ignore[arg-type]

    assert 0 < wait(attempt) <= LONGEST_WAIT
    assert wait(attempt) <= wait(attempt + 1) or wait(attempt) == LONGEST_WAIT


@given(
    st.booleans(), st.sampled_from(["SERVER_STARTING_UP", "REMOTE_TASK_ERROR", "SYNTAX_ERROR", "ICEBERG_COMMIT_ERROR"])
)
def test_a_statement_that_writes_is_repeated_only_when_it_was_certainly_not_done(repeatable: bool, name: str) -> None:
    kind = "USER_ERROR" if name == "SYNTAX_ERROR" else "INTERNAL_ERROR"
    failure = classify_dbt(f'TrinoQueryError(type={kind}, name={name}, message="…", query_id={QUERY_ID})')
    again = may_be_repeated(failure, repeatable=repeatable)
    assert again == (failure.transient and (repeatable or failure.certainly_not_applied))
    assert not (again and name == "SYNTAX_ERROR")


@pytest.mark.parametrize(
    "sql",
    ["select 1", "SELECT 1", "/* {\"run\": 1} */ select 1", "-- why\n  (select 1) union all (select 2)",
     "with a as (select 1 as x) select x from a", "show schemas from x", "describe t", "values 1",
     "explain select 1", "select 'drop'"],
)  # fmt: skip
def test_reading_statements(sql: str) -> None:
    assert is_read_only(sql)


@pytest.mark.parametrize(
    "sql",
    ["", "-- select 1", "insert into t select 1", "/* select */ merge into t using s", "create table t as select 1",
     "delete from t", "call system.runtime.kill_query('x')", "explain analyze insert into t values 1",
     "alter table t execute optimize",
     "select '/*', x.* from table(pg.system.query(query => 'delete from t')) x where '*/' > ''",
     "select * from table(pg.system.query(query => 'delete from t'))",
     "selectx", "execute immediate 'delete from t'", "/* a */ /* b */ drop table t", "refresh materialized view v"],
)  # fmt: skip
def test_everything_else_counts_as_writing(sql: str) -> None:
    assert not is_read_only(sql)


@given(st.sampled_from(["insert into t", "merge into t", "delete from t", "create table t as"]), st.text())
def test_no_comment_makes_a_writing_statement_read(statement: str, text: str) -> None:
    comment = text.replace("*/", "")
    assert not is_read_only(f"/* {comment} */ {statement} select 1")


def token(**claims: object) -> str:
    return jwt.encode({"sub": "lakehouse", **claims}, KEY, algorithm="HS256")


def test_a_token_that_lasts_for_the_run_is_taken() -> None:
    check_token(token(exp=NOW + timedelta(hours=6)), now=NOW, until=NOW + timedelta(hours=6))
    check_token(token(exp=NOW + timedelta(seconds=1)), now=NOW, until=None)
    check_token(token(), now=NOW, until=NOW + timedelta(days=999))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": NOW}, "LAKEHOUSE_TRINO_JWT expired at 2026-11-21 02:00:00 UTC"),
        (
            {"exp": NOW + timedelta(hours=5)},
            "expires at 2026-11-21 07:00:00 UTC, but a run may last until 2026-11-21 08",
        ),
        ({"exp": "soon"}, "is not a JSON Web Token"),
        ({"exp": 1e300}, "is not a JSON Web Token"),
        ({"exp": [1]}, "is not a JSON Web Token"),
    ],
)
def test_a_token_that_does_not_last_is_refused_without_being_shown(claims: dict[str, object], words: str) -> None:
    made = token(**claims)
    with pytest.raises(TrinoUnavailableError) as caught:
        check_token(made, now=NOW, until=NOW + timedelta(hours=6))
    assert words in str(caught.value)
    assert "LAKEHOUSE_TRINO_JWT" in str(caught.value)
    assert made not in logged(caught.value)


@given(st.text())
def test_what_is_no_token_gets_one_error_that_does_not_show_it(text: str) -> None:
    text = f"s3cret{text}"
    with pytest.raises(TrinoUnavailableError, match="LAKEHOUSE_TRINO_JWT is not a JSON Web Token") as caught:
        check_token(text, now=NOW, until=None)
    assert "s3cret" not in logged(caught.value)


@given(st.integers(-9, 9), st.integers(0, 9))
def test_a_token_is_taken_exactly_when_it_lasts(expires: int, needed: int) -> None:
    made, until = token(exp=NOW + timedelta(hours=expires)), NOW + timedelta(hours=needed)
    try:
        check_token(made, now=NOW, until=until)
        taken = True
    except TrinoUnavailableError:
        taken = False
    assert taken is (expires > 0 and expires >= needed)


def logged(error: BaseException | None) -> str:
    """Return what a log shows of an exception: its text, and that of the exceptions which it does not suppress."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


@pytest.mark.parametrize(
    ("auth", "variable"), [("password", "LAKEHOUSE_TRINO_PASSWORD"), ("jwt", "LAKEHOUSE_TRINO_JWT")]
)
def test_a_secret_that_this_process_lacks_is_named(auth: str, variable: str) -> None:
    with pytest.raises(TrinoUnavailableError, match=f"{variable} is not set in this process"):
        server_at(1, auth=auth, http_scheme="https").authentication()


def test_a_server_shown_in_a_log_does_not_show_its_secret() -> None:
    assert "s3cret" not in f"{server_at(1, auth='password', secret=SecretStr('s3cret'))!r}"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_our_certificates_win_over_the_machine_s_and_its_proxies_stay(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/nowhere/nonsense.pem")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")

    def merged(**more: object) -> dict[str, object]:
        session = http_session(server_at(443, host="trino.example", http_scheme="https", **more))
        return dict(session.merge_environment_settings("https://trino.example/v1/info", {}, None, None, None))

    ours = merged(ca_bundle="/etc/ours.pem")
    assert ours["verify"] == "/etc/ours.pem"
    assert ours["proxies"]["https"] == "http://proxy.example:3128"  # type: ignore[index]
    # Where nothing is set, the machine's own are meant.
    assert merged()["verify"] == "/nowhere/nonsense.pem"


def test_errors_of_the_server_count_as_the_database_being_unusable(coordinator: Coordinator) -> None:
    # checks/runner.py then asks no second time, table by table.
    coordinator.answers = [401]
    assert isinstance(refused(coordinator, READ), DatabaseError)


def stopping(error: type[BaseException]) -> Callable[..., object]:
    def stop(*args: object) -> object:
        raise error

    return stop


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_wait_cancels_the_query(
    coordinator: Coordinator, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trino.client.TrinoQuery.fetch", stopping(error))
    with pytest.raises(error):
        ask(coordinator, WRITE)
    assert coordinator.seen == ["POST /v1/statement", "DELETE /next"]
