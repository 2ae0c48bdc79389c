"""The HTTP side of `lakehouse webhook`, with a real server: tokens, methods, sizes, slow and broken requests."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from functools import partial

import dagster as dg
import pytest
from lakehouse_analytics.webhook import server
from lakehouse_analytics.webhook.report import MAX_BODY
from tests.dagster_ui import poll
from webhook_server import TOKEN, Client, serving

UNKNOWN = "The dbt project has no source table"
ADD = "add `arrives: {webhook: true}` to its meta.lakehouse in the dbt project."


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with dg.instance_for_test() as instance, serving(instance) as made:
        yield made


def exchange(client: Client, text: bytes, *, ends: bool = False) -> bytes:
    """Send bytes, and return everything that the server answers."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(text)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def post(headers: str = "", body: bytes = b"", path: str = "/arrived/shop/orders") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n".encode() + body


def test_health_needs_no_token(client: Client) -> None:
    response = client.send("GET", "/health", token="")
    assert (response.status, response.body) == (200, {"status": "ok"})
    assert client.send("HEAD", "/health", token="").status == 200


@pytest.mark.parametrize(
    "header", ["", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"]
)
def test_a_report_needs_the_token(client: Client, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    response = client.send("POST", "/arrived/shop/orders", b"{}", headers, token="")
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "LAKEHOUSE_WEBHOOK_TOKEN" in response.body["error"]
    assert TOKEN not in str(response)
    # A caller without the token does not learn which sources exist.
    assert client.send("POST", "/arrived/no/such", None, headers, token="").status == 401


def test_the_scheme_is_in_any_case(client: Client) -> None:
    assert (
        client.send("POST", "/arrived/shop/orders", None, {"Authorization": f"bearer {TOKEN}"}, token="").status == 200
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/arrived/shop/orders", 405, "Expected the method POST."),
        ("DELETE", "/arrived/shop/orders", 405, "Expected the method POST."),
        ("BREW", "/arrived/shop/orders", 405, "Method Not Allowed."),
        ("POST", "/health", 405, "Expected the method GET or HEAD."),
        ("POST", "/arrived/shop", 404, "Expected the path /arrived/<source>/<table> or /health."),
        ("POST", "/arrived/shop/orders/x", 404, "Expected the path /arrived/<source>/<table> or /health."),
        ("GET", "/", 404, "Expected the path /arrived/<source>/<table> or /health."),
        ("POST", "/arrived/shop/order", 404, f"{UNKNOWN} shop/order; did you mean shop/orders?"),
        ("POST", "/arrived/shop/%2e%2e%2forders", 404, f"{UNKNOWN} shop/../orders; did you mean shop/orders?"),
        ("POST", "/arrived/shop/people", 404, f"Loads of shop/people cannot be reported: {ADD}"),
    ],
)
def test_other_requests_are_refused(client: Client, method: str, path: str, status: int, error: str) -> None:
    response = client.send(method, path)
    assert (response.status, response.body) == (status, {"error": error})
    assert response.headers["Content-Type"] == "application/json"
    assert status != 405 or method == "BREW" or response.headers["Allow"]


def test_names_are_decoded(client: Client) -> None:
    response = client.send("POST", "/arrived/shop/%6frders?ignored=1")
    assert (response.status, response.body["source"]) == (200, "shop/orders")


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (post("Content-Length: 3\r\n", b"[1]"), 400, "expected a JSON object"),
        (post("Content-Length: 12\r\n", b'{"rowz":  1 }'[:12]), 400, ""),
        (post(f"Content-Length: {MAX_BODY + 1}\r\n"), 413, "Expected a body of at most 65,536 bytes."),
        (post("Content-Length: 99999999999999999999\r\n"), 413, "Expected a body of at most"),
        (post("Content-Length: -1\r\n"), 400, "Expected one Content-Length, a number of bytes."),
        (post("Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"), 400, "Expected one Content-Length"),
        (post("Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"), 411, "Expected a body with a Content-Length"),
        (b"NONSENSE\r\n\r\n", 400, "Bad Request."),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, ""),
        (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, ""),
    ],
)
def test_broken_requests_get_an_error_in_json(
    client: Client, monkeypatch: pytest.MonkeyPatch, request_: bytes, status: int, error: str
) -> None:
    monkeypatch.setattr(http.client, "_MAXHEADERS", 100)  # clickhouse-connect, which other tests import, raises it
    head, _, body = exchange(client, request_).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["error"].startswith(error)


def test_a_body_that_ends_early_is_not_stored(client: Client) -> None:
    head, _, body = exchange(client, post("Content-Length: 20\r\n", b"{}"), ends=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"] == "The body is shorter than its Content-Length."


def test_the_largest_body_is_read_and_a_larger_one_gets_its_answer(client: Client) -> None:
    filled = json.dumps({"id": "large"}).encode().ljust(MAX_BODY)
    assert client.send("POST", "/arrived/shop/orders", filled).status == 200
    assert client.send("POST", "/arrived/shop/orders", filled + b" ").status == 413
    # Although the server does not read the body of a request without the token.
    assert client.send("POST", "/arrived/shop/orders", filled, token="x").status == 401


def test_a_client_that_asks_whether_to_send_the_body_gets_an_answer(client: Client) -> None:
    asks = post("Expect: 100-continue\r\nContent-Length: 2\r\n")
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(asks)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert exchange(client, asks.replace(TOKEN.encode(), b"x")).startswith(b"HTTP/1.1 401 ")


def test_slow_requests_end_and_leave_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers that stop in the middle keep all threads for `MAX_SECONDS`. Others get a 503."""
    monkeypatch.setattr(server, "MAX_SECONDS", 1.5)
    before = threading.active_count()
    with dg.instance_for_test() as instance, serving(instance) as client:
        slow = [socket.create_connection(("127.0.0.1", client.port), timeout=60) for _ in range(server.MAX_THREADS)]
        for number, connection in enumerate(slow):
            connection.sendall(post("Content-Length: 100\r\n", b"{") if number % 2 else b"POST /arrived")
        answers = [exchange(client, b"") for _ in range(3)]
        assert [answer.startswith(b"HTTP/1.1 503 ") for answer in answers] == [True] * 3
        assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["error"].startswith("16 requests are being served.")
        got = [b"".join(iter(partial(connection.recv, 65_536), b"")) for connection in slow]
        assert [answer[:12] for answer in got[1::2]] == [b"HTTP/1.1 408"] * 8
        assert set(got[::2]) == {b""}
        for connection in slow:
            connection.close()
        # A thread ends some milliseconds after its caller has seen the end of the connection.
        poll(lambda: client.report(id="a").status == 200, seconds=10, what="a free thread")
    assert threading.active_count() <= before


def test_a_line_is_logged_per_request_without_secrets(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.send("POST", f"/arrived/shop/orders?token={TOKEN}", b'{"id": "secret-id"}')
    client.send("POST", f"/arrived/shop/{TOKEN}")
    client.send("POST", "/arrived/shop/a%0ab", token="wrong-token-0123")
    exchange(client, b"POST /arrived/\x1b[31m HTTP/1.1\r\n\r\n")
    lines = [record.getMessage() for record in caplog.records if record.name == server.__name__]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "127.0.0.1 POST /arrived/shop/orders 200",
        "127.0.0.1 POST /arrived/shop/**** 404",
        "127.0.0.1 POST /arrived/shop/a%0ab 401",
        "127.0.0.1 POST /arrived/\\x1b[31m 404",
    ]
    assert TOKEN not in caplog.text
    assert "wrong-token" not in caplog.text


def test_an_error_of_ours_is_an_answer_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    from webhook_server import SOURCES

    with dg.instance_for_test() as instance, serving(instance) as client:
        instance.event_log_storage.get_event_tags_for_asset = None  # type: ignore[method-assign,assignment]
        response = client.report(id="a")
        assert (response.status, response.body) == (500, {"error": "Internal error; see the log of the webhook."})
        assert "Traceback" in caplog.text
        assert SOURCES.keys["shop/orders"]


def test_the_token_is_compared_as_bytes_of_any_kind(client: Client) -> None:
    text = f"POST /arrived/shop/orders HTTP/1.1\r\nAuthorization: Bearer {TOKEN}".encode() + b"\xff\r\n\r\n"
    assert exchange(client, text).startswith(b"HTTP/1.1 401 ")
