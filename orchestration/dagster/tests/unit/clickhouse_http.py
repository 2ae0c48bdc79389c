"""The HTTP interface of ClickHouse in front of chdb, whose engine is the same.

No package registry has a current ClickHouse server. This one runs the statements as they are sent, so that a client's
requests are tested on the real engine: https://clickhouse.com/docs/interfaces/http
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "loader", "s3cret/Wort"
REFUSED = (
    "Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user with such "
    "name: {password}. (AUTHENTICATION_FAILED) (version 26.3.1.1 (official build))\n"
)


class ClickHouseHttp:
    """The server. `inserts` has the parameters of each INSERT."""

    def __init__(self, folder: Path) -> None:
        import chdb

        self.session = chdb.connect(str(folder))
        self.upload = folder.parent / "upload"
        self.inserts: list[dict[str, str]] = []
        self.server = HTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"clickhouse://{USER}:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{self.server.server_port}/default"

    def query(self, sql: str) -> str:
        return str(self.session.query(sql, "TabSeparated"))

    def answer(self, parameters: dict[str, str], body: bytes) -> bytes:
        statement = parameters.get("query", "") or body.decode()
        if statement.lower().startswith("insert"):
            self.inserts.append(parameters)
            self.upload.write_bytes(body)
            head, _, form = statement.rpartition(" FORMAT ")
            statement = f"{head} FROM INFILE '{self.upload}' FORMAT {form}"
        result: bytes = self.session.query(statement, parameters.get("default_format", "TabSeparated")).bytes()
        return result

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                chunked = self.headers.get("Transfer-Encoding") == "chunked"
                body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parameters = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                login = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
                if login != f"{USER}:{PASSWORD}":
                    user, _, password = login.partition(":")
                    self._send(403, REFUSED.format(user=user, password=password).encode(), "516")
                    return
                try:
                    self._send(200, owner.answer(parameters, body))
                except Exception as error:
                    self._send(500, str(error).encode(), str(error).partition("Code: ")[2].partition(".")[0])

            do_GET = do_POST  # noqa: N815

            def _chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def _send(self, status: int, body: bytes, code: str = "") -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-ClickHouse-Exception-Code", code)
                self.send_header("X-ClickHouse-Format", "Native")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def clickhouse_http(folder: Path) -> Iterator[ClickHouseHttp]:
    """A server, for as long as the block runs."""
    found = ClickHouseHttp(folder)
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()
        found.session.close()
