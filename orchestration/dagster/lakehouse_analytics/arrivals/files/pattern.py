"""The pattern of a source's files: which paths belong to it, and the date in each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property, lru_cache

from lakehouse_analytics.arrivals.files.places import LOADED, MOVING, QUARANTINE

_SPECIAL = re.compile(r"\*\*/?|\*|\{date(?::(?P<format>[^{}]*))?\}")
#: Regular expressions of the directives of `strptime` that are numbers of fixed length.
_DIRECTIVES = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}"}
_MOVED = (f"{LOADED}/", f"{QUARANTINE}/", f"{MOVING}/")
DEFAULT_DATE_FORMAT = "%Y-%m-%d"


@dataclass(frozen=True)
class FilePattern:
    """The pattern of `arrives.files`.

    Attributes:
        text: The pattern as it is written, such as `s3://landing/dam/{date:%Y-%m-%d}_*.csv`.
    """

    text: str

    @cached_property
    def root(self) -> str:
        """The folder, or the address of the prefix, that contains all files. It has no trailing slash."""
        match = _SPECIAL.search(self.text)
        literal = self.text[: match.start()] if match else self.text
        return literal.rpartition("/")[0]

    @cached_property
    def _below(self) -> str:
        return self.text[len(self.root) :].removeprefix("/")

    @cached_property
    def date_format(self) -> str | None:
        """The format of the date in the path, as for `strptime`; None if the pattern has none."""
        found = [match for match in _SPECIAL.finditer(self.text) if match[0].startswith("{")]
        return (found[0]["format"] or DEFAULT_DATE_FORMAT) if found else None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts, end = [], 0
        for match in _SPECIAL.finditer(self._below):
            parts.append(re.escape(self._below[end : match.start()]))
            parts.append(_regex_of(match))
            end = match.end()
        parts.append(re.escape(self._below[end:]))
        return re.compile("".join(parts))

    def matches(self, path: str) -> bool:
        """Return whether a path below `root` belongs to the pattern. The folders of loaded and of bad files do not."""
        return not path.startswith(_MOVED) and self._regex.fullmatch(path) is not None

    def date_of(self, path: str) -> date | None:
        """Return the date in a path that matches; None if the pattern has no date, or the path no valid one."""
        match = self._regex.fullmatch(path)
        return None if match is None or self.date_format is None else _date(match["date"], self.date_format)


@lru_cache(maxsize=10_000)  # many files have the same date
def _date(text: str, date_format: str) -> date | None:
    try:
        return datetime.strptime(text, date_format).date()  # a day, not a moment
    except ValueError:
        return None


def _regex_of(match: re.Match[str]) -> str:
    if match[0].startswith("**"):
        return "(?:.*/)?" if match[0].endswith("/") else ".*"
    if match[0] == "*":
        return "[^/]*"
    tokens = re.split(r"(%.)", match["format"] or DEFAULT_DATE_FORMAT)
    return f"(?P<date>{''.join(_DIRECTIVES.get(token) or re.escape(token) for token in tokens)})"
