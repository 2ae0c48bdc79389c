"""The messages of the Airbyte protocol that a sync uses (Airbyte docs: "Airbyte Protocol").

The published models are not used, because they reject messages with an unknown enum value, while the protocol requires
receivers to ignore what they do not know, and because importing them takes 130 ms.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

#: Namespace and name of a stream.
StreamKey = tuple[str | None, str]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class StreamDescriptor(_Message):
    """Identifies a stream."""

    name: str
    namespace: str | None = None

    @property
    def key(self) -> StreamKey:
        """The descriptor as a dictionary key."""
        return (self.namespace or None, self.name)


class TraceError(_Message):
    """A TRACE message of type ERROR. `message` is meant for the user."""

    message: str = ""
    internal_message: str | None = None
    failure_type: str | None = None
    stream_descriptor: StreamDescriptor | None = None

    def text(self) -> str:
        """Return one line: the message for the user, and the internal one if it differs."""
        message, internal = (" ".join(part.split()) for part in (self.message, self.internal_message or ""))
        if internal and internal not in message:
            message = f"{message}: {internal}" if message else internal
        return message or "no reason given"


class StreamStatus(_Message):
    """A TRACE message of type STREAM_STATUS: STARTED, RUNNING, COMPLETE or INCOMPLETE."""

    stream_descriptor: StreamDescriptor
    status: str


class Stream(_Message):
    """A stream in the connector's catalog."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    namespace: str | None = None
    json_schema: dict[str, Any] = {}
    supported_sync_modes: list[str] | None = None
    source_defined_cursor: bool | None = None
    default_cursor_field: list[str] | None = None
    source_defined_primary_key: list[list[str]] | None = None

    @property
    def key(self) -> StreamKey:
        """The stream as a dictionary key."""
        return (self.namespace or None, self.name)

    @property
    def can_increment(self) -> bool:
        """Whether the connector can continue from a state."""
        return "incremental" in (self.supported_sync_modes or [])


class Catalog(_Message):
    """The response of `discover`."""

    streams: list[Stream]


def state_key(state: dict[str, Any]) -> StreamKey | None:
    """Return the stream of a STATE message; None if it is the state of the whole source (GLOBAL or LEGACY)."""
    if "stream" in state and state.get("type", "STREAM") == "STREAM":
        return StreamDescriptor.model_validate(state["stream"]["stream_descriptor"]).key
    return None


def without_streams(state: dict[str, Any], dropped: set[StreamKey]) -> dict[str, Any]:
    """Return a GLOBAL state without the streams that are read from the start."""
    if state.get("type") != "GLOBAL" or "global" not in state:
        return state
    shared = dict(state["global"])
    shared["stream_states"] = [
        item
        for item in shared.get("stream_states") or []
        if StreamDescriptor.model_validate(item["stream_descriptor"]).key not in dropped
    ]
    return {**state, "global": shared}
