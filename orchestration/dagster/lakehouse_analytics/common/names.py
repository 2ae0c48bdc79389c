"""Names of assets, groups, checks and metadata entries, in the form that Dagster accepts.

Pure: no Dagster, no dbt. Each function depends on its argument alone, so that a name does not change when another
resource is added to the project.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

#: Checks of ours; dbt's tests must not take their names.
ROW_COUNT = "row_count"
DRIFT = "row_count_drift"
#: Names of a list in a message that holds several lists; see `some`.
FEW = 3
#: Most names by far: they stay as they are.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


def unique_metadata_key(column: str) -> str:
    """`customer_id` → `unique_customers`: distinct values of a key, named by what they count."""
    return "unique_" + plural(re.sub(r"(?<=.)_(id|key|sk|uuid)$", "", column.lower()))


def plural(noun: str) -> str:
    """English plural of a regular noun."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if noun.endswith("sis"):
        return noun[:-2] + "es"
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun + "s"


def key_part(name: str) -> str:
    """A part of an asset key: letters and digits of any script, `_`, `.` and `-`; each other character becomes `_`.

    Asset keys may hold any character. A slash separates the parts in Dagster's UI and selections, and blanks, quotes
    and the like have to be quoted there. Unicode is composed (NFC): file systems differ in how they store an `ä`.
    """
    if _PLAIN.fullmatch(name):
        return name
    return "".join(char if _is_word(char) else "_" for char in unicodedata.normalize("NFC", name))


def _is_word(char: str) -> bool:
    # Marks, too: the vowels of many scripts are marks.
    return char in "_.-" or unicodedata.category(char)[0] in "LMN"


def check_name(name: str) -> str:
    """The name of an asset check: Dagster makes an op's output of it, which holds ASCII letters, digits, `_` and `.`.

    A name with other letters keeps its ASCII form and gets a digest, so that two of them stay apart.
    """
    return _ascii(name, r"[^A-Za-z0-9_.]")


def group_name(name: str) -> str:
    """The Dagster group of a dbt group (https://docs.getdbt.com/reference/resource-configs/group)."""
    return _ascii(name, r"[^A-Za-z0-9_]")


def is_group_name(name: str) -> bool:
    """Whether Dagster accepts a group of this name: segments of ASCII letters, digits and `_`, separated by `/`."""
    return re.fullmatch(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*", name) is not None


def _ascii(name: str, other: str) -> str:
    if name.isascii():
        return re.sub(other, "_", name)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"{re.sub(other, '_', plain)}_{digest(name)}"


def apart(names: Iterable[str], shape: Callable[[str], str]) -> dict[str, str]:
    """The identifier of each name, where no two may have the same.

    Args:
        names: Names that must stay distinct.
        shape: Makes an identifier of a name, such as `group_name`.

    Returns:
        `shape(name)`, with a digest where several names would have it. A name that is an identifier keeps it.
    """
    by_shape: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        by_shape.setdefault(shape(name), []).append(name)
    return {
        name: made if len(same) == 1 or name == made else f"{made}_{digest(name)}"
        for made, same in by_shape.items()
        for name in same
    }


def digest(name: str) -> str:
    """Eight hexadecimal digits that stand for a name."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode()).hexdigest()[:8]


def some(names: Sequence[str], most: int = 5, *, between: str = ", ") -> str:
    """The first of some names, or of other short texts, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def joined(names: Sequence[str], word: str = "and") -> str:
    """`a, b and c`."""
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, noun: str) -> str:
    """`1 table`, `2 tables`."""
    return f"{number} {noun if number == 1 else plural(noun)}"
