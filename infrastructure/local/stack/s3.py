"""The S3 server: rclone over a folder of this machine."""

import os
import sys
from http.client import HTTPConnection
from pathlib import Path

from stack.files import private_folder
from stack.layout import Layout
from stack.process import Server
from stack.settings import HOST, Settings

BUCKET = "lakehouse"
REGION = "us-east-1"


def warehouse(catalog: str) -> str:
    """Where a catalog keeps its tables."""
    return f"s3://{BUCKET}/{catalog}"


def server(layout: Layout) -> Server:
    """The process."""
    return Server("s3", layout.run / "s3.pid", layout.log("s3"), str(layout.s3))


def start(layout: Layout, settings: Settings) -> None:
    """Start the server; a bucket is a folder.

    `--no-cleanup` leaves empty folders: removing them would race with a writer that is about to put a file there.
    """
    private_folder(layout.s3 / BUCKET)
    command = [
        str(Path(sys.executable).parent / "rclone"), "serve", "s3", "--addr", f"{HOST}:{settings.s3_port}",
        "--force-path-style", "--no-cleanup", "--log-level", "NOTICE",
        # When pyarrow deletes a file it puts an object `folder/`, and rclone hides the folder as long as it caches it.
        "--dir-cache-time", "1s", str(layout.s3),
    ]  # fmt: skip
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(layout.state),
        "RCLONE_CONFIG": "",  # in memory: never the user's own
        # Not as an argument: everybody on the machine can read those. Quoted: rclone reads the variable as CSV.
        "RCLONE_AUTH_KEY": f'"{settings.s3_access_key},{settings.s3_secret_key}"',
    }
    server(layout).start(command, environment, layout.s3)


def ready(settings: Settings) -> bool:
    """Whether it answers, and refuses a request without a signature: rclone serves everybody when it has no keys."""
    connection = HTTPConnection(HOST, settings.s3_port, timeout=5)
    try:
        connection.request("GET", f"/{BUCKET}")
        return connection.getresponse().status in (400, 403)
    except OSError:
        return False
    finally:
        connection.close()
