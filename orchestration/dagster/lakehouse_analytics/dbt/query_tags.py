"""Tags and comments of queries, by which every query can be traced back to its run.

Pure: no Dagster. `dbt/macros/query_comment.sql` and `dbt/profiles.yml` read these variables.
"""

from __future__ import annotations

from dataclasses import dataclass

#: dbt parses the whole project again if a variable of its profile changes, unless it considers the variable a secret
#: (https://docs.getdbt.com/docs/build/environment-variables). It masks the values of secrets in its log, so each value
#: is a complete tag instead of the plain id.
_TAG = "DBT_ENV_SECRET_LAKEHOUSE_"


@dataclass(frozen=True)
class Provenance:
    """The run to which a query belongs.

    Attributes:
        run_id: The run's id.
        job: The name of its job.
        partition: Its partition. Empty if the job is not partitioned.
    """

    run_id: str
    job: str
    partition: str = ""

    @property
    def client_tags(self) -> tuple[str, ...]:
        """The client tags of every query in Trino."""
        tags = {"run": self.run_id, "job": self.job, "partition": self.partition}
        return tuple(f"{name}:{value}" for name, value in tags.items() if value)

    def environment(self) -> dict[str, str]:
        """Return the environment variables for dbt."""
        return {
            "LAKEHOUSE_RUN_ID": self.run_id,
            "LAKEHOUSE_JOB": self.job,
            "LAKEHOUSE_PARTITION": self.partition,
            f"{_TAG}RUN_TAG": f"run:{self.run_id}",
            f"{_TAG}JOB_TAG": f"job:{self.job}",
            # The list of tags in dbt's profile has a fixed length.
            f"{_TAG}PARTITION_TAG": f"partition:{self.partition}" if self.partition else "unpartitioned",
        }
