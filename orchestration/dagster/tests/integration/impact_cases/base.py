"""One change of a dbt project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A change, and what `lakehouse impact` must find.

    Attributes:
        name: What the change does.
        edits: By path, the text to replace and its replacement; None removes the file, and a text replaces all of it.
        reaches: The columns reached besides those that were changed (`model.column`, `model.*` if rows may differ), and
            exposures (`exposure:name`).
        changed: The changes of columns (`model.column:kind`) and of rows (`model.*`), without those that a `*` passes
            on.
        breaks: The changed columns or nodes that break something.
        metrics: The semantic models and metrics reached.
    """

    name: str
    edits: Mapping[str, tuple[str, str] | str | None]
    reaches: str = ""
    changed: str = ""
    breaks: str = ""
    metrics: str = ""
