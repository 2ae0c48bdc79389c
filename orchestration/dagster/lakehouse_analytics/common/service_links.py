"""Removes environment variables that Kubernetes adds for the Services of a namespace, and that look like settings.

For a Service `lakehouse-trino`, every pod with `enableServiceLinks` (the default) gets the variable
`LAKEHOUSE_TRINO_PORT=tcp://10.96.0.7:8080`, which is also the name of a setting. Names and values are those of
Kubernetes' `pkg/kubelet/envvars/envvars.go`; "Environment variables" of
https://kubernetes.io/docs/concepts/services-networking/service describes them.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping
from urllib.parse import urlsplit

#: Prefixes of the variables that this program and its child processes read. Other links are kept:
#: `KUBERNETES_SERVICE_HOST` is the address of the API server, and a user's asset may use them to find its Service.
PREFIXES = ("LAKEHOUSE_", "PYICEBERG_", "DBT_")
_PROTOCOLS = ("tcp", "udp", "sctp")
_ADDRESS = re.compile(rf"({'|'.join(_PROTOCOLS)})://\S+:\d+")
_PORT_OF_SERVICE = re.compile(rf"(?P<service>.+)_PORT_(?P<port>\d+)_(?P<protocol>{'|'.join(_PROTOCOLS).upper()})")


def service_links(environment: Mapping[str, str]) -> frozenset[str]:
    """Return the names with one of `PREFIXES` that Kubernetes added for a Service.

    A variable counts only if its value is also the one that Kubernetes sets: an address for `…_PORT` and, for the other
    names, a value that fits an address of the same Service. So a setting with such a name and its own value is never
    included (in Kubernetes, a pod's explicit variables take precedence).

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
    """Remove the variables that `service_links` returns.

    Args:
        environment: The variables, such as `os.environ`; changed in place.
    """
    for name in service_links(environment):
        del environment[name]


def _addresses(name: str, value: str) -> Iterator[tuple[str, tuple[str, str, int]]]:
    """Yield the Service of `…_PORT` and `…_PORT_8080_TCP`, with protocol, host and port of the value."""
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
    """Return whether a variable accompanies the addresses of a Service."""
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
