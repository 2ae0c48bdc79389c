"""Formats durations for messages."""

from __future__ import annotations

from datetime import timedelta

#: Units of the contract and the settings, and their seconds.
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def rounded(time: timedelta | float) -> str:
    """Return a duration in its two largest units, such as `75 s`, `11 min`, `2 h 5 min` or `7 days`.

    Args:
        time: The duration, or its seconds. It may be negative.
    """
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    whole = round(abs(seconds))
    sign = "-" if seconds < 0 and whole else ""
    if whole < 120:
        return f"{sign}{whole} s"
    if whole < 7_200:
        return f"{sign}{whole // 60} min"
    if whole < 172_800:
        return sign + _joined(f"{whole // 3_600} h", whole // 60 % 60, "min")
    return sign + _joined(f"{whole // 86_400} days", whole // 3_600 % 24, "h")


def _joined(first: str, number: int, unit: str) -> str:
    return f"{first} {number} {unit}" if number else first


def exact(time: timedelta) -> str:
    """Return a duration as in contracts and settings, in the largest unit that divides it: `7d`, `36h` or `90s`."""
    seconds = time.total_seconds()
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{int(seconds) if seconds.is_integer() else seconds}s"
