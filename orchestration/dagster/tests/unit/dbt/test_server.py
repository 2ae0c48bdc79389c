"""What the process that runs dbt says of its own accord."""

from __future__ import annotations

import json
import socket
import subprocess
import sys


def test_the_libraries_of_trino_s_adapter_say_nothing_when_they_are_imported() -> None:
    """Of the module keyring, which only log-ins with OAuth2 use, a run has nothing to tell."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "lakehouse_analytics.dbt.server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ours.sendall(json.dumps({"prepare": {"adapter": "trino"}}).encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        said, _ = server.communicate(timeout=120)
    assert server.returncode == 0
    assert said == ""
