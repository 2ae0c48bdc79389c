"""What the tool does: up, down, status, and start, stop, kill for one part."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from stack import client_env, download, nessie, postgres, s3, trino
from stack import settings as remembered
from stack.errors import StackError
from stack.files import locked, private_folder, write_private
from stack.layout import Layout, cache
from stack.process import Server
from stack.settings import Settings
from stack.terminal import say, step
from stack.verify import verify

WAITING = "waiting for another command on this stack"


class Program(Protocol):
    """What a part runs: a module, or a Trino worker."""

    def server(self, layout: Layout) -> Server:
        """The process."""

    def start(self, layout: Layout, settings: Settings) -> None:
        """Start the process."""

    def ready(self, settings: Settings) -> bool:
        """Whether it answers."""


@dataclass(frozen=True)
class Part:
    """One server: its program, the ports it listens on, the seconds it may take to start on a loaded machine."""

    program: Program
    ports: Mapping[str, int]
    seconds: float


# What every stack has, in the order of starting.
FIXED: Mapping[str, Program] = {"postgres": postgres, "s3": s3, "trino": trino}
# What starts only by its name.
OPTIONAL: Mapping[str, Program] = {"rest": nessie}


def parts(settings: Settings) -> dict[str, Part]:
    """All parts that `up` starts, the Trino workers included, in the order of starting."""
    ports = {name: settings.port(name) for name in remembered.PORTS}
    return {
        "postgres": Part(postgres, {"postgres": ports["postgres"]}, 60),
        "s3": Part(s3, {"s3": ports["s3"]}, 60),
        "trino": Part(trino, {name: ports[name] for name in ("trino_http", "trino_https")}, 300),
        **{name: Part(trino.Worker(name, port), {name: port}, 300) for name, port in settings.workers.items()},
    }


def optional_parts(settings: Settings) -> dict[str, Part]:
    """The parts that `up` does not start."""
    return {name: Part(program, {name: settings.port(name)}, 120) for name, program in OPTIONAL.items()}


def up(layout: Layout) -> None:
    """Start what is not running, prove it, and say where everything is."""
    private_folder(layout.state)
    with locked(layout.lock, WAITING):
        known = remembered.load(layout.settings)
        _demand_usable(layout, known)
        workers = remembered.asked_workers(os.environ)
        as_set = known is not None and workers in (None, 1 + len(known.worker_ports))
        if known and as_set and layout.checked.exists() and _all_answer(layout, known):
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
    if surplus := _surplus(layout, settings):
        # The coordinator would send work to a worker that is gone, until it misses the worker's announcements.
        for name in [*surplus, "trino"]:
            step(name, partial(_end, layout, name, "stop"))
    for name in parts(settings):
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
        known = remembered.load(layout.settings)
        optional = [name for name in OPTIONAL if _server(layout, name).pid() is not None]
        for name in [*optional, *_surplus(layout, known), *reversed(_names(known))]:
            step(name, partial(_end, layout, name, "stop"))


def status(layout: Layout) -> int:
    """Say what runs; the exit status is 0 when everything answers."""
    known = remembered.load(layout.settings)
    answers = 0
    running = [name for name in OPTIONAL if _server(layout, name).pid() is not None]
    for name in [*_names(known), *running]:
        pid = _server(layout, name).pid()
        if known is None or pid is None:
            say(f"{name:<9} stopped")
            continue
        part = (parts(known) | optional_parts(known))[name]
        ready = part.program.ready(known)
        answers += ready
        ports = ", ".join(map(str, part.ports.values()))
        say(f"{name:<9} {'answers' if ready else 'does not answer'}, pid {pid}, port {ports}")
    if answers < len(_names(known)) + len(running):
        return 1
    _tell(layout)
    return 0


def one(layout: Layout, action: str, name: str) -> None:
    """Start, stop or kill one part."""
    known = remembered.load(layout.settings)
    if known is None:
        raise StackError(f"there is no stack in {layout.state}: `make stack-up` makes one")
    if name not in (names := [*parts(known), *OPTIONAL]):
        raise StackError(f"{name} is not a part of this stack: expected one of {', '.join(names)}")
    with locked(layout.lock, WAITING):
        if action == "start":
            step(name, partial(_start, layout, known, name))
        else:
            step(name, partial(_end, layout, name, action))


def _download(folder: Path) -> str:
    download.trino(folder)
    return "unpacked"


def _start(layout: Layout, settings: Settings, name: str) -> str:
    part, server = (parts(settings) | optional_parts(settings))[name], _server(layout, name)
    state = "runs already"
    if server.pid() is None:
        for port, number in part.ports.items():
            _demand_free(number, port)
        part.program.start(layout, settings)
        state = "started"
    server.wait_ready(partial(part.program.ready, settings), part.seconds)
    if name == "postgres":
        postgres.prepare(settings)
    return state


def _end(layout: Layout, name: str, action: str) -> str:
    server = _server(layout, name)
    if name not in OPTIONAL:
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
                f"restore it, or remove {layout.state} to start over"
            )
        return
    requested = remembered.requested_ports(os.environ)
    moved = [name for name, port in requested.items() if known.port(name) != port]
    if moved and any(_server(layout, name).pid() for name in [*_names(known), *OPTIONAL]):
        named = ", ".join(f"{remembered.variable(name)}={requested[name]}" for name in moved)
        raise StackError(f"parts run on other ports than {named} asks for: `make stack-down` first")


def _demand_free(number: int, name: str) -> None:
    if remembered.is_free(number):
        return
    move = f"make stack-down && {remembered.variable(name)}={remembered.free_port(number + 1)} make stack-up"
    if name not in remembered.PORTS:  # a worker's port is chosen again when the worker is
        move = "make stack-up WORKERS=1, then `make stack-up` with the number of workers"
    raise StackError(f"port {number} is taken by another program. Free it, or move: {move}")


def _names(settings: Settings | None) -> list[str]:
    return list(parts(settings)) if settings else list(FIXED)


def _surplus(layout: Layout, settings: Settings | None) -> list[str]:
    """Trino workers that run and are no longer part of the stack."""
    names = [f"trino-{number}" for number in range(2, remembered.MOST_WORKERS + 1)]
    return [name for name in names if name not in _names(settings) and _server(layout, name).pid() is not None]


def _all_answer(layout: Layout, settings: Settings) -> bool:
    return all(
        _server(layout, name).pid() is not None and part.program.ready(settings)
        for name, part in parts(settings).items()
    )


def _server(layout: Layout, name: str) -> Server:
    programs = {**FIXED, **OPTIONAL}
    return programs[name].server(layout) if name in programs else trino.Worker(name, 0).server(layout)


def _tell(layout: Layout) -> None:
    known = remembered.load(layout.settings)
    if known is not None:
        say(f"  Trino's UI  {client_env.ui(known)}  (any user name, no password)")
    say(f"  settings    {layout.env}")
    say(f"  logs        {layout.logs}")
    say("  next        LAKEHOUSE_ENV=trino make demo")
