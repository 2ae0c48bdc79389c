"""What a rollback makes of a table's metadata."""

from __future__ import annotations

from typing import Any

from lakehouse_analytics.branches.restoration import is_rewritten, restored


def schema(number: int, *names: str) -> dict[str, Any]:
    fields = [{"id": n, "name": name, "type": "long", "required": False} for n, name in enumerate(names, 1)]
    return {"type": "struct", "schema-id": number, "fields": fields}


def snapshot(number: int, parent: int | None, operation: str) -> dict[str, Any]:
    return {"snapshot-id": number, "parent-snapshot-id": parent, "summary": {"operation": operation}}


def metadata(*snapshots: dict[str, Any], **more: Any) -> dict[str, Any]:
    current = snapshots[-1]["snapshot-id"]
    return {
        "table-uuid": "1",
        "location": "s3://lake/orders",
        "current-schema-id": 0,
        "schemas": [schema(0, "id")],
        "current-snapshot-id": current,
        "snapshots": [*snapshots],
        "refs": {"main": {"snapshot-id": current, "type": "branch"}},
        "last-updated-ms": 5,
        **more,
    }


FIRST, PUBLISHED, COMPACTED = snapshot(1, None, "append"), snapshot(2, 1, "append"), snapshot(3, 2, "replace")


def test_only_compaction_is_no_change() -> None:
    published = metadata(FIRST, PUBLISHED)
    assert is_rewritten(metadata(FIRST, PUBLISHED, COMPACTED), published)
    assert is_rewritten(metadata(PUBLISHED, COMPACTED), published)
    assert not is_rewritten(metadata(FIRST, PUBLISHED, snapshot(3, 2, "overwrite")), published)
    assert not is_rewritten(metadata(FIRST, PUBLISHED, COMPACTED, **{"table-uuid": "2"}), published)
    assert not is_rewritten(metadata(FIRST, snapshot(4, 1, "append"), snapshot(5, 4, "replace")), published)


def test_a_table_is_no_version_of_a_view() -> None:
    assert not is_rewritten(metadata(FIRST), {"view-uuid": "1", "location": "s3://lake/orders"})


def test_a_schema_that_another_writer_has_written_or_removed_is_restored() -> None:
    previous = metadata(FIRST, schemas=[{**schema(0, "id"), "identifier-field-ids": []}])
    now = metadata(FIRST, PUBLISHED, schemas=[schema(0, "id"), schema(1, "id", "name")], **{"current-schema-id": 1})
    found = restored(now, previous, location="s3://lake/orders/metadata/2.json", now_ms=9)
    assert found
    assert (found["current-schema-id"], found["schemas"]) == (0, now["schemas"])
    without = {**now, "schemas": [schema(1, "id", "name")]}
    found = restored(without, previous, location="s3://lake/orders/metadata/2.json", now_ms=9)
    assert found
    assert {one["schema-id"] for one in found["schemas"]} == {0, 1}
    other = {**now, "schemas": [schema(0, "key")]}
    assert restored(other, previous, location="s3://lake/orders/metadata/2.json", now_ms=9) is None


def test_metadata_without_references_gets_one_that_keeps_its_snapshot() -> None:
    previous = {key: value for key, value in metadata(FIRST).items() if key != "refs"}
    found = restored(metadata(FIRST, PUBLISHED), previous, location="s3://lake/orders/metadata/2.json", now_ms=9)
    assert found
    assert found["refs"] == {"main": {"snapshot-id": 1, "type": "branch"}}
    assert found["snapshot-log"][-1] == {"timestamp-ms": 9, "snapshot-id": 1}
    assert found["metadata-log"] == [{"timestamp-ms": 5, "metadata-file": "s3://lake/orders/metadata/2.json"}]
