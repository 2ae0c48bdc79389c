"""Names of assets, groups, checks and metadata entries, in the form that Dagster accepts.

Pure functions: no Dagster, no dbt. Each result depends only on the argument, so that a name does not change when
another resource is added to the project.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

#: Names of our own checks, which dbt's tests must not have.
ROW_COUNT = "row_count"
DRIFT = "row_count_drift"
#: Number of names to list in a message with several lists; see `some`.
FEW = 3
#: Matches most names, which are used unchanged.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


def unique_metadata_key(column: str) -> str:
    """Return the metadata key for a column's number of distinct values: `customer_id` becomes `unique_customers`."""
    return "unique_" + plural(re.sub(r"(?<=.)_(id|key|sk|uuid)$", "", column.lower()))


def plural(noun: str) -> str:
    """Return the English plural of a regular noun."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if noun.endswith("sis"):
        return noun[:-2] + "es"
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun + "s"


def key_part(name: str) -> str:
    """Return a part of an asset key: letters and digits of any script, `_`, `.` and `-`, and `_` for other characters.

    Asset keys may contain any characters. But a slash separates the parts in Dagster's UI and selections, where blanks,
    quotes and the like must be quoted. Unicode is composed (NFC), because file systems differ in how they store an `ä`.
    """
    if _PLAIN.fullmatch(name):
        return name
    return "".join(char if _is_word(char) else "_" for char in unicodedata.normalize("NFC", name))


def _is_word(char: str) -> bool:
    # Includes marks, because they are the vowels of many scripts.
    return char in "_.-" or unicodedata.category(char)[0] in "LMN"


def check_name(name: str) -> str:
    """Return the name of an asset check.

    Dagster uses it as the name of an op's output, which may have ASCII letters, digits, `_` and `.`. A name with other
    letters is converted to ASCII and gets a digest, so that two of them remain distinct.
    """
    return _ascii(name, r"[^A-Za-z0-9_.]")


def group_name(name: str) -> str:
    """Return the Dagster group of a dbt group (https://docs.getdbt.com/reference/resource-configs/group)."""
    return _ascii(name, r"[^A-Za-z0-9_]")


def is_group_name(name: str) -> bool:
    """Return whether Dagster accepts a name for a group: segments of ASCII letters, digits and `_`, joined by `/`."""
    return re.fullmatch(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*", name) is not None


def _ascii(name: str, other: str) -> str:
    if name.isascii():
        return re.sub(other, "_", name)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"{re.sub(other, '_', plain)}_{digest(name)}"


def apart(names: Iterable[str], shape: Callable[[str], str]) -> dict[str, str]:
    """Return a distinct identifier for each name.

    Args:
        names: Names that must remain distinct.
        shape: Converts a name to an identifier, such as `group_name`.

    Returns:
        `shape(name)`, with a digest if several names have the same. A name that is an identifier is unchanged.
    """
    by_shape: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        by_shape.setdefault(shape(name), []).append(name)
    return {
        name: identifier if len(same) == 1 or name == identifier else f"{identifier}_{digest(name)}"
        for identifier, same in by_shape.items()
        for name in same
    }


def digest(name: str) -> str:
    """Return eight hexadecimal digits that represent a name."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode()).hexdigest()[:8]


def some(names: Sequence[str], most: int = 5, *, between: str = ", ") -> str:
    """Join the first names of a list, followed by the number of further ones. Also used for other short texts."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def joined(names: Sequence[str], word: str = "and") -> str:
    """Join names as in `a, b and c`."""
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 table` or `2 tables`."""
    return f"{number} {noun if number == 1 else plural(noun)}"
