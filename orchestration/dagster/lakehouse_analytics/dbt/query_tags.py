"""Tags and comments of queries: what dbt knows of the run, so that every query can be traced back to it.

Pure: no Dagster. `dbt/macros/query_comment.sql` and `dbt/profiles.yml` read these variables.
"""

from __future__ import annotations

from dataclasses import dataclass

#: dbt parses the whole project again when a variable of its profile changes, but for those it takes for secrets
#: (https://docs.getdbt.com/docs/build/environment-variables). It stars out their values in its log; so the values
#: are tags as a whole, never the bare id.
_TAG = "DBT_ENV_SECRET_LAKEHOUSE_"


@dataclass(frozen=True)
class Provenance:
    """One run. `partition` is empty where the job has none."""

    run_id: str
    job: str
    partition: str = ""

    @property
    def client_tags(self) -> tuple[str, ...]:
        """Tags of every query in Trino."""
        tags = {"run": self.run_id, "job": self.job, "partition": self.partition}
        return tuple(f"{name}:{value}" for name, value in tags.items() if value)

    def environment(self) -> dict[str, str]:
        """Variables for dbt."""
        return {
            "LAKEHOUSE_RUN_ID": self.run_id,
            "LAKEHOUSE_JOB": self.job,
            "LAKEHOUSE_PARTITION": self.partition,
            f"{_TAG}RUN_TAG": f"run:{self.run_id}",
            f"{_TAG}JOB_TAG": f"job:{self.job}",
            # A tag cannot be left out of dbt's profile.
            f"{_TAG}PARTITION_TAG": f"partition:{self.partition}" if self.partition else "unpartitioned",
        }
