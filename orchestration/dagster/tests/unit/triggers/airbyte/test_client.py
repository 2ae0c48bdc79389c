"""Asking Airbyte: log-ins, what is tried again and what never, what is read of strange answers, and no secret anywhere.

No test waits: the client's pauses are noted in `pauses`, and its clock is moved by them.
"""

from __future__ import annotations

import base64
import email.utils
import json
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.devtools.airbyte_simulator import Request, Response
from lakehouse_analytics.triggers.airbyte import client as module
from lakehouse_analytics.triggers.airbyte import http, responses, transport
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteError, AirbyteServer
from lakehouse_analytics.triggers.airbyte.poller import Page
from pydantic import SecretStr

if TYPE_CHECKING:
    from conftest import CheckedSimulator

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
ANY = "00000000-0000-4000-8000-000000000000"
SECRET = "s3cr3t-" + "x" * 20
ALL_PAUSES = [http.FIRST_WAIT, 2 * http.FIRST_WAIT, 4 * http.FIRST_WAIT]
HTML = Response(200, "<html>Sign in</html>", kind="text/html; charset=utf-8")
HANG_UP = Response(0, hang_up=True)

Ask = Callable[[Airbyte], object]


class Clock:
    """The client's: pauses move it, and nothing else."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=clock.sleep, monotonic=clock))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return clock


@pytest.fixture
def shop(airbyte: CheckedSimulator) -> str:
    """A connection."""
    return str(airbyte.store.add_connection("Shop"))


def client_of(airbyte: CheckedSimulator, clock: Clock | None = None, **more: Any) -> Airbyte:
    """A client that is let in as the server wants it."""
    log_in: dict[str, Any] = {}
    if airbyte.client:
        log_in = {"auth": "client_credentials", "user": airbyte.client[0], "secret": SecretStr(airbyte.client[1])}
    elif airbyte.bearer:
        log_in = {"auth": "bearer", "secret": SecretStr(airbyte.bearer)}
    elif airbyte.basic:
        log_in = {"auth": "basic", "user": airbyte.basic[0], "secret": SecretStr(airbyte.basic[1])}
    return Airbyte(AirbyteServer(**{"url": airbyte.url, **log_in, **more}), clock or Clock())


def use(airbyte: CheckedSimulator, auth: str) -> None:
    """Have the server want a kind of log-in."""
    airbyte.client = ("the-client-id", SECRET) if auth == "client_credentials" else None
    airbyte.bearer = SECRET if auth == "bearer" else None
    airbyte.basic = ("me", SECRET) if auth == "basic" else None


def answers(*wanted: Response, path: str = "/jobs") -> Callable[[Request], Response | None]:
    """A fault: these answers, in turn, on one path."""
    left = [*wanted]
    return lambda request: left.pop(0) if left and request.path.endswith(path) else None


def always(answer: Response, path: str = "/jobs") -> Callable[[Request], Response | None]:
    return lambda request: answer if path in request.path else None


def sent(airbyte: CheckedSimulator) -> list[str]:
    """What came in: `GET /jobs`."""
    return [f"{request.method} {request.path.removeprefix(airbyte.base_path)}" for request in airbyte.requests]


def failure(ask: Callable[[], object]) -> AirbyteError:
    with pytest.raises(AirbyteError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return caught.value


TOKEN, JOBS, START = "POST /applications/token", "GET /jobs", "POST /jobs"


# --- Log-in


def test_a_token_is_asked_for_below_the_servers_own_path(airbyte: CheckedSimulator) -> None:
    airbyte.base_path = "/tools/airbyte/api/public/v1"
    use(airbyte, "client_credentials")
    client = client_of(airbyte)
    client.running_jobs()
    client.connections()
    assert sent(airbyte) == [TOKEN, JOBS, "GET /connections"]
    assert airbyte.requests[0].path == "/tools/airbyte/api/public/v1/applications/token"
    assert "authorization" not in airbyte.requests[0].headers
    assert client.requests == 3


def test_a_slash_at_the_end_of_the_address_does_no_harm(airbyte: CheckedSimulator) -> None:
    client_of(airbyte, url=airbyte.url + "/").running_jobs()
    assert sent(airbyte) == [JOBS]


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("none", None),
        ("bearer", f"Bearer {SECRET}"),
        ("basic", "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()),
    ],
)
def test_a_lasting_log_in_is_sent_with_each_request(airbyte: CheckedSimulator, auth: str, header: str | None) -> None:
    use(airbyte, auth)
    client_of(airbyte).running_jobs()
    assert sent(airbyte) == [JOBS]
    assert airbyte.requests[0].headers.get("authorization") == header


@pytest.mark.parametrize("auth", ["none", "bearer", "basic", "client_credentials"])
def test_a_name_in_netrc_does_not_take_the_place_of_the_log_in(
    airbyte: CheckedSimulator, auth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    use(airbyte, auth)
    client_of(airbyte).running_jobs()
    other = "Basic " + base64.b64encode(b"stranger:else").decode()
    assert all(request.headers.get("authorization") != other for request in airbyte.requests)


@pytest.mark.parametrize(("life", "margin"), [(180, 18), (900, 30)])
def test_a_token_is_used_until_shortly_before_its_end(
    airbyte: CheckedSimulator, clock: Clock, life: int, margin: int
) -> None:
    use(airbyte, "client_credentials")
    airbyte.token_life = life
    client = client_of(airbyte, clock)
    client.running_jobs()
    clock.now += life - margin - 1
    client.running_jobs()
    assert sent(airbyte) == [TOKEN, JOBS, JOBS]
    clock.now += 1
    client.running_jobs()
    assert sent(airbyte)[3:] == [TOKEN, JOBS]


@pytest.mark.parametrize(
    "life", [None, 0, -1, "180", True, pytest.param(10**400, id="huge"), [], float("inf"), float("nan")]
)
def test_a_token_of_strange_life_is_used(airbyte: CheckedSimulator, life: object) -> None:
    use(airbyte, "client_credentials")
    airbyte.tokens["given"] = float("inf")
    airbyte.faults.append(answers(Response(200, {"access_token": "given", "expires_in": life}), path="/token"))
    client = client_of(airbyte)
    for _ in range(2):
        client.running_jobs()
    assert sent(airbyte) == [TOKEN, JOBS, JOBS]


@pytest.mark.parametrize("token", [None, "", 5, ["x"]])
def test_an_answer_without_a_token_is_told(airbyte: CheckedSimulator, token: object) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults.append(always(Response(200, {"access_token": token, "message": "not today"}), path="/token"))
    error = failure(client_of(airbyte).running_jobs)
    assert "without an access_token: not today" in str(error)
    assert "LAKEHOUSE_AIRBYTE_URL" in str(error)
    assert sent(airbyte) == [TOKEN]


def test_a_token_that_was_withdrawn_is_replaced_once(airbyte: CheckedSimulator, clock: Clock) -> None:
    use(airbyte, "client_credentials")
    client = client_of(airbyte)
    client.running_jobs()
    airbyte.tokens.clear()
    client.running_jobs()
    client.running_jobs()
    assert sent(airbyte) == [TOKEN, JOBS, JOBS, TOKEN, JOBS, JOBS]
    assert not clock.pauses


def test_a_fresh_token_that_is_refused_ends_it(airbyte: CheckedSimulator) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults.append(always(Response(401, {"message": "Unauthorized"})))
    error = failure(client_of(airbyte).running_jobs)
    assert sent(airbyte) == [TOKEN, JOBS, TOKEN, JOBS]
    assert error.status == 401
    assert "LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET" in str(error)


def test_a_token_that_another_thread_has_replaced_is_not_replaced_again(airbyte: CheckedSimulator) -> None:
    use(airbyte, "client_credentials")
    client = client_of(airbyte)
    client.running_jobs()
    others = [client.running_jobs]

    def meanwhile(request: Request) -> Response | None:
        if not others:
            return None
        airbyte.tokens.clear()
        others.pop()()
        return Response(401)

    airbyte.faults.append(meanwhile)
    client.running_jobs()
    assert sent(airbyte) == [TOKEN, JOBS, JOBS, JOBS, TOKEN, JOBS, JOBS]


def test_a_wrong_client_secret_is_sent_once(airbyte: CheckedSimulator) -> None:
    use(airbyte, "client_credentials")
    error = failure(client_of(airbyte, secret=SecretStr("wrong")).running_jobs)
    assert sent(airbyte) == [TOKEN]
    assert error.status == 401
    assert "LAKEHOUSE_AIRBYTE_CLIENT_SECRET" in str(error)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("auth", "variable"),
    [
        ("none", "LAKEHOUSE_AIRBYTE_CLIENT_ID"),
        ("bearer", "LAKEHOUSE_AIRBYTE_TOKEN"),
        ("basic", "LAKEHOUSE_AIRBYTE_USER and LAKEHOUSE_AIRBYTE_PASSWORD"),
    ],
)
def test_a_log_in_that_is_refused_is_not_tried_again(
    airbyte: CheckedSimulator, status: int, auth: str, variable: str
) -> None:
    use(airbyte, auth)
    airbyte.faults.append(always(Response(status, {"detail": "go away"})))
    error = failure(client_of(airbyte).running_jobs)
    assert sent(airbyte) == [JOBS]
    assert error.status == status
    assert variable in str(error)
    assert "go away" in str(error)


def test_a_token_that_ends_during_an_outage_is_replaced(airbyte: CheckedSimulator) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults.append(answers(*[Response(503)] * (http.MAX_ATTEMPTS - 1), Response(401)))
    client_of(airbyte).running_jobs()
    assert sent(airbyte) == [TOKEN, *[JOBS] * http.MAX_ATTEMPTS, TOKEN, JOBS]


@pytest.mark.parametrize("secret", ["with\nbreak", "€uro"])
def test_a_token_that_no_header_can_hold_is_told(airbyte: CheckedSimulator, clock: Clock, secret: str) -> None:
    airbyte.bearer = secret
    error = failure(client_of(airbyte).running_jobs)
    assert "LAKEHOUSE_AIRBYTE_TOKEN" in str(error)
    assert secret not in told_of(error)
    assert not clock.pauses
    assert not airbyte.requests


# --- What is tried again


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again_a_few_times(airbyte: CheckedSimulator, clock: Clock, status: int) -> None:
    airbyte.faults.append(answers(*[Response(status)] * (http.MAX_ATTEMPTS - 1)))
    client_of(airbyte).running_jobs()
    assert clock.pauses == ALL_PAUSES

    airbyte.faults.append(always(Response(status, {"detail": "overloaded"})))
    error = failure(client_of(airbyte).running_jobs)
    assert sent(airbyte) == [JOBS] * 2 * http.MAX_ATTEMPTS
    assert error.status == status
    assert "overloaded" in str(error)


def test_a_token_that_cannot_be_had_now_is_asked_for_again(airbyte: CheckedSimulator, clock: Clock) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults.append(answers(Response(503), HANG_UP, Response(429), path="/token"))
    client_of(airbyte).running_jobs()
    assert sent(airbyte) == [TOKEN] * 4 + [JOBS]
    assert clock.pauses == ALL_PAUSES


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_how_long_to_wait(airbyte: CheckedSimulator, clock: Clock, status: int) -> None:
    airbyte.faults.append(answers(Response(status, headers={"Retry-After": "7"})))
    client_of(airbyte).running_jobs()
    assert clock.pauses == [7]


def test_the_server_says_until_when_to_wait(airbyte: CheckedSimulator, clock: Clock) -> None:
    now = datetime.now(UTC)
    dates = [email.utils.format_datetime(now + timedelta(seconds=s), usegmt=True) for s in (-60, 600)]
    airbyte.faults.append(answers(*[Response(429, headers={"Retry-After": date}) for date in dates]))
    client_of(airbyte, timeout=1000.0).running_jobs()
    assert clock.pauses[0] == 0
    assert 500 < clock.pauses[1] <= 600


@pytest.mark.parametrize("said", ["soon", "-5", "²", "Wed, 21 Oct 2026 07:28:00 +99999999999999", ""])
def test_a_wait_that_cannot_be_read_is_ours_to_choose(airbyte: CheckedSimulator, clock: Clock, said: str) -> None:
    airbyte.faults.append(answers(Response(429, headers={"Retry-After": said})))
    client_of(airbyte).running_jobs()
    assert clock.pauses == [http.FIRST_WAIT]


@given(st.text() | st.datetimes().map(str) | st.integers().map(str))
def test_any_wait_is_a_length_or_nothing(text: str) -> None:
    seconds = responses.seconds_of(text)
    assert seconds is None or seconds >= 0


def test_who_is_to_wait_too_long_gives_up_at_once(airbyte: CheckedSimulator, clock: Clock) -> None:
    airbyte.faults.append(always(Response(429, headers={"Retry-After": "3600"})))
    failure(client_of(airbyte).running_jobs)
    failure(lambda: client_of(airbyte, clock, timeout=9999.0).running_jobs(deadline=clock.now + 60))
    assert sent(airbyte) == [JOBS] * 2
    assert not clock.pauses


def test_no_try_begins_after_the_deadline(airbyte: CheckedSimulator, clock: Clock) -> None:
    airbyte.faults.append(always(Response(503)))
    client = client_of(airbyte, clock)
    failure(lambda: client.running_jobs(deadline=clock.now + 2 * http.FIRST_WAIT))
    assert clock.pauses == [http.FIRST_WAIT]
    assert sent(airbyte) == [JOBS] * 2
    for ask in (
        lambda: client.changed_jobs(NOW, 0, deadline=clock.now),
        lambda: client.jobs_of("x", deadline=clock.now),
        lambda: client.connections(deadline=clock.now),
        lambda: client.now(deadline=clock.now),
    ):
        assert "the time limit was reached" in str(failure(ask))
    assert sent(airbyte) == [JOBS] * 2


def test_a_page_after_the_deadline_is_not_asked_for(airbyte: CheckedSimulator, clock: Clock) -> None:
    for number in range(150):
        airbyte.store.add_connection(f"c{number}")

    def slow(request: Request) -> Response | None:
        clock.now += 3
        return None

    airbyte.faults.append(slow)
    failure(lambda: client_of(airbyte, clock).connections(deadline=clock.now + 3))
    assert sent(airbyte) == ["GET /connections"]


def test_who_does_not_answer_is_asked_a_few_times(airbyte: CheckedSimulator, clock: Clock) -> None:
    done = Event()

    def silent(request: Request) -> Response:
        done.wait(10)
        return HANG_UP

    airbyte.faults.append(silent)
    error = failure(client_of(airbyte, timeout=0.05).running_jobs)
    done.set()
    assert "did not answer within 0.05 s" in str(error)
    assert "LAKEHOUSE_AIRBYTE_TIMEOUT" in str(error)
    assert error.status is None
    assert clock.pauses == []  # the first of them would be longer than the answer is waited for

    done.clear()
    failure(lambda: client_of(airbyte, clock, timeout=0.05).running_jobs(deadline=clock.now + 60))
    done.set()
    assert clock.pauses == ALL_PAUSES


def test_a_server_that_is_not_there(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    client = Airbyte(AirbyteServer(f"http://127.0.0.1:{port}/v1"), clock)
    error = failure(client.running_jobs)
    assert "cannot be reached (connection refused)" in str(error)
    assert "LAKEHOUSE_AIRBYTE_URL" in str(error)
    assert clock.pauses == ALL_PAUSES


def test_a_server_that_hangs_up(airbyte: CheckedSimulator, clock: Clock) -> None:
    airbyte.faults.append(always(HANG_UP))
    error = failure(client_of(airbyte).running_jobs)
    assert "the server closed the connection" in str(error)
    assert sent(airbyte) == [JOBS] * http.MAX_ATTEMPTS


@pytest.fixture
def raw() -> Iterator[Callable[..., str]]:
    """Serve these bytes, then optionally one byte from time to time without end; return the address."""
    stop = Event()
    threads: list[Thread] = []

    def serve(content: bytes, *, dripping: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.05)

        def run() -> None:
            with listener, suppress(OSError):
                while not stop.is_set():
                    with suppress(TimeoutError), listener.accept()[0] as taken:
                        taken.recv(65536)
                        taken.sendall(content)
                        while dripping and not stop.wait(0.01):
                            taken.sendall(b" ")

        threads.append(Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield serve
    stop.set()
    for thread in threads:
        thread.join()


def test_an_answer_that_never_ends_is_not_waited_for(raw: Callable[..., str]) -> None:
    import time

    address = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{", dripping=True)
    error = failure(Airbyte(AirbyteServer(address, timeout=0.1), time.monotonic).running_jobs)
    assert "did not answer within 0.1 s" in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data":', "the server closed the connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", "127.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "The request to"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be reached"),
        (b"\xff\xfe\x00", "cannot be reached"),
    ],
)
def test_an_answer_that_is_broken_is_told(raw: Callable[..., str], clock: Clock, content: bytes, words: str) -> None:
    error = failure(Airbyte(AirbyteServer(raw(content)), clock).running_jobs)
    assert words in str(error)
    assert clock.pauses == ALL_PAUSES


@pytest.mark.parametrize("url", ["http://[::1", "https://", "airbyte.example.com/v1", "http://a..b/v1"])
def test_an_address_that_is_none_is_told_at_once(clock: Clock, url: str) -> None:
    assert "LAKEHOUSE_AIRBYTE_URL" in str(failure(Airbyte(AirbyteServer(url), clock).running_jobs))
    assert not clock.pauses


# --- Starting a sync


@pytest.mark.parametrize("answer", [Response(500), Response(502), Response(503), Response(504), HANG_UP, HTML])
def test_a_start_whose_outcome_is_unknown_is_not_repeated(
    airbyte: CheckedSimulator, clock: Clock, shop: str, answer: Response
) -> None:
    def taken_and_lost(request: Request) -> Response:
        assert airbyte._route(request).status == 200
        return answer

    airbyte.faults.append(taken_and_lost)
    failure(lambda: client_of(airbyte).start_sync(shop))
    assert sent(airbyte) == [START]
    assert len(airbyte.store.jobs) == 1
    assert not clock.pauses


def test_a_start_without_an_answer_in_time_is_not_repeated(airbyte: CheckedSimulator, shop: str) -> None:
    done = Event()

    def silent(request: Request) -> Response:
        done.wait(10)
        return HANG_UP

    airbyte.faults.append(silent)
    failure(lambda: client_of(airbyte, timeout=0.05).start_sync(shop))
    done.set()
    assert sent(airbyte) == [START]


def test_a_start_that_was_certainly_not_taken_is_repeated(airbyte: CheckedSimulator, shop: str) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults += [answers(Response(503), path="/token"), answers(Response(429), Response(401), Response(429))]
    job = client_of(airbyte).start_sync(shop)
    assert sent(airbyte) == [TOKEN, TOKEN, START, START, TOKEN, START, START]
    assert [*airbyte.store.jobs] == [job.id]
    assert (job.status, job.kind, job.connection) == ("running", "sync", shop)


def test_a_start_at_a_server_that_is_not_there_yet_is_repeated(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    client = Airbyte(AirbyteServer(f"http://127.0.0.1:{port}/v1"), clock)
    failure(lambda: client.start_sync(ANY))
    assert clock.pauses == ALL_PAUSES


def test_a_second_sync_is_refused_in_words(airbyte: CheckedSimulator, shop: str) -> None:
    client = client_of(airbyte)
    client.start_sync(shop)
    error = failure(lambda: client.start_sync(shop))
    assert error.status == 409
    assert "already running" in str(error)
    assert "LAKEHOUSE_AIRBYTE_URL" not in str(error)  # it is the right one
    assert sent(airbyte) == [START, START]


def test_a_job_is_looked_at_and_cancelled(airbyte: CheckedSimulator, shop: str) -> None:
    client = client_of(airbyte)
    job = client.start_sync(shop)
    assert client.job(job.id).status == "running"
    assert client.cancel(job.id).status == "cancelled"
    assert client.job(job.id).has_ended
    assert failure(lambda: client.job(99)).status == 404


# --- What is read


@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        Response(200, "[]"),
        Response(200, "null"),
        Response(200, '"data"'),
        Response(200, ""),
        Response(200, "{"),
        pytest.param(Response(200, "[" * 100_000), id="deep"),
        Response(204),
        Response(302, headers={"Location": "/api/public/v1/jobs?followed=1"}),
        Response(301, headers={"Location": "http://127.0.0.1:1/"}),
        Response(404, "<html>nothing here</html>", kind="text/html"),
        Response(404, {"message": "Object not found."}),
        Response(405),
        Response(400),
    ],
)
def test_what_is_no_airbyte_is_told_where_to_look(airbyte: CheckedSimulator, clock: Clock, answer: Response) -> None:
    airbyte.faults.append(always(answer))
    error = failure(client_of(airbyte).running_jobs)
    assert airbyte.url in str(error)
    assert "LAKEHOUSE_AIRBYTE_URL" in str(error)
    assert sent(airbyte) == [JOBS]  # no redirect is followed, and nothing is tried again
    assert not clock.pauses


@pytest.mark.parametrize("body", [{"status": 500, "detail": "database is down"}, {"data": {}, "message": "sorry"}])
def test_an_error_that_says_ok_is_told(airbyte: CheckedSimulator, body: dict[str, object]) -> None:
    airbyte.faults.append(lambda request: Response(200, body))
    client = client_of(airbyte)
    words = str(body.get("detail") or body.get("message"))
    for ask in (client.running_jobs, client.connections, lambda: client.job(1), lambda: client.start_sync(ANY)):
        assert words in str(failure(ask))


@pytest.mark.parametrize("body", [{"detail": ["a", {"b": 1}]}, {"detail": {"x": "y" * 10_000}}, {"error": 5}])
def test_words_of_any_shape_are_cut_short(airbyte: CheckedSimulator, body: dict[str, object]) -> None:
    airbyte.faults.append(always(Response(400, body)))
    assert len(str(failure(client_of(airbyte).running_jobs))) < 500


SMALL_PAGE = 5


def page_of(airbyte: CheckedSimulator, *rows: object) -> Page:
    airbyte.faults.append(always(Response(200, {"data": [*rows]})))
    return client_of(airbyte).changed_jobs(NOW, 0)


def row(job_id: object = 7, **more: object) -> dict[str, object]:
    fields = {"jobId": job_id, "status": "succeeded", "jobType": "sync", "startTime": "2026-11-21T02:00Z"}
    return {**fields, "connectionId": "c", "lastUpdatedAt": "2026-11-21T02:00:05Z", **more}


def test_what_a_newer_airbyte_adds_is_let_through(airbyte: CheckedSimulator) -> None:
    page = page_of(airbyte, row(1, status="paused", jobType="vacuum", surprise={"a": [1]}), row(2))
    assert [(job.id, job.status, job.kind) for job in page.jobs] == [(1, "paused", "vacuum"), (2, "succeeded", "sync")]
    assert not page.problems
    assert (page.size, page.first, page.last, page.more) == (2, 1, 2, False)


def test_rows_that_are_no_jobs_are_left_out_and_told(airbyte: CheckedSimulator) -> None:
    page = page_of(airbyte, None, row(3), {"jobId": 4}, row("x"), [])
    assert [job.id for job in page.jobs] == [3]
    assert (page.size, page.first, page.last) == (5, None, None)
    assert len(page.problems) == 4
    assert "job 4 without a connectionId" in page.problems[1]


def test_times_without_seconds_or_zone_are_read(airbyte: CheckedSimulator) -> None:
    page = page_of(
        airbyte,
        row(1, startTime="2026-11-21T02:00Z", lastUpdatedAt="2026-11-21T02:01:07"),
        row(2, startTime=1687450500000, lastUpdatedAt="yesterday"),
    )
    assert [(job.started, job.ended) for job in page.jobs] == [(NOW, NOW + timedelta(seconds=67)), (None, None)]


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))])
def test_times_are_sent_in_aware_utc(airbyte: CheckedSimulator, shop: str, zone: timezone) -> None:
    now = NOW + timedelta(milliseconds=700)
    airbyte.store.clock = lambda: now
    airbyte.store.end(airbyte.store.start(shop))
    page = client_of(airbyte).changed_jobs(now.astimezone(zone), 0)
    assert airbyte.requests[-1].query["updatedAtStart"] == ["2026-11-21T02:00:00Z"]
    assert [job.ended for job in page.jobs] == [NOW]  # its second is part of the requested range


def test_the_order_the_limit_and_the_place_are_ours(airbyte: CheckedSimulator, shop: str) -> None:
    moments = iter(NOW + timedelta(seconds=n) for n in range(10_000))
    airbyte.store.clock = lambda: next(moments)
    jobs = [airbyte.store.start(shop) for _ in range(130)]
    for job in reversed(jobs):
        airbyte.store.end(job)
    client = client_of(airbyte)
    first, second = client.changed_jobs(NOW, 0), client.changed_jobs(NOW, 100)
    assert [job.id for page in (first, second) for job in page.jobs] == [*reversed(jobs)]
    assert (first.more, second.more) == (True, False)  # whatever the address of what is more
    assert [job.id for job in client.jobs_of(shop, limit=3)] == [130, 129, 128]
    running = [airbyte.store.start(shop) for _ in range(2)]
    assert [job.id for job in client.running_jobs()] == running


@pytest.mark.parametrize("listen", [True, False])
def test_only_the_wanted_workspaces_are_asked_for(airbyte: CheckedSimulator, shop: str, listen: bool) -> None:
    airbyte.store.start(shop)
    workspaces = (ANY, airbyte.store.workspace) if listen else (ANY,)
    client = client_of(airbyte, workspaces=workspaces)
    found = [client.changed_jobs(NOW.replace(year=2020), 0).jobs, client.running_jobs(), client.jobs_of(shop)]
    assert [len(jobs) for jobs in found] == [listen] * 3
    assert len(client.connections()) == listen
    client.now()
    assert all(request.query["workspaceIds"] == [*workspaces] for request in airbyte.requests)


def test_no_workspaces_are_all(airbyte: CheckedSimulator, shop: str) -> None:
    assert [connection.id for connection in client_of(airbyte).connections()] == [shop]
    assert "workspaceIds" not in airbyte.requests[0].query


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", SMALL_PAGE)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 9, 10, 13])
def test_every_connection_is_found_once(airbyte: CheckedSimulator, count: int) -> None:
    ids = [airbyte.store.add_connection(f"c{number}") for number in range(count)]
    assert [connection.id for connection in client_of(airbyte).connections()] == ids


@pytest.mark.usefixtures("small_pages")
def test_a_connection_that_is_deleted_meanwhile_hides_no_other(airbyte: CheckedSimulator) -> None:
    ids = [airbyte.store.add_connection(f"c{number}") for number in range(12)]

    def deletes_one_before_the_second_page(request: Request) -> None:
        if len(airbyte.requests) == 2:
            del airbyte.store.connections[ids[0]]

    airbyte.faults.append(deletes_one_before_the_second_page)
    assert {*ids} <= {connection.id for connection in client_of(airbyte).connections()}


@pytest.mark.usefixtures("small_pages")
def test_a_server_that_knows_no_offset_is_not_asked_for_ever(airbyte: CheckedSimulator) -> None:
    rows = [{"connectionId": f"c{number}"} for number in range(SMALL_PAGE - 1)]
    airbyte.faults.append(always(Response(200, {"data": rows, "next": "http://more"}), path="/connections"))
    assert len(client_of(airbyte).connections()) == SMALL_PAGE - 1
    assert len(airbyte.requests) == 2


@pytest.mark.usefixtures("small_pages")
def test_full_pages_that_ignore_the_offset_are_an_error_and_no_list(airbyte: CheckedSimulator) -> None:
    """Behind the first page may be connections that fill tables: without them their syncs would go unanswered."""
    rows = [{"connectionId": f"c{number}"} for number in range(SMALL_PAGE)]
    airbyte.faults.append(always(Response(200, {"data": rows, "next": "http://more"}), path="/connections"))
    with pytest.raises(AirbyteError, match="/connections ignores `offset`: it lists the same"):
        client_of(airbyte).connections()
    assert len(airbyte.requests) == 2


def test_a_server_of_smaller_pages_is_read_to_its_end(airbyte: CheckedSimulator) -> None:
    rows = [{"connectionId": f"c{number}"} for number in range(7)]

    def two_at_most(request: Request) -> Response:
        offset = int(request.query["offset"][0])
        page = rows[offset : offset + 2]
        return Response(200, {"data": page, "next": "http://more" if len(page) == 2 else ""})

    airbyte.faults.append(two_at_most)
    assert [connection.id for connection in client_of(airbyte).connections()] == [row["connectionId"] for row in rows]


def test_rows_that_are_no_connections_are_left_out(airbyte: CheckedSimulator) -> None:
    strange = [None, 5, {}, {"connectionId": ""}, {"connectionId": 5}, {"connectionId": "A", "tags": 5}]
    airbyte.faults.append(lambda request: Response(200, {"data": [*strange, {"connectionId": "a", "name": "again"}]}))
    assert [(c.id, c.name) for c in client_of(airbyte).connections()] == [("a", "")]


def test_what_the_time_is_there(airbyte: CheckedSimulator) -> None:
    airbyte.store.clock = lambda: NOW
    assert client_of(airbyte).now() == NOW


def test_a_server_without_a_clock_has_ours(raw: Callable[..., str], clock: Clock) -> None:
    for date in (b"", b"Date: today\r\n", b"Date: Fri, 31 Dec 9999 23:59:59 -1400\r\n"):
        address = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + date + b"\r\n{}")
        now = Airbyte(AirbyteServer(address), clock).now()
        assert now.tzinfo is UTC
        assert now > NOW.replace(year=2020)


# --- Secrets


def told_of(error: BaseException) -> str:
    """Whatever a log may show of an error."""
    return "".join([str(error), repr(error), *traceback.format_exception(error)])


def forms_of(airbyte: CheckedSimulator) -> list[str]:
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    return [SECRET, pair, *airbyte.tokens]


@pytest.mark.parametrize("auth", ["client_credentials", "bearer", "basic"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 409, 429, 500])
@pytest.mark.parametrize("before", [0, 180])  # where the words are cut, a secret would be cut in two
def test_no_answer_brings_a_secret_into_an_error(
    airbyte: CheckedSimulator, auth: str, status: int, before: int
) -> None:
    use(airbyte, auth)
    client = client_of(airbyte)
    client.running_jobs()

    def echo(request: Request) -> Response | None:
        if request.path.endswith("/token"):
            return None
        words = "." * before + f"{request.headers['authorization']} {SECRET} {request.headers['authorization']}"
        return Response(status, {"detail": words, "data": words})

    airbyte.faults.append(echo)
    for ask in (client.running_jobs, client.connections, lambda: client.job(1), lambda: client.start_sync(ANY)):
        text = told_of(failure(ask))
        for secret in forms_of(airbyte):
            assert secret[:8] not in text
    assert not any(secret in repr(client) + str(client) + repr(client.server) for secret in forms_of(airbyte))


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
def test_no_refusal_of_a_token_brings_the_secret_into_an_error(airbyte: CheckedSimulator, status: int) -> None:
    use(airbyte, "client_credentials")
    airbyte.faults.append(lambda request: Response(status, {"detail": f"not {request.body.decode()}"}))
    text = told_of(failure(client_of(airbyte).running_jobs))
    assert SECRET not in text
    assert "***" in text


def test_no_kind_of_answer_brings_a_secret_into_an_error(airbyte: CheckedSimulator) -> None:
    use(airbyte, "bearer")
    airbyte.faults.append(lambda request: Response(200, "", kind=request.headers["authorization"]))
    assert SECRET not in told_of(failure(client_of(airbyte).running_jobs))


def test_a_token_is_sent_to_its_own_server_only(airbyte: CheckedSimulator, shop: str) -> None:
    # `next` of the double points elsewhere, and so does this redirect: there is no server at that address.
    use(airbyte, "client_credentials")
    airbyte.faults.append(answers(Response(307, headers={"Location": "http://127.0.0.1:1/"}), path="/token"))
    client = client_of(airbyte)
    assert "307" in str(failure(client.running_jobs))
    for _ in range(120):
        airbyte.store.start(shop)
    assert json.loads(airbyte.requests[0].body)["client_secret"] == SECRET
    assert len(client.running_jobs()) == 100


@pytest.mark.parametrize("path", ["/jobs", "/connections"])
def test_an_answer_that_is_too_large_to_be_airbytes_is_not_read_to_its_end(
    airbyte: CheckedSimulator, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 1 << 20)
    client = client_of(airbyte)
    ask = client.running_jobs if path == "/jobs" else client.connections
    airbyte.faults.append(answers(Response(200, '{"data": [], "next": "' + "x" * (1 << 19) + '"}'), path=path))
    ask()
    airbyte.requests.clear()
    airbyte.faults.append(always(Response(200, '{"data": [], "next": "' + "x" * (8 << 20) + '"}'), path=path))
    error = failure(ask)
    assert f"{path} answered with more than 1 MiB" in str(error)
    assert "LAKEHOUSE_AIRBYTE_URL should be the base URL of the public API" in str(error)
    assert len(airbyte.requests) == 1  # it would be as large again
