"""Names of metadata entries."""

from __future__ import annotations

import re


def unique_metadata_key(column: str) -> str:
    """`customer_id` → `unique_customers`: distinct values of a key, named by what they count."""
    return "unique_" + plural(re.sub(r"_(id|key|sk|uuid)$", "", column.lower()))


def plural(noun: str) -> str:
    """English plural of a regular noun."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun + "s"
