"""The errors of this project as messages of a command."""

from __future__ import annotations

import click


class plain_errors:  # noqa: N801  # used like a function
    """Context manager that prints this project's own errors as one message, without a traceback."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise click's exception instead of an own error."""
        from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
        from lakehouse_analytics.branches.catalog import BranchError
        from lakehouse_analytics.cli.example import ExampleError
        from lakehouse_analytics.contract.models import ContractError
        from lakehouse_analytics.dbt.profile import ProfileError
        from lakehouse_analytics.dbt.project import ManifestError
        from lakehouse_analytics.diff.errors import DiffError
        from lakehouse_analytics.engines.base import DatabaseError
        from lakehouse_analytics.impact.compiled import ImpactError
        from lakehouse_analytics.ingest import IngestError
        from lakehouse_analytics.instance.home import HomeError
        from lakehouse_analytics.settings import SettingsError

        ours = (
            ArrivalError,
            BranchError,
            ExampleError,
            ContractError,
            DiffError,
            ManifestError,
            HomeError,
            ImpactError,
            IngestError,
            ProfileError,
            DatabaseError,
            SettingsError,
        )
        if isinstance(error, ours):
            raise click.ClickException(str(error)) from None
