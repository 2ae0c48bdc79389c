"""Explains why a RECORD message is not valid JSON, using a more tolerant parser."""

from __future__ import annotations

import json
import math
from typing import Any

from lakehouse_analytics.ingest.errors import BrokenRecordError
from lakehouse_analytics.ingest.json_values import lone_surrogate, printable


def broken_record(line: bytes) -> BrokenRecordError | None:
    """Return the error for a record's data. Returns None if the line is not a record, or cannot be parsed at all.

    Python's own parser accepts `NaN`, numbers beyond a double and lone surrogates, none of which is valid in JSON (RFC
    8259) or UTF-8.
    """
    try:
        message = json.loads(line)
        record = message["record"] if message["type"] == "RECORD" else None
        stream, data = (record["stream"], record["data"]) if record else (None, None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(stream, str):
        return None
    found = _reason(data, "")
    return BrokenRecordError(printable(stream), found) if found else None


def _reason(value: Any, field: str) -> str | None:
    match value:
        case dict():
            inside = ((name, item) for name, item in value.items())
            for name, item in inside:
                below = f"{field}.{printable(name)}" if field else printable(name)
                if lone_surrogate(name) is not None:
                    return f"field {below!r}: its name has a lone surrogate, which is not valid text"
                if reason := _reason(item, below):
                    return reason
        case list():
            for index, item in enumerate(value):
                if reason := _reason(item, f"{field}.{index}"):
                    return reason
        case float() if not math.isfinite(value):
            return f"field {field!r}: its value is not a finite number, which is not valid in JSON"
        case str() if (place := lone_surrogate(value)) is not None:
            return f"field {field!r}: character {place + 1} is a lone surrogate, which is not valid text"
    return None
