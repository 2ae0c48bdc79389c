"""Marks branches of Nessie's catalog as being used. Nessie has no sessions, so a mark expires unless it is renewed.

The marks of a branch are in a reference of Nessie of their own, which exists as long as there are any, so that the
history of the tables does not have them. Safety does not depend on them: a publication that comes too late is refused,
because a commit that drops the branch has changed the same keys.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from lakehouse_analytics.branches.catalog import BranchBusyError, BranchError
from lakehouse_analytics.branches.nessie_api import NAMESPACE, ChangedError, MissingError, Nessie, put

#: After this time without a renewal, a branch counts as unused.
EXPIRY = timedelta(seconds=60)
#: Seconds between renewals.
RENEWAL = 15.0
_ATTEMPTS = 20
_KEY = "marks"
_SHARED, _EXCLUSIVE = "shared", "exclusive"


class Lease:
    """The mark of one user of a branch."""

    def __init__(self, nessie: Nessie, branch: str, *, shared: bool) -> None:
        """
        Args:
            nessie: Nessie.
            branch: The branch.
            shared: Whether others may use the branch at the same time, if they share it, too.
        """
        self._nessie, self._branch, self._kind = nessie, branch, _SHARED if shared else _EXCLUSIVE
        self._reference = f"lakehouse-lock-{nessie.reference}-{branch}"
        self._token = uuid.uuid4().hex
        self._done = threading.Event()

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Have the mark for as long as the block runs.

        Raises:
            BranchBusyError: Another process is using the branch.
        """
        self._change(self._acquired)
        renewal = threading.Thread(target=self._renew, name="branch-lease", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            self._done.set()
            renewal.join()
            with suppress(BranchError):  # the mark then expires
                self._change(self._released)

    def _renew(self) -> None:
        while not self._done.wait(RENEWAL):
            with suppress(BranchError):  # the next renewal may succeed
                self._change(self._renewed)

    def _change(self, changed: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace the marks of the branch, unless another process does the same at the same time."""
        for _ in range(_ATTEMPTS):
            head = self._nessie.head(self._reference) or self._nessie.create_reference(self._reference)
            if head is None:
                continue  # created by another process in the meantime
            with suppress(ChangedError, MissingError):
                content = self._nessie.contents([_KEY], head, self._reference).get(_KEY, {})
                marks = changed(_unexpired(content.get("properties") or {}))
                if not marks:
                    return self._nessie.delete_reference(self._reference, head)
                new = {"type": NAMESPACE, "elements": [_KEY], "properties": marks}
                new |= {"id": content["id"]} if content else {}
                return self._nessie.commit([put(_KEY, new)], head, "lakehouse: marks", reference=self._reference)
        raise BranchBusyError(f"The branch {self._branch} is being used by many processes. Try again later.")

    def _acquired(self, marks: Mapping[str, str]) -> dict[str, str]:
        if marks and (self._kind == _EXCLUSIVE or any(mark.startswith(_EXCLUSIVE) for mark in marks.values())):
            raise BranchBusyError(
                f"The branch {self._branch} is in use by a run or another command. Try again later: "
                f"after a crash, in {EXPIRY.seconds} s."
            )
        return self._with_own(marks)

    def _renewed(self, marks: Mapping[str, str]) -> dict[str, str]:
        # A mark that has expired may have been replaced by that of another process, and is not set again.
        return self._with_own(marks) if self._token in marks or not marks else dict(marks)

    def _released(self, marks: Mapping[str, str]) -> dict[str, str]:
        return {token: mark for token, mark in marks.items() if token != self._token}

    def _with_own(self, marks: Mapping[str, str]) -> dict[str, str]:
        return {**marks, self._token: f"{self._kind} {(datetime.now(UTC) + EXPIRY).isoformat()}"}


def _unexpired(marks: Mapping[str, str]) -> dict[str, str]:
    now = datetime.now(UTC)
    return {token: mark for token, mark in marks.items() if datetime.fromisoformat(mark.split()[-1]) > now}
