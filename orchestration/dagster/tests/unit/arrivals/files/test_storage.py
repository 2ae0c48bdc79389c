"""Files on a disk. The integration tests use S3."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.arrivals.files.storage import FileStorage, storage_of
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.contract.arrivals import FileArrival
from obstore.store import S3Store
from postgres_server import free_port


def storage_in(folder: Path, pattern: str = "**.csv") -> FileStorage:
    return FileStorage(FilePattern(f"{folder}/{pattern}"))


def write(path: Path, text: str = "a\n1\n", *, age: float = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_every_file_that_matches_is_listed_with_its_version(tmp_path: Path) -> None:
    for name in ("2026-01-01_a.csv", "sub/2026-01-02_b.csv", "2026-01-03.txt", "_loaded/2026-01-04_c.csv"):
        write(tmp_path / name)
    found = {file.path: file for file in storage_in(tmp_path, "**/{date}_*.csv").versions()}
    assert {path: file.day for path, file in found.items()} == {
        "2026-01-01_a.csv": date(2026, 1, 1),
        "sub/2026-01-02_b.csv": date(2026, 1, 2),
    }
    assert all(file.size == 4 and file.version for file in found.values())


def test_a_file_of_the_same_size_and_time_is_another_version_once_it_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    [before] = storage_in(tmp_path).versions()
    stat = path.stat()
    other = write(tmp_path / "other", "a\n2\n")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(path)
    [after] = storage_in(tmp_path).versions()
    assert before.size == after.size
    assert before.modified == after.modified
    assert before.version != after.version


def test_a_file_that_may_still_be_written_is_not_read_yet(tmp_path: Path) -> None:
    write(tmp_path / "old.csv")
    write(tmp_path / "new.csv", age=0)
    assert [file.path for file in storage_in(tmp_path).settled()] == ["old.csv"]


def test_copies_have_the_version_that_was_read(tmp_path: Path) -> None:
    write(tmp_path / "in/a.csv")
    write(tmp_path / "in/gone.csv")
    write(tmp_path / "in/changed.csv")
    storage = storage_in(tmp_path / "in")
    listed = sorted(storage.versions(), key=lambda file: file.path)
    write(tmp_path / "in/changed.csv", "b\n22\n", age=30)
    (tmp_path / "in/gone.csv").unlink()
    copies = tmp_path / "copies"
    copies.mkdir()
    found = {file.path: (file, copy.read_text()) for file, copy in storage.read(listed, copies).read}
    assert found.keys() == {"a.csv", "changed.csv"}
    current = {file.path: file for file in storage.versions()}
    assert found["changed.csv"] == (current["changed.csv"], "b\n22\n")
    assert found["changed.csv"][0] not in listed
    assert found["a.csv"] == (listed[0], "a\n1\n")


def test_a_file_is_moved_unless_it_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "sub/a.csv")
    storage = storage_in(tmp_path)
    [listed] = storage.versions()
    write(path, "new\n", age=1)
    storage.move(listed, "_loaded")
    assert path.read_text() == "new\n"
    [listed] = storage.versions()
    storage.move(listed, "_loaded")
    assert not path.exists()
    assert (tmp_path / "_loaded/sub/a.csv").read_text() == "new\n"
    storage.move(listed, "_loaded")  # again, as after a kill
    [moved] = storage.versions("_loaded")
    assert (moved.path, moved.location) == ("sub/a.csv", "_loaded/sub/a.csv")


def test_what_cannot_be_listed_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArrivalError, match=r"in/\*\*\.csv: the folder .*/in does not exist. Create it"):
        list(storage_in(tmp_path / "in").versions())
    with pytest.raises(ArrivalError, match=r"gs:// is not supported\. Use s3://"):
        list(FileStorage(FilePattern("gs://bucket/*.csv")).versions())


def test_paths_are_relative_to_the_dbt_project(tmp_path: Path) -> None:
    write(tmp_path / "landing/a.csv")
    (tmp_path / "dbt").mkdir()
    found = storage_of(FileArrival(files="../landing/*.csv"), tmp_path / "dbt")
    assert [file.path for file in found.versions()] == ["a.csv"]


@dataclass
class Answers:
    """A server that answers every request with a status, and a store whose client repeats a request once."""

    server: ThreadingHTTPServer
    status: int = 200

    @property
    def store(self) -> S3Store:
        return store_at(self.server.server_port)


def store_at(port: int) -> S3Store:
    return S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{port}",
        client_options={"allow_http": True},
        access_key_id="a",
        secret_access_key="b",
        region="x",
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=10)},
    )


@pytest.fixture
def answers() -> Iterator[Answers]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    found = Answers(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    thread = Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def listed(store: S3Store) -> ArrivalError:
    """The error of a listing by a client."""
    storage = FileStorage(FilePattern("s3://bucket/in/*.csv"))
    vars(storage)["_store"] = store
    with pytest.raises(ArrivalError, match="cannot list the files") as caught:
        list(storage.versions())
    return caught.value


def test_a_server_that_does_not_answer_may_do_so_later() -> None:
    assert listed(store_at(free_port())).transient


@pytest.mark.parametrize(("status", "passes"), [(500, True), (503, True), (429, True), (400, False), (403, False)])
def test_answers_of_a_server_that_may_change(answers: Answers, status: int, passes: bool) -> None:
    answers.status = status
    assert listed(answers.store).transient is passes


@pytest.mark.parametrize(("status", "passes"), [(503, True), (400, False)])
def test_files_that_a_server_does_not_send(tmp_path: Path, answers: Answers, status: int, passes: bool) -> None:
    answers.status = status
    storage = FileStorage(FilePattern("s3://bucket/in/*.csv"))
    vars(storage)["_store"] = answers.store
    now = datetime.now(UTC)
    versions = [FileVersion(f"{number}.csv", "v", 1, now, None, "") for number in range(40)]
    copies = storage.read(versions[:2], tmp_path)
    assert copies.unreadable.keys() == set(versions[:2])
    assert copies.passing == (set(versions[:2]) if passes else set())
    with pytest.raises(ArrivalError, match="cannot read the files") as caught:
        storage.read(versions, tmp_path)
    assert caught.value.transient is passes
