"""Files on S3 that are overwritten while they are moved, on the stack's S3 server, behind a proxy that does it.

The stack's server ignores `If-Match` of DELETE, unlike Amazon's: the proxy compares the entity tag for it.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
from lakehouse_analytics.arrivals.files.load import FileLoader, FileTables
from lakehouse_analytics.arrivals.files.storage import FileStorage, storage_of
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from lakehouse_analytics.contract.arrivals import FileArrival
from obstore.store import S3Store

from .stack import stack_environment

pytestmark = [pytest.mark.integration, pytest.mark.trino]


@dataclass
class Bucket:
    """A prefix of the bucket, and the proxy through which the storage under test reaches it.

    Attributes:
        store: The prefix, without the proxy.
        prefix: The prefix.
        moment: The request before which the file is overwritten: its method, and which of this method it is.
        refuse: Status with which every DELETE is answered.
    """

    store: S3Store
    prefix: str
    moment: tuple[str, int] | None = None
    refuse: int | None = None
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def storage(self) -> FileStorage:
        return storage_of(self.arrival, Path("/"))

    @property
    def arrival(self) -> FileArrival:
        return FileArrival(files=f"s3://lakehouse/{self.prefix}/*.csv", after_load="move")

    def put(self, text: str) -> None:
        obstore.put(self.store, "a b+ü.csv", text.encode())

    def content(self) -> dict[str, str]:
        paths = [one["path"] for page in obstore.list(self.store) for one in page]
        return {path: bytes(obstore.get(self.store, path).bytes()).decode() for path in sorted(paths)}

    def tag(self) -> str | None:
        return obstore.head(self.store, "a b+ü.csv")["e_tag"]

    def before(self, method: str) -> None:
        self.requests[method] += 1
        if self.moment == (method, self.requests[method]):
            self.put("n\n22\n")


def _handler(bucket: Bucket, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            bucket.before(self.command)
            if self.command == "DELETE" and bucket.refuse:
                self._answer(bucket.refuse)
            elif self.command == "DELETE" and self.headers["If-Match"] != bucket.tag():
                self._answer(412)
            else:
                connection = HTTPConnection(server, timeout=30)
                connection.request(self.command, self.path, body or None, dict(self.headers.items()))
                answer = connection.getresponse()
                length = answer.headers["Content-Length"] if self.command == "HEAD" else None
                self._answer(answer.status, answer.read(), answer.getheaders(), length)
                connection.close()

        def _answer(
            self,
            status: int,
            body: bytes = b"",
            headers: list[tuple[str, str]] | None = None,
            length: str | None = None,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers or ():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _forward  # noqa: N815

    return Handler


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    environment = stack_environment()
    for name in ("REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", environment[f"PYICEBERG_CATALOG__LAKEHOUSE__S3__{name}"])
    endpoint = environment["PYICEBERG_CATALOG__LAKEHOUSE__S3__ENDPOINT"]
    prefix = f"moves-{uuid.uuid4().hex}"
    store = S3Store("lakehouse", prefix=prefix, endpoint=endpoint, client_options={"allow_http": True})
    made = Bucket(store, prefix)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(made, urlsplit(endpoint).netloc)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield made
        server.shutdown()


def the_file(bucket: Bucket) -> FileVersion:
    [found] = bucket.storage.versions()
    return found


def test_an_object_is_moved(bucket: Bucket) -> None:
    bucket.put("n\n1\n")
    file = the_file(bucket)
    bucket.storage.move(file, "_loaded")
    assert bucket.content() == {"_loaded/a b+ü.csv": "n\n1\n"}
    bucket.storage.move(file, "_loaded")  # again, as after a kill
    assert bucket.content() == {"_loaded/a b+ü.csv": "n\n1\n"}


MOMENTS = [("HEAD", 1), ("PUT", 1), ("HEAD", 2), ("DELETE", 1)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_object_that_is_overwritten_while_it_is_moved_is_loaded_by_the_next_load(
    bucket: Bucket, tmp_path: Path, moment: tuple[str, int]
) -> None:
    tables = [DuckDBTable(tmp_path / "lake.duckdb", 5, "landing", name) for name in ("n", "n__files", "n__quarantine")]

    def load() -> int:
        loader = FileLoader(bucket.arrival, bucket.storage, FileTables(*tables), log=lambda _: None)
        return sum(report.rows for report in loader.load_new())

    bucket.put("n\n1\n")
    bucket.moment = moment
    assert load() == 1
    assert bucket.requests[moment[0]] >= moment[1]
    assert bucket.content()["a b+ü.csv"] == "n\n22\n"
    assert load() == 1
    assert tables[0].query("SELECT n FROM {table}") == [("22",)]
    assert bucket.content() == {"_loaded/a b+ü.csv": "n\n22\n"}


@pytest.mark.parametrize(("status", "stays"), [(403, True), (412, False), (409, False)])
def test_a_delete_that_is_refused_is_an_error_unless_the_object_has_changed(
    bucket: Bucket, status: int, stays: bool
) -> None:
    bucket.put("n\n1\n")
    file = the_file(bucket)
    bucket.refuse = status
    moving: Callable[[], None] = lambda: bucket.storage.move(file, "_loaded")  # noqa: E731
    if stays:
        with pytest.raises(ArrivalError, match="cannot move the files: DELETE is answered with 403") as error:
            moving()
        assert "Signature" not in str(error.value)
    else:
        moving()
    assert "a b+ü.csv" in bucket.content()
