"""Deletes files of tables.

pyarrow, which pyiceberg reads and writes files with, writes an empty object in place of the folder after each deletion
on S3. Nothing removes these objects. Some servers then do not show what else is in the folder, for a second (rclone,
the local stack's S3 server) or permanently. Here, S3 gets the deletion only.
"""

from __future__ import annotations

import json
import ssl
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

_S3 = {"s3", "s3a", "s3n"}
#: Configuration of pyiceberg with which it is left to pyarrow to sign requests.
_OTHER_KEYS = {"s3.role-arn", "client.role-arn", "s3.anonymous", "s3.signer", "s3.proxy-uri"}
_one_client = threading.Lock()


def delete_file(io: FileIO, location: str) -> None:
    """Delete a file. A file that does not exist is no error.

    Args:
        io: The table's access to files, which has the configuration of the storage.
        location: The address of the file, or its path on this machine.

    Raises:
        Exception: The storage refused it; the type depends on the storage.
    """
    scheme, found, path = location.partition("://")
    if found and scheme in _S3 and type(io).__name__ == "PyArrowFileIO" and not _OTHER_KEYS & io.properties.keys():
        bucket, _, key = path.partition("/")
        properties = json.dumps({name: str(value) for name, value in sorted(io.properties.items())})
        with _one_client:  # which all threads may use
            client = _client(properties, bucket)
        client.delete_object(Bucket=bucket, Key=key)
        return
    try:
        io.delete(location)
    except FileNotFoundError:
        return
    except OSError:  # perhaps of pyarrow's object in place of the folder
        if io.new_input(location).exists():
            raise


@lru_cache(maxsize=8)
def _client(properties: str, bucket: str) -> Any:
    """Return a client for a bucket with the configuration that pyiceberg gives to pyarrow.

    Source: https://py.iceberg.apache.org/configuration/#s3
    """
    import boto3
    from botocore.config import Config
    from pyiceberg.io.pyarrow import PyArrowFileIO

    configured: dict[str, str] = json.loads(properties)

    def first(name: str) -> str | None:
        return configured.get(f"s3.{name}") or configured.get(f"client.{name}") or None

    endpoint = configured.get("s3.endpoint") or None
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    virtual = endpoint is None or configured.get("s3.force-virtual-addressing", "").lower() == "true"
    waits = {
        f"{name}_timeout": float(configured[f"s3.{known}-timeout"])
        for name, known in (("connect", "connect"), ("read", "request"))
        if f"s3.{known}-timeout" in configured
    }
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        # pyarrow's client has found out where the bucket is, if that is not configured.
        region_name=first("region") or PyArrowFileIO(configured).fs_by_scheme("s3", bucket).region,
        aws_access_key_id=first("access-key-id"),
        aws_secret_access_key=first("secret-access-key"),
        aws_session_token=first("session-token"),
        # The certificates of the system, and no address or proxy of the environment, as pyarrow.
        verify=ssl.get_default_verify_paths().cafile or True,
        config=Config(
            s3={"addressing_style": "virtual" if virtual else "path"},
            ignore_configured_endpoint_urls=True,
            proxies={},
            max_pool_connections=16,
            **waits,
        ),
    )
