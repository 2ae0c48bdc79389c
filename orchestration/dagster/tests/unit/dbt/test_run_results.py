"""What is read of dbt's results."""

from __future__ import annotations

from lakehouse_analytics.dbt.run_results import NodeResult


def test_a_message_does_not_name_a_file_that_is_gone_when_the_run_ends() -> None:
    """dbt adds the path to every error of a database, as of Trino, in its temporary target folder."""
    said = (
        "Database Error in model sa (models/silver/sa.sql)\n  TrinoUserError(name=COLUMN_NOT_FOUND)\n"
        "  compiled code at /tmp/dbt-x/run/small/models/silver/sa.sql"
    )
    result = {"unique_id": "model.small.sa", "status": "error", "message": said}
    assert NodeResult.read(result).message == (
        "Database Error in model sa (models/silver/sa.sql)\n  TrinoUserError(name=COLUMN_NOT_FOUND)"
    )
