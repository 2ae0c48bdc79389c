"""Names of checks and of metadata entries, and what Dagster takes for a name."""

from __future__ import annotations

import re

#: Checks of ours; dbt's tests must not take their names.
ROW_COUNT = "row_count"
DRIFT = "row_count_drift"


def unique_metadata_key(column: str) -> str:
    """`customer_id` → `unique_customers`: distinct values of a key, named by what they count."""
    return "unique_" + plural(re.sub(r"(?<=.)_(id|key|sk|uuid)$", "", column.lower()))


def plural(noun: str) -> str:
    """English plural of a regular noun."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun + "s"


def key_part(name: str) -> str:
    """A part of an asset key: Dagster makes Python names of keys and stumbles over blanks and the like."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def check_name(name: str) -> str:
    """The name of an asset check."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)


def counted(number: int, noun: str) -> str:
    """`1 table`, `2 tables`."""
    return f"{number} {noun if number == 1 else plural(noun)}"
