"""The messages of the Airbyte protocol that a sync uses (Airbyte docs: "Airbyte Protocol").

Own types, not the published models: those refuse a message with any unknown enum value, where the protocol asks
receivers to pass over what they do not know, and cost 130 ms at import.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

#: (namespace, name) of a stream.
StreamKey = tuple[str | None, str]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class StreamDescriptor(_Message):
    """Names a stream."""

    name: str
    namespace: str | None = None

    @property
    def key(self) -> StreamKey:
        """As a dictionary key."""
        return (self.namespace or None, self.name)


class TraceError(_Message):
    """TRACE/ERROR: what the connector says went wrong. `message` is meant for the user."""

    message: str = ""
    internal_message: str | None = None
    failure_type: str | None = None
    stream_descriptor: StreamDescriptor | None = None

    def text(self) -> str:
        """One line: the user's message, and the internal one where it says more."""
        message, internal = (" ".join(part.split()) for part in (self.message, self.internal_message or ""))
        if internal and internal not in message:
            message = f"{message}: {internal}" if message else internal
        return message or "no reason given"


class StreamStatus(_Message):
    """TRACE/STREAM_STATUS: STARTED, RUNNING, COMPLETE or INCOMPLETE."""

    stream_descriptor: StreamDescriptor
    status: str


class Stream(_Message):
    """A stream as the connector's catalog describes it."""

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
        """As a dictionary key."""
        return (self.namespace or None, self.name)

    @property
    def can_increment(self) -> bool:
        """Whether the connector can read on from a state."""
        return "incremental" in (self.supported_sync_modes or [])


class Catalog(_Message):
    """What `discover` answers."""

    streams: list[Stream]


def state_key(state: dict[str, Any]) -> StreamKey | None:
    """The stream a STATE message belongs to; None when it is for the whole source (GLOBAL or LEGACY)."""
    if "stream" in state and state.get("type", "STREAM") == "STREAM":
        return StreamDescriptor.model_validate(state["stream"]["stream_descriptor"]).key
    return None


def without_streams(state: dict[str, Any], dropped: set[StreamKey]) -> dict[str, Any]:
    """A GLOBAL state less the streams that are to be read from the start."""
    if state.get("type") != "GLOBAL" or "global" not in state:
        return state
    shared = dict(state["global"])
    shared["stream_states"] = [
        item
        for item in shared.get("stream_states") or []
        if StreamDescriptor.model_validate(item["stream_descriptor"]).key not in dropped
    ]
    return {**state, "global": shared}
