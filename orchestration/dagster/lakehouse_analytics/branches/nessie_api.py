"""Commits and contents of one reference of Nessie, by its own API.

A commit of Nessie changes any number of keys or none, and is refused if one of them has changed since the commit that
the request names. Sources: https://projectnessie.org/develop/rest/ (version 2 of the API) and the configuration that
Nessie returns to clients of Iceberg REST.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from lakehouse_analytics.branches.catalog import BranchError, Name
from lakehouse_analytics.iceberg.catalog import open_catalog, reason

if TYPE_CHECKING:
    from requests import Response

#: A table, a view or a namespace, as Nessie stores it.
Content = Mapping[str, Any]
TABLE, VIEW, NAMESPACE = "ICEBERG_TABLE", "ICEBERG_VIEW", "NAMESPACE"
#: Seconds to wait for an answer.
TIMEOUT = 60.0
_PAGE = 500
#: Commits that one request for the history reads.
HISTORY_PART = 5000
_IS_NESSIE = "nessie.is-nessie-catalog"


class ChangedError(BranchError):
    """Nothing was committed, because one of the keys has changed since the expected commit."""


class MissingError(BranchError):
    """There is no such reference or commit."""


def is_nessie(properties: Mapping[str, Any]) -> bool:
    """Return whether the properties of a REST catalog are those of Nessie."""
    return str(properties.get(_IS_NESSIE, "")).lower() == "true"


def key_of(name: Name | str) -> tuple[str, ...]:
    """Return the key of a table or view, or of a schema."""
    return (name,) if isinstance(name, str) else (name.schema, name.table)


def put(name: Name | str, content: Content) -> dict[str, Any]:
    """Return the operation that sets the content of a key."""
    return {"type": "PUT", "key": {"elements": key_of(name)}, "content": content}


def delete(name: Name | str) -> dict[str, Any]:
    """Return the operation that removes a key."""
    return {"type": "DELETE", "key": {"elements": key_of(name)}}


def literal(text: str) -> str:
    """Return a text as Nessie's filter language writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Nessie:
    """One reference of Nessie: the one that the address of the REST catalog names.

    Attributes:
        name: The name of the catalog in pyiceberg's configuration.
        properties: The properties of the catalog.
        reference: The reference.
    """

    def __init__(self, catalog: str) -> None:
        """
        Args:
            catalog: The name of the catalog.

        Raises:
            CatalogError: The catalog cannot be opened.
            BranchError: The address of Nessie's API is not known, or has no TLS although the catalog has.
        """
        opened: Any = open_catalog(catalog)
        self.name, self.properties = catalog, dict(opened.properties)
        # pyiceberg's session has the authentication and the certificates of the catalog's configuration.
        self._catalog, self._session = opened, opened._session
        base = str(self.properties.get("nessie.core-base-uri") or "").rstrip("/")
        if not base:
            raise BranchError(f"The catalog {catalog} does not say where Nessie's API is (nessie.core-base-uri).")
        if base.startswith("http:") and str(self.properties.get("uri", "")).startswith("https:"):
            raise BranchError(
                f"Nessie says that its API is at {base}, without TLS, and the token of the catalog {catalog} is not "
                "sent there. Behind a proxy, let Nessie use its forwarding headers "
                "(quarkus.http.proxy.proxy-address-forwarding), or set the property nessie.core-base-uri."
            )
        self._api = f"{base}/v2"
        default = str(self.properties.get("nessie.default-branch.name", "main"))
        prefix = unquote(str(self.properties.get("prefix", "")))
        self.reference = prefix.partition("|")[0].partition("@")[0] or default
        self._config_url = opened.url("config", prefixed=False)
        self._views_url = opened.url("namespaces/{schema}/views", schema="{schema}")

    def warehouse(self) -> str:
        """Return the address of the folder in which Nessie creates the folders of schemas."""
        name = self.properties.get("warehouse")
        answer = self._call("GET", self._config_url, params={"warehouse": name} if name else None)
        return str(answer.get("defaults", {}).get("warehouse", "")).rstrip("/")

    def head(self, reference: str | None = None) -> str | None:
        """Return the newest commit of a reference; None if there is no such reference."""
        path = f"{self._api}/trees/{quote(reference or self.reference, safe='')}"
        answer = self._call("GET", path, missing_ok=True)
        return str(answer["reference"]["hash"]) if answer else None

    def current(self) -> str:
        """Return the newest commit.

        Raises:
            BranchError: The reference does not exist.
        """
        if (head := self.head()) is None:
            raise BranchError(f"Nessie has no branch {self.reference}: check the address of the catalog {self.name}.")
        return head

    def contents(self, names: Iterable[Name | str], at: str, reference: str | None = None) -> dict[Name | str, Content]:
        """Return the contents of keys at a commit. Keys that do not exist are missing."""
        wanted = {key_of(name): name for name in names}
        found: dict[Name | str, Content] = {}
        keys = [*wanted]
        for start in range(0, len(keys), _PAGE):
            answer = self._call(
                "POST",
                f"{self._tree(at, reference)}/contents",
                json={"requestedKeys": [{"elements": key} for key in keys[start : start + _PAGE]]},
            )
            found |= {wanted[tuple(one["key"]["elements"])]: one["content"] for one in answer["contents"]}
        return found

    def entries(
        self, at: str, condition: str = "true", reference: str | None = None
    ) -> Iterator[tuple[tuple[str, ...], Content]]:
        """Yield the keys and contents at a commit.

        Args:
            at: The commit.
            condition: A condition of Nessie's filter language, such as `entry.contentType == 'NAMESPACE'`.
            reference: The reference, if it is not that of the catalog.
        """
        params: dict[str, Any] = {"content": "true", "filter": condition, "max-records": _PAGE}
        while True:
            answer = self._call("GET", f"{self._tree(at, reference)}/entries", params=params)
            for entry in answer["entries"]:
                yield tuple(entry["name"]["elements"]), entry["content"]
            if not answer.get("hasMore"):
                return
            params["page-token"] = answer["token"]

    def log(
        self, condition: str, *, operations: bool = False
    ) -> Iterator[tuple[Sequence[Mapping[str, Any]], datetime | None]]:
        """Yield the commits that meet a condition, the newest first, part by part.

        Nessie reads every commit for a condition. So that no request lasts for minutes after months of commits, each
        one is for a part of the history, and the caller need not read all parts.

        Args:
            condition: A condition of Nessie's filter language.
            operations: Whether to return the operations of each commit.

        Yields:
            The commits of a part, and the time of the commit before it; None if there is none.
        """
        at: str | None = self.current()
        while at:
            found: list[Mapping[str, Any]] = []
            params: dict[str, Any] = {"filter": condition, "max-records": _PAGE}
            params["fetch"] = "ALL" if operations else "MINIMAL"
            params["limit-hash"] = f"{at}~{HISTORY_PART - 1}"
            while True:
                answer = self._call("GET", f"{self._tree(at)}/history", params=params)
                found += answer["logEntries"]
                if not answer.get("hasMore"):
                    break
                params["page-token"] = answer["token"]
            before = self._call("GET", f"{self._tree(f'{at}~{HISTORY_PART}')}/history", params={"max-records": 1})
            at, when = None, None
            for entry in before["logEntries"]:
                at, when = entry["commitMeta"]["hash"], datetime.fromisoformat(entry["commitMeta"]["commitTime"])
            yield found, when

    def operations(self, commit: str) -> Sequence[Mapping[str, Any]]:
        """Return the operations of a commit."""
        params = {"fetch": "ALL", "max-records": 1}
        [entry] = self._call("GET", f"{self._tree(commit)}/history", params=params)["logEntries"]
        return list(entry["operations"])

    def commit(
        self,
        operations: Sequence[Mapping[str, Any]],
        expected: str,
        message: str,
        *,
        properties: Mapping[str, str] | None = None,
        reference: str | None = None,
    ) -> None:
        """Change keys, all of them or none.

        Args:
            operations: See `put` and `delete`.
            expected: The commit since which no other writer has changed these keys.
            message: The message of the commit.
            properties: Its properties.
            reference: The reference, if it is not that of the catalog.

        Raises:
            ChangedError: One of the keys has changed.
            BranchError: Nessie has refused the commit, or cannot be reached.
        """
        meta = {"message": message, "properties": dict(properties or {})}
        path = f"{self._tree(expected, reference)}/history/commit"
        self._call("POST", path, json={"commitMeta": meta, "operations": [*operations]})

    def create_view(self, name: Name, metadata: Mapping[str, Any]) -> None:
        """Create a view by Iceberg's REST API: from a metadata file, Nessie 0.99 would not read the SQL.

        Args:
            name: The name of the view.
            metadata: The metadata of a view, of which this one gets the current version.
        """
        versions = {version["version-id"]: version for version in metadata["versions"]}
        current = versions[metadata["current-version-id"]]
        schemas = {schema["schema-id"]: schema for schema in metadata["schemas"]}
        own = {key: value for key, value in metadata.get("properties", {}).items() if not key.startswith("nessie.")}
        view = {
            "name": name.table,
            "schema": schemas[current["schema-id"]],
            "view-version": {**current, "version-id": 1},
            "properties": own,
        }
        self._call("POST", self._views_url.replace("{schema}", quote(name.schema, safe="")), json=view)

    def create_reference(self, reference: str, at: str | None = None) -> str | None:
        """Create a branch of Nessie, and return its first commit; None if it exists already.

        Args:
            reference: Its name.
            at: The commit that it begins with; None for an empty one.
        """
        if at is None:
            at = str(self._call("GET", f"{self._api}/config")["noAncestorHash"])
        source = {"type": "BRANCH", "name": self.reference, "hash": at}
        try:
            self._call("POST", f"{self._api}/trees", params={"name": reference, "type": "BRANCH"}, json=source)
        except ChangedError:
            return None
        return at

    def delete_reference(self, reference: str, expected: str) -> None:
        """Delete a reference if its newest commit is the expected one."""
        with suppress(ChangedError):
            self._call("DELETE", self._tree(expected, reference), params={"type": "BRANCH"}, missing_ok=True)

    def _tree(self, at: str, reference: str | None = None) -> str:
        return f"{self._api}/trees/{quote(reference or self.reference, safe='')}@{at}"

    def _call(self, method: str, url: str, *, missing_ok: bool = False, **options: Any) -> Any:
        from requests import RequestException

        try:
            response: Response = self._session.request(method, url, timeout=TIMEOUT, **options)
            if response.status_code in (401, 419):  # the token has expired, which pyiceberg sees in its own requests
                self._catalog._refresh_token()
                response = self._session.request(method, url, timeout=TIMEOUT, **options)
            if response.ok:
                return response.json() if response.content else {}
            failure = _failure(response)
        except (RequestException, ValueError) as error:
            raise BranchError(f"Nessie cannot be used: {reason(self.name, error)}.") from None
        if response.status_code == 404:
            if missing_ok:
                return {}
            raise MissingError(f"Nessie has refused a request: {failure}")
        if response.status_code == 409:
            raise ChangedError(f"Nessie has refused a commit: {failure}")
        raise BranchError(f"Nessie has refused a request ({response.status_code}): {failure}")


def _failure(response: Response) -> str:
    try:
        message = str(response.json().get("message") or response.reason)
    except ValueError:
        message = str(response.reason)
    return message.strip().rstrip(".") + "."
