"""What is recorded of a build of a table, in the metadata of its materialization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The key of the metadata.
KEY = "lakehouse/reuse"
#: Changed when the meaning of the parts changes: states of another version do not count.
_VERSION = 1


@dataclass(frozen=True)
class BuildState:
    """The state in which a table was built.

    Attributes:
        code: The hashes of the parts of its code; see `Code.fingerprint`.
        inputs: The versions of its inputs before it was built, by unique id.
        output: The version of the table after it was built.
        run: The id of the run.
        obstacle: Why the table must be built again although nothing has changed; empty if it need not be.
        contents: A hash of the contents after it was built, if it is compared by them; otherwise empty.
    """

    code: Mapping[str, str]
    inputs: Mapping[str, str]
    output: str
    run: str
    obstacle: str = ""
    contents: str = ""
    version: int = field(default=_VERSION)

    def as_json(self) -> dict[str, Any]:
        """Return the state as metadata."""
        return asdict(self)

    @classmethod
    def read(cls, value: object) -> BuildState | None:
        """Return the state of a metadata value; None if there is none of this version."""
        if not isinstance(value, Mapping) or value.get("version") != _VERSION:
            return None
        try:
            return cls(**value)
        except TypeError:
            return None
