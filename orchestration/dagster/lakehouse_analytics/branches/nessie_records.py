"""What a branch of Nessie's catalog is, as recorded in the properties of its schemas.

Each schema of a branch has the properties of the branch, and one for each table that the branch may change. So the
record of a branch changes in the same commits as its tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Self, cast

from lakehouse_analytics.branches.catalog import Branch, Name, branch_schema
from lakehouse_analytics.branches.nessie_api import NAMESPACE, Content

_OF = "lakehouse.branch."
_TABLE = f"{_OF}table."
#: The property that has the name of the branch.
NAME = f"{_OF}name"


@dataclass(frozen=True)
class TableRecord:
    """A table that a branch may change.

    Attributes:
        base: The metadata of the table when it became a part of the branch; None if there was no such table.
        copy: The metadata with which the branch began; None if it began without the table.
        passed: Whether it passed its gates in the last run; None if no run has built it.
    """

    base: str | None
    copy: str | None = None
    passed: bool | None = None


@dataclass(frozen=True)
class SchemaRecord:
    """A schema of a branch.

    Attributes:
        branch, kind, created, expires: Those of the branch.
        reference: The reference of Nessie in which the branch is.
        schema: The schema that it belongs to.
        location: The folder of its tables.
        dropped: Whether the branch is being dropped.
        tables: Its tables by name.
        published: The folders of tables that were published, which are never deleted with the branch.
        content_id: The id of the schema in Nessie; None for a new one.
    """

    branch: str
    kind: Literal["run", "branch"]
    created: datetime
    expires: datetime | None
    reference: str
    schema: str
    location: str
    dropped: bool = False
    tables: Mapping[str, TableRecord] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    content_id: str | None = None

    @property
    def on_branch(self) -> str:
        """The name of the schema."""
        return branch_schema(self.schema, self.branch)

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """Return the record in a schema's properties; None if the schema is not of a branch."""
        properties: Mapping[str, str] = content.get("properties") or {}
        if NAME not in properties:
            return None
        expires = properties.get(f"{_OF}expires")
        return cls(
            branch=properties[NAME],
            kind=cast(Literal["run", "branch"], properties[f"{_OF}kind"]),
            created=datetime.fromisoformat(properties[f"{_OF}created"]),
            expires=datetime.fromisoformat(expires) if expires else None,
            reference=properties[f"{_OF}reference"],
            schema=properties[f"{_OF}schema"],
            location=properties["location"].rstrip("/"),
            dropped=f"{_OF}dropped" in properties,
            tables={
                key.removeprefix(_TABLE): TableRecord(**json.loads(value))
                for key, value in properties.items()
                if key.startswith(_TABLE)
            },
            published=tuple(json.loads(properties.get(f"{_OF}published", "[]"))),
            content_id=content.get("id"),
        )

    def content(self) -> dict[str, Any]:
        """Return the schema as Nessie stores it."""
        properties = {
            NAME: self.branch,
            f"{_OF}kind": self.kind,
            f"{_OF}created": self.created.isoformat(),
            f"{_OF}reference": self.reference,
            f"{_OF}schema": self.schema,
            "location": self.location,
            **({f"{_OF}expires": self.expires.isoformat()} if self.expires else {}),
            **({f"{_OF}dropped": "true"} if self.dropped else {}),
            **({f"{_OF}published": json.dumps(self.published)} if self.published else {}),
        }
        for name, table in self.tables.items():
            properties[f"{_TABLE}{name}"] = json.dumps({"base": table.base, "copy": table.copy, "passed": table.passed})
        content = {"type": NAMESPACE, "elements": [self.on_branch], "properties": properties}
        return {**content, "id": self.content_id} if self.content_id else content

    def with_tables(self, tables: Mapping[str, TableRecord]) -> Self:
        """Return the schema with other tables."""
        return replace(self, tables=dict(tables))


@dataclass(frozen=True)
class Record:
    """A branch.

    Attributes:
        schemas: Its schemas, by the schema that each belongs to.
    """

    schemas: Mapping[str, SchemaRecord]

    @property
    def tables(self) -> dict[Name, TableRecord]:
        """The tables of the branch, by their names outside of it."""
        return {
            Name(schema, table): record
            for schema, of in sorted(self.schemas.items())
            for table, record in sorted(of.tables.items())
        }

    @property
    def dropped(self) -> bool:
        """Whether the branch is being dropped."""
        return any(schema.dropped for schema in self.schemas.values())

    def branch(self) -> Branch:
        """Return the branch as callers see it."""
        one = next(iter(self.schemas.values()))
        return Branch(one.branch, one.kind, one.created, one.expires, len(self.tables))
