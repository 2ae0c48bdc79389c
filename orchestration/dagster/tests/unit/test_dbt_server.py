"""What the processes that run dbt say of their own accord."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [("dbt_server", ["trino"], None), ("dbt.server", [], {"prepare": {"adapter": "trino"}})],
)
def test_the_libraries_of_trino_s_adapter_say_nothing_when_they_are_imported(
    module: str, arguments: list[str], message: dict[str, object] | None
) -> None:
    """Of the module keyring, which only log-ins with OAuth2 use, a run has nothing to tell."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", f"lakehouse_analytics.{module}", str(theirs.fileno()), *arguments],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if message:
            ours.sendall(json.dumps(message).encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        said, _ = server.communicate(timeout=120)
    assert server.returncode == 0
    assert said == ""
