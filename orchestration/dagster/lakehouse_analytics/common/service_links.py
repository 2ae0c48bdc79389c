"""Environment variables that Kubernetes adds for the Services of a namespace, which are not settings.

For a Service `lakehouse-trino` every pod that has `enableServiceLinks` (the default) gets `LAKEHOUSE_TRINO_PORT=
tcp://10.96.0.7:8080`, which is also the name of a setting. The names and values are those of Kubernetes'
`pkg/kubelet/envvars/envvars.go`; "Environment variables" of https://kubernetes.io/docs/concepts/services-networking/service
describes them.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping
from urllib.parse import urlsplit

#: What this program and its children read by name. Others' links stay: `KUBERNETES_SERVICE_HOST` leads to the API
#: server, and a user's own asset may find its Service by them.
PREFIXES = ("LAKEHOUSE_", "PYICEBERG_", "DBT_")
_PROTOCOLS = ("tcp", "udp", "sctp")
_ADDRESS = re.compile(rf"({'|'.join(_PROTOCOLS)})://\S+:\d+")
_PORT_OF_SERVICE = re.compile(rf"(?P<service>.+)_PORT_(?P<port>\d+)_(?P<protocol>{'|'.join(_PROTOCOLS).upper()})")


def service_links(environment: Mapping[str, str]) -> frozenset[str]:
    """The names among `PREFIXES` that Kubernetes added for a Service.

    A variable counts only if its value, too, is the one that Kubernetes gives it: an address for `…_PORT`, and for the
    other names what fits an address of the same Service. A setting that has such a name and a value of its own
    (Kubernetes lets a pod's explicit variables win) is therefore never among them.

    Args:
        environment: Names and values of variables.
    """
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIXES)}
    services: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    found = set()
    for name, value in ours.items():
        for service, address in _addresses(name, value):
            services[service].append(address)
            found.add(name)
    for service, addresses in services.items():
        found |= {name for name, value in ours.items() if _belongs(name, value, service, addresses)}
    return frozenset(found)


def remove_service_links(environment: MutableMapping[str, str]) -> None:
    """Remove what `service_links` finds.

    Args:
        environment: Such as `os.environ`; changed in place.
    """
    for name in service_links(environment):
        del environment[name]


def _addresses(name: str, value: str) -> Iterator[tuple[str, tuple[str, str, int]]]:
    """The Service of `…_PORT` and `…_PORT_8080_TCP`, with the protocol, host and port of its value."""
    if not _ADDRESS.fullmatch(value):
        return
    try:
        parts = urlsplit(value)
        port, host = parts.port, str(ipaddress.ip_address(parts.hostname or ""))
    except ValueError:
        return
    address = (parts.scheme, host, port or 0)
    if name.endswith("_PORT"):
        yield name.removesuffix("_PORT"), address
    match = _PORT_OF_SERVICE.fullmatch(name)
    if match and (match["protocol"].lower(), int(match["port"])) == (parts.scheme, port):
        yield match["service"], address


def _belongs(name: str, value: str, service: str, addresses: list[tuple[str, str, int]]) -> bool:
    """Whether a variable is one of those beside the addresses of a Service."""
    prefix, _, rest = name.partition(f"{service}_")
    if prefix or not rest:
        return False
    if rest == "SERVICE_HOST":
        return _host(value) in {host for _, host, _ in addresses}
    if rest == "SERVICE_PORT" or rest.startswith("SERVICE_PORT_"):
        return value in {str(port) for _, _, port in addresses}
    for protocol, host, port in addresses:
        start = f"PORT_{port}_{protocol.upper()}_"
        if rest == f"{start}ADDR":
            return _host(value) == host
        if rest in (f"{start}PROTO", f"{start}PORT"):
            return value == (protocol if rest.endswith("PROTO") else str(port))
    return False


def _host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return ""
