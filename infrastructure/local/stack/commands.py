"""What the tool does: up, down, status, and start, stop, kill for one part."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from stack import client_env, download, postgres, s3, trino
from stack import settings as remembered
from stack.errors import StackError
from stack.files import locked, private_folder, write_private
from stack.layout import Layout, cache
from stack.process import Server
from stack.settings import Settings
from stack.terminal import say, step
from stack.verify import verify

WAITING = "waiting for another command on this stack"


@dataclass(frozen=True)
class Part:
    """One server: its module, the ports it listens on, the seconds it may take to start on a loaded machine."""

    module: ModuleType
    ports: tuple[str, ...]
    seconds: float

    def ready(self, settings: Settings) -> bool:
        """Whether it answers."""
        return bool(self.module.ready(settings))


# In the order of starting.
PARTS = {
    "postgres": Part(postgres, ("postgres",), 60),
    "s3": Part(s3, ("s3",), 60),
    "trino": Part(trino, ("trino_http", "trino_https"), 300),
}


def up(layout: Layout) -> None:
    """Start what is not running, prove it, and say where everything is."""
    private_folder(layout.state)
    with locked(layout.lock, WAITING):
        known = remembered.load(layout.settings)
        _demand_usable(layout, known)
        if known and layout.checked.exists() and all(_answers(layout, known, name) for name in PARTS):
            say("The stack is up already.")
        else:
            _up(layout)
        _tell(layout)


def _up(layout: Layout) -> None:
    began = time.monotonic()
    settings = remembered.load_or_create(layout.settings)
    layout.checked.unlink(missing_ok=True)
    if not download.home(cache()).exists():
        step("download", partial(_download, cache()))
    for name in PARTS:
        step(name, partial(_start, layout, settings, name))
    write_private(layout.env, client_env.render(client_env.variables(layout, settings)))
    step("check", partial(_check, layout, settings))
    say(f"The stack is up after {time.monotonic() - began:.0f} s.")


def down(layout: Layout) -> None:
    """Stop everything; the data stays."""
    if not layout.state.exists():
        say(f"Nothing to stop: there is no {layout.state}.")
        return
    with locked(layout.lock, WAITING):
        for name in reversed(PARTS):
            step(name, partial(_end, layout, name, "stop"))


def status(layout: Layout) -> int:
    """Say what runs; the exit status is 0 when everything answers."""
    known = remembered.load(layout.settings)
    answers = 0
    for name, part in PARTS.items():
        pid = _server(layout, name).pid()
        if known is None or pid is None:
            say(f"{name:<9} stopped")
            continue
        ready = part.ready(known)
        answers += ready
        ports = ", ".join(str(known.port(port)) for port in part.ports)
        say(f"{name:<9} {'answers' if ready else 'does not answer'}, pid {pid}, port {ports}")
    if answers < len(PARTS):
        return 1
    _tell(layout)
    return 0


def one(layout: Layout, action: str, name: str) -> None:
    """Start, stop or kill one part."""
    known = remembered.load(layout.settings)
    if known is None:
        raise StackError(f"there is no stack in {layout.state}: `make stack-up` makes one")
    with locked(layout.lock, WAITING):
        if action == "start":
            step(name, partial(_start, layout, known, name))
        else:
            step(name, partial(_end, layout, name, action))


def _download(folder: Path) -> str:
    download.trino(folder)
    return "unpacked"


def _start(layout: Layout, settings: Settings, name: str) -> str:
    part, server = PARTS[name], _server(layout, name)
    told = "runs already"
    if server.pid() is None:
        for port in part.ports:
            _demand_free(settings.port(port), port)
        part.module.start(layout, settings)
        told = "started"
    server.wait_ready(partial(part.ready, settings), part.seconds)
    if name == "postgres":
        postgres.prepare(settings)
    return told


def _end(layout: Layout, name: str, action: str) -> str:
    server = _server(layout, name)
    layout.checked.unlink(missing_ok=True)
    if action == "stop":
        return "stopped" if server.stop() else "was not running"
    return "killed" if server.kill() else "was not running"


def _check(layout: Layout, settings: Settings) -> str:
    verify(layout, settings)
    write_private(layout.checked, "")
    return "a table was written, read and dropped"


def _demand_usable(layout: Layout, known: Settings | None) -> None:
    """Refuse what would half work: data without its passwords, and new ports under running servers."""
    if known is None:
        if layout.postgres.exists():
            raise StackError(
                f"{layout.settings} is missing, and with it the passwords of {layout.postgres}: "
                f"restore it, or remove {layout.state} to start anew"
            )
        return
    asked = remembered.asked_ports(os.environ)
    moved = [name for name, port in asked.items() if known.port(name) != port]
    if moved and any(_server(layout, name).pid() for name in PARTS):
        named = ", ".join(f"{remembered.variable(name)}={asked[name]}" for name in moved)
        raise StackError(f"parts run on other ports than {named} asks for: `make stack-down` first")


def _demand_free(number: int, name: str) -> None:
    if not remembered.is_free(number):
        raise StackError(
            f"port {number} is taken by another program. Free it, or move: "
            f"make stack-down && {remembered.variable(name)}={remembered.free_port(number + 1)} make stack-up"
        )


def _answers(layout: Layout, settings: Settings, name: str) -> bool:
    return _server(layout, name).pid() is not None and PARTS[name].ready(settings)


def _server(layout: Layout, name: str) -> Server:
    server: Server = PARTS[name].module.server(layout)
    return server


def _tell(layout: Layout) -> None:
    known = remembered.load(layout.settings)
    if known is not None:
        say(f"  Trino's UI  {client_env.ui(known)}  (any user name, no password)")
    say(f"  settings    {layout.env}")
    say(f"  logs        {layout.logs}")
    say("  next        LAKEHOUSE_ENV=trino make demo")
