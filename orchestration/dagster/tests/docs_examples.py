"""The examples of a page of docs/, as the page has them."""

from __future__ import annotations

import re

from lakehouse_analytics.settings import repository_root


def blocks(page: str, language: str = "") -> list[str]:
    """The blocks of code of a page in a language; those without one are commands."""
    text = (repository_root() / "docs" / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for name, block in found if name == language]


def block(page: str, start: str, language: str = "") -> str:
    """The one block that begins so."""
    [found] = [one for one in blocks(page, language) if one.startswith(start)]
    return found


def with_serve(text: str) -> str:
    """dbt/models/gold/models.yml with the line that docs/exports.md adds to the contract of `revenue_daily`."""
    line = "distinct: [make]\n"
    assert text.count(line) == 1
    return text.replace(line, line + block("exports.md", " ", "yaml"))
