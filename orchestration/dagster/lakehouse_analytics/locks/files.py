"""Table locks as file locks in DAGSTER_HOME, for an instance on one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from lakehouse_analytics.locks import Busy, Granted, Owner

FOLDER = "table_locks"
_LONGEST = 150


class FileLocks:
    """The backend that locks one file per table with `flock`. The system releases the lock when the process ends.

    The file contains the owner until the lock is released: an unlocked file that contains an owner means that this
    owner died. While an owner waits, it locks a second file, one per table and owner. The file of a table is never
    removed, because two processes could then lock an old and a new file of the same name.
    """

    def __init__(self, root: str, owner: Owner) -> None:
        self.folder, self.owner = Path(root) / FOLDER, owner
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mutex = threading.Lock()
        self._tables: dict[str, int] = {}
        self._lines: dict[str, int] = {}

    def acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:  # noqa: ARG002
        """Try to lock a table without waiting. See `Backend`."""
        with self._mutex:
            file = _open(self._file(table))
            if not _try_lock(file):
                owner = _read(file)
                os.close(file)
                if waits:
                    self._wait_in_line(table)
                return Busy(owner)
            if not waits and (waiting := self._waiting(table)):
                os.close(file)
                return Busy(waiting)
            before = _read(file)
            _write(file, f"{self.owner.run_id}\n{self.owner.step_key}\n")
            self._tables[table] = file
            return Granted(before if before not in (Owner(), self.owner) else None)

    def release(self, table: str) -> None:
        """Release a table and leave the line for it. See `Backend`."""
        with self._mutex:
            if (file := self._tables.pop(table, None)) is not None:
                _write(file, "")
                # A process forked in the meantime has the file open, too, so closing ours would not release the lock.
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)
            if (file := self._lines.pop(table, None)) is not None:
                self._line(table).unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)

    def why_lost(self, table: str) -> str | None:  # noqa: ARG002
        """Return None: a running process cannot lose the lock of a file. See `Backend`."""
        return None

    def close(self) -> None:
        """Release all locks. See `Backend`."""
        for table in {*self._tables, *self._lines}:
            self.release(table)

    def _file(self, table: str) -> Path:
        name = quote(table, safe="")
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}-{hashlib.sha256(table.encode()).hexdigest()[:16]}"
        return self.folder / f"{name}.lock"

    def _line(self, table: str) -> Path:
        me = quote(f"{self.owner.run_id}.{self.owner.step_key}", safe="")
        return self._file(table).with_suffix(f".waiting.{me}")

    def _wait_in_line(self, table: str) -> None:
        if table not in self._lines:
            file = _open(self._line(table))
            _try_lock(file)
            _write(file, f"{self.owner.run_id}\n{self.owner.step_key}\n")
            self._lines[table] = file

    def _waiting(self, table: str) -> Owner | None:
        """Return an owner that waits for a table, and remove the files of owners that died."""
        of_table = self._file(table).stem + ".waiting."
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(of_table):
                continue
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # it no longer waits
                continue
            try:
                if not _try_lock(file):
                    return _read(file)
                path.unlink(missing_ok=True)
            finally:
                os.close(file)
        return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Owner:
    run_id, _, step_key = os.pread(file, 1000, 0).decode(errors="replace").strip().partition("\n")
    return Owner(run_id, step_key)


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
