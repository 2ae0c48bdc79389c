"""What a schema in Nessie says about a branch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.nessie_records import Record, SchemaRecord, TableRecord

_TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
_PATHS = st.none() | st.text(min_size=1).map("s3://lake/{}".format)
_TABLES = st.dictionaries(
    st.text(min_size=1), st.builds(TableRecord, _PATHS, _PATHS, st.none() | st.booleans()), max_size=5
)
_SCHEMAS = st.builds(
    SchemaRecord,
    branch=st.just("pr_42"),
    kind=st.sampled_from(["run", "branch"]),
    created=_TIMES,
    expires=st.none() | _TIMES,
    schema=st.text("abc_", min_size=1),
    location=st.just("s3://lake/silver__pr_42"),
    dropped=st.booleans(),
    tables=_TABLES,
    published=st.lists(st.text()).map(tuple),
    content_id=st.none() | st.uuids().map(str),
)


@given(_SCHEMAS)
def test_a_record_is_read_as_it_was_written(schema: SchemaRecord) -> None:
    content = schema.content()
    assert SchemaRecord.of(content) == schema
    assert all(isinstance(value, str) for value in content["properties"].values())
    assert content["elements"] == [f"{schema.schema}__pr_42"]


def test_a_branch_has_the_tables_of_all_its_schemas() -> None:
    now = datetime.now(UTC)
    of = {"branch": "b", "kind": "branch", "created": now, "expires": now + timedelta(days=7), "location": ""}
    of["reference"] = "main"
    tables = {"orders": TableRecord("m1", "m2"), "customers": TableRecord(None)}
    silver = SchemaRecord(schema="silver", tables=tables, **of)  # type: ignore[arg-type]
    gold = SchemaRecord(schema="gold", tables={"totals": TableRecord(None)}, dropped=True, **of)  # type: ignore[arg-type]
    record = Record({"silver": silver, "gold": gold})
    assert [*record.tables] == [Name("gold", "totals"), Name("silver", "customers"), Name("silver", "orders")]
    assert (record.branch().tables, record.branch().name, record.dropped) == (3, "b", True)
    assert SchemaRecord.of({"type": "NAMESPACE", "elements": ["silver"], "properties": {}}) is None
