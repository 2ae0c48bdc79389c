"""Trino's processes, a coordinator and perhaps workers; each start writes their configuration again."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from stack import download, trino_access, trino_config
from stack.files import private_folder, write_private
from stack.java import java_program
from stack.layout import Layout, cache
from stack.process import Server
from stack.settings import HOST, Settings


def server(layout: Layout) -> Server:
    """The coordinator's process."""
    return _server(layout, "trino")


def start(layout: Layout, settings: Settings) -> None:
    """Start the coordinator; fetches Trino first, where this user never ran one."""
    home = download.trino(cache())
    trino_access.ensure(layout.tls)
    private_folder(layout.etc)
    write_private(layout.etc / "password.db", trino_access.password_line(trino_config.USER, settings.trino_password))
    _start(layout, home, "trino", trino_config.files(layout, settings, home))


def ready(settings: Settings) -> bool:
    """Whether the coordinator says that it has started."""
    return _has_started(settings.trino_http_port)


@dataclass(frozen=True)
class Worker:
    """One Trino process beside the coordinator, started after it: its catalogs are the coordinator's files."""

    name: str
    port: int

    def server(self, layout: Layout) -> Server:
        """The process."""
        return _server(layout, self.name)

    def start(self, layout: Layout, settings: Settings) -> None:
        """Start the process."""
        home = download.trino(cache())
        _start(layout, home, self.name, trino_config.worker_files(layout, settings, home, self.name, self.port))

    def ready(self, settings: Settings) -> bool:
        """Whether the worker says that it has started; `settings` is every part's argument."""
        del settings
        return _has_started(self.port)


def _server(layout: Layout, node: str) -> Server:
    return Server(node, layout.run / f"{node}.pid", layout.log(node), _mark(layout, node))


def _start(layout: Layout, home: Path, node: str, files: dict[str, str]) -> None:
    java, data = java_program(), layout.trino(node)
    for name, text in files.items():
        path = layout.node_etc(node) / name
        private_folder(path.parent)
        write_private(path, text)
    shutil.rmtree(data / "tmp", ignore_errors=True)
    private_folder(data / "tmp")
    command = [str(java), *trino_config.java_options(layout, os.environ, node), *_vector(java)]
    command += ["-cp", f"{home}/lib/*", _mark(layout, node), "io.trino.server.TrinoServer"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(data), "LC_ALL": "C.UTF-8"}
    _server(layout, node).start(command, environment, data)


def _has_started(port: int) -> bool:
    opener = build_opener(ProxyHandler({}))  # a proxy cannot reach loopback
    try:
        with opener.open(f"http://{HOST}:{port}/v1/info", timeout=5) as answer:
            return json.load(answer).get("starting") is False
    except (OSError, ValueError, HTTPException):
        return False


def _mark(layout: Layout, node: str) -> str:
    return f"-Dconfig={layout.node_etc(node) / 'config.properties'}"


def _vector(java: Path) -> list[str]:
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True).stdout
    return ["--add-modules=jdk.incubator.vector"] if "jdk.incubator.vector" in modules else []
