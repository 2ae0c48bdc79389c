"""Moves files that were read, unless they have changed since."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.files.places import LOADED, MOVING
from lakehouse_analytics.arrivals.files.versions import FileVersion, with_metadata

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: For how long the signature of a request is valid.
_VALID = timedelta(minutes=5)
#: Seconds after which a request is given up.
_TIMEOUT = 60


class MoveError(Exception):
    """A file cannot be moved."""


def move_file(store: ObjectStore, file: FileVersion, folder: str) -> None:
    """Move a file to a folder below the root of the store, if it still has the same version.

    Args:
        store: Where the file is.
        file: The version that was read.
        folder: The folder.

    Raises:
        MoveError: The file cannot be moved.
    """
    import obstore
    from obstore.store import LocalStore

    move = _rename if isinstance(store, LocalStore) else _copy_and_delete
    try:
        if _current_tag(store, file) is not None:
            move(store, file, f"{folder}/{file.path}")
    except FileNotFoundError:
        return  # moved by an earlier attempt, or deleted
    except obstore.exceptions.BaseError as error:
        raise MoveError(str(error)) from None


def _current_tag(store: ObjectStore, file: FileVersion) -> str | None:
    """Return the entity tag of a file, or an empty text if the server has none; None if it is another version."""
    import obstore

    meta = obstore.head(store, file.location)
    return (meta["e_tag"] or "") if with_metadata(meta, file).version == file.version else None


def _rename(store: ObjectStore, file: FileVersion, target: str) -> None:
    """Move a file on a disk. Put it back if it was overwritten after its version was compared.

    If this is killed, the file is in the folder `MOVING`. See `put_back`.
    """
    import obstore

    moving = f"{MOVING}/{file.path}"
    obstore.rename(store, file.location, moving)
    if with_metadata(obstore.head(store, moving), file).version == file.version:
        obstore.rename(store, moving, target)
    else:
        put_back(store, file.path)


def put_back(store: ObjectStore, path: str) -> None:
    """Put a file on a disk back that was being moved.

    Args:
        store: Where the file is.
        path: Its place below the root of the store, from which it was moved.
    """
    import obstore

    moving = f"{MOVING}/{path}"
    with suppress(FileNotFoundError):  # another load has put it back
        try:
            obstore.rename(store, moving, path, overwrite=False)
        except obstore.exceptions.AlreadyExistsError:
            # Overwritten once more: the newest version is in its place.
            obstore.rename(store, moving, f"{LOADED}/{path}")


def _copy_and_delete(store: ObjectStore, file: FileVersion, target: str) -> None:
    """Move an object on S3, which cannot rename. It is deleted only if it is still the version that was read.

    Amazon S3 and Ceph compare the entity tag when they delete. Servers that ignore `If-Match` also delete a version
    that was written since the comparison, which is why it is the last request before.
    """
    import obstore

    obstore.copy(store, file.location, target)
    tag = _current_tag(store, file)
    if tag:
        _delete(store, file.location, tag)
    elif tag is not None:
        obstore.delete(store, file.location)


def _delete(store: ObjectStore, path: str, tag: str) -> None:
    """Delete an object if it has an entity tag. obstore has no such request, but signs it."""
    import obstore

    url = obstore.sign(store, "DELETE", path, _VALID)  # type: ignore[call-overload]
    request = urllib.request.Request(url, method="DELETE", headers={"If-Match": tag})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        match error.code:
            case HTTPStatus.NOT_FOUND | HTTPStatus.PRECONDITION_FAILED | HTTPStatus.CONFLICT:
                return  # deleted or overwritten in the meantime
            case HTTPStatus.NOT_IMPLEMENTED:
                obstore.delete(store, path)
            case _:
                # Not the address, which has a signature.
                raise MoveError(f"DELETE is answered with {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise MoveError(f"DELETE failed: {type(reason).__name__}: {reason}") from None
