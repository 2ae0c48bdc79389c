"""A REST catalog of Nessie, the branches that are recorded in it, and access to its files."""

from __future__ import annotations

from contextlib import AbstractContextManager

from lakehouse_analytics.branches.catalog import BranchError
from lakehouse_analytics.branches.nessie_api import NAMESPACE, Nessie
from lakehouse_analytics.branches.nessie_files import NessieFiles
from lakehouse_analytics.branches.nessie_leases import Lease
from lakehouse_analytics.branches.nessie_records import Record, SchemaRecord


class NessieTables:
    """A REST catalog of Nessie, as far as branches and publications use it."""

    def __init__(self, catalog: str) -> None:
        """
        Args:
            catalog: The name of the catalog in pyiceberg's configuration.

        Raises:
            CatalogError: The catalog cannot be opened.
        """
        self._nessie = Nessie(catalog)
        self._files = NessieFiles(self._nessie.properties)

    def in_use(self, branch: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Mark a branch as being used for as long as the block runs. See `BranchCatalog.in_use`.

        If this process dies, others see the mark for a minute.
        """
        return Lease(self._nessie, branch, shared=shared).marked()

    def _records(self, at: str) -> dict[str, Record]:
        """Return the branches at a commit, by their names.

        A reference of Nessie that was made from this one has copies of the records. They are not branches of it: their
        files are those of the branches here.
        """
        found: dict[str, dict[str, SchemaRecord]] = {}
        for _, content in self._nessie.entries(at, f"entry.contentType == '{NAMESPACE}'"):
            if (schema := SchemaRecord.of(content)) and schema.reference == self._nessie.reference:
                found.setdefault(schema.branch, {})[schema.schema] = schema
        return {branch: Record(schemas) for branch, schemas in found.items()}

    def _record(self, branch: str, at: str) -> Record:
        record = self._records(at).get(branch)
        if record is None or record.dropped:
            raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
        return record
