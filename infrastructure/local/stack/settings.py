"""Ports and secrets of one stack: chosen at its first start, remembered, and the same ever after."""

import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from stack.errors import StackError
from stack.files import write_private

HOST = "127.0.0.1"
PORTS = {"postgres": 15432, "s3": 19000, "trino_http": 18080, "trino_https": 18443, "rest": 19120}
WORKERS = "LAKEHOUSE_STACK_WORKERS"
MOST_WORKERS = 4  # each is a Java process with a heap of its own
WORKER_PORT = 18090


@dataclass(frozen=True)
class Settings:
    """What `settings.json` remembers."""

    postgres_port: int
    s3_port: int
    trino_http_port: int
    trino_https_port: int
    postgres_password: str
    s3_access_key: str
    s3_secret_key: str
    trino_password: str
    trino_shared_secret: str
    #: The port of the REST catalog, which is optional.
    rest_port: int = PORTS["rest"]
    #: Ports of the Trino workers beside the coordinator, which works too.
    worker_ports: tuple[int, ...] = ()

    def on_ports(self, ports: Mapping[str, int]) -> "Settings":
        """The same with some ports moved."""
        moved: dict[str, Any] = {f"{name}_port": number for name, number in ports.items()}
        return replace(self, **moved)

    def with_workers(self, count: int) -> "Settings":
        """The same with so many workers in all, the coordinator included; workers that stay keep their ports."""
        ports = list(self.worker_ports[: count - 1])
        taken = [self.port(name) for name in PORTS]
        while len(ports) < count - 1:
            ports.append(free_port(WORKER_PORT, [*taken, *ports]))
        return replace(self, worker_ports=tuple(ports))

    @property
    def workers(self) -> dict[str, int]:
        """Names and ports of the Trino workers: trino-2, trino-3, …, because the coordinator is the first."""
        return {f"trino-{number}": port for number, port in enumerate(self.worker_ports, start=2)}

    def port(self, name: str) -> int:
        """The port of one of `PORTS`."""
        return int(getattr(self, f"{name}_port"))


def load(path: Path) -> Settings | None:
    """The remembered settings; None before the first start."""
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text())
        # A stack made before a field existed has that field's default.
        values = {f.name: known[f.name] for f in fields(Settings) if f.name in known or f.default is MISSING}
        return Settings(**(values | {"worker_ports": tuple(map(int, values.get("worker_ports", ())))}))
    except (ValueError, TypeError, KeyError) as error:
        raise StackError(f"{path} is damaged ({error!r}): restore it, or remove {path.parent} to start over") from None


def load_or_create(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings for a start: remembered or new ones, with the ports and workers that the environment sets."""
    requested = requested_ports(environment)
    workers = asked_workers(environment)
    known = load(path)
    settings = known.on_ports(requested) if known else _new(requested)
    if workers is not None:
        settings = settings.with_workers(workers)
    if settings != known:
        write_private(path, json.dumps(asdict(settings), indent=2) + "\n")
    return settings


def variable(name: str) -> str:
    """The environment variable that moves a port."""
    return f"LAKEHOUSE_STACK_{name.upper()}_PORT"


def requested_ports(environment: Mapping[str, str]) -> dict[str, int]:
    """Ports that the environment sets; an empty value counts as not set."""
    requested: dict[str, int] = {}
    for name in PORTS:
        text = environment.get(variable(name), "")
        if not text:
            continue
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise StackError(f"{variable(name)}={text}: expected a port number from 1 to 65535")
        if int(text) in requested.values():
            raise StackError(f"{variable(name)}={text}: another part was given this port too")
        requested[name] = int(text)
    return requested


def asked_workers(environment: Mapping[str, str]) -> int | None:
    """How many Trino processes the environment sets, the coordinator included; None leaves the number as it is."""
    text = environment.get(WORKERS, "")
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise StackError(f"{WORKERS}={text}: expected a number of Trino workers from 1 to {MOST_WORKERS}")
    return int(text)


def _new(requested: Mapping[str, int]) -> Settings:
    ports = dict(requested)
    for name, default in PORTS.items():
        if name not in ports:
            ports[name] = free_port(default, ports.values())
    return Settings(
        postgres_port=ports["postgres"],
        s3_port=ports["s3"],
        trino_http_port=ports["trino_http"],
        trino_https_port=ports["trino_https"],
        rest_port=ports["rest"],
        postgres_password=secrets.token_urlsafe(24),
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=secrets.token_urlsafe(30),
        trino_password=secrets.token_urlsafe(24),
        trino_shared_secret=secrets.token_urlsafe(48),
    )


def free_port(first: int, taken: Iterable[int] = ()) -> int:
    """The first port from `first` on that is free, and that is not `taken`."""
    for port in range(first, min(first + 500, 65536)):
        if port not in taken and is_free(port):
            return port
    raise StackError(f"no free port from {first} on")


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise StackError(f"port {port} needs more rights than this user has: use one above 1023") from None
        except OSError:
            return False
        return True
