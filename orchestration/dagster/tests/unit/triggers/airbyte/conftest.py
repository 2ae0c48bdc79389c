"""An Airbyte for each test. Its requests and responses are validated against the official OpenAPI document, if any."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import yaml
from lakehouse_analytics.devtools.airbyte_simulator import BASE_PATH, Request, Response, Simulator, refusal
from lakehouse_analytics.devtools.simulated_airbyte import RefusedError, Store
from lakehouse_analytics.settings import repository_root
from openapi_core import Config, OpenAPI
from openapi_core.testing import MockRequest, MockResponse
from werkzeug.datastructures import MultiDict

VARIABLE = "LAKEHOUSE_TEST_AIRBYTE_OPENAPI"
# Read now: no test sees a setting of the shell.
DOCUMENT = Path(os.environ.get(VARIABLE) or repository_root().parent / "shared" / "airbyte" / "openapi.yaml")
#: The real server answers so, and its document says nothing of it.
UNDOCUMENTED = {401, 409}


class Official:
    """Airbyte's OpenAPI document: what of a request or an answer is not as it says."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        # Its ids have a format that no standard names.
        config = Config(extra_format_validators={"UUID": _is_uuid, "uuid": _is_uuid})
        self._paths: Mapping[str, Any] = document["paths"]
        # It demands grant_type and describes grant-type; the real server and the official client mean one field.
        token = document["components"]["schemas"]["ApplicationTokenRequestWithGrant"]["properties"]
        token["grant_type"] = token["grant-type"]
        self._api = OpenAPI.from_dict(dict(document), config=config)
        self._lock = Lock()  # it keeps caches, and requests come in threads

    def wrong_request(self, request: Request, base_path: str) -> list[str]:
        mock = self._mock(request, base_path)
        with self._lock:
            wrong = [_in_words(error) for error in self._api.iter_request_errors(mock)]
        return [f"{request.method} {request.path}: {words}" for words in [*wrong, *self._unknown(request, base_path)]]

    def wrong_answer(self, request: Request, answer: Response, base_path: str) -> list[str]:
        if answer.status in UNDOCUMENTED:
            return []
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        mock = self._mock(request, base_path)
        with self._lock:
            errors = self._api.iter_response_errors(mock, MockResponse(body, answer.status, content_type=answer.kind))
            return [f"{answer.status} to {request.method} {request.path}: {_in_words(error)}" for error in errors]

    def _unknown(self, request: Request, base_path: str) -> list[str]:
        """Parameters that the document does not know: a standard validator lets them through."""
        operation = self._paths.get(request.path.removeprefix(base_path), {}).get(request.method.lower(), {})
        known = {parameter["name"] for parameter in operation.get("parameters", [])}
        return [f"unknown parameter {name}" for name in request.query if name not in known]

    def _mock(self, request: Request, base_path: str) -> MockRequest:
        return MockRequest(
            "http://localhost",
            request.method,
            BASE_PATH + request.path.removeprefix(base_path),
            args=MultiDict({name: [*values] for name, values in request.query.items()}),
            headers=dict(request.headers),
            data=request.body,
            content_type=request.headers.get("content-type", ""),
        )


class CheckedSimulator(Simulator):
    """Collects what is not as the official document says; answers of switched-on faults may be as they like."""

    official: Official | None = None

    def __init__(self, store: Store, **more: Any) -> None:
        super().__init__(store, **more)
        self.violations: list[str] = []

    def answer(self, request: Request) -> Response:
        if self.official:
            self.violations += self.official.wrong_request(request, self.base_path)
        return super().answer(request)

    def _route(self, request: Request) -> Response:
        try:
            answer = super()._route(request)
        except RefusedError as refused:
            answer = refusal(refused)
        if self.official:
            self.violations += self.official.wrong_answer(request, answer, self.base_path)
        return answer


def pytest_report_header() -> str:
    """Heads a run of this folder; a run of everything shows the test that is skipped instead."""
    if DOCUMENT.is_file():
        return f"airbyte: requests and responses are validated against {DOCUMENT}"
    return f"airbyte: no official document at {DOCUMENT} ({VARIABLE}): requests and responses are not validated"


@pytest.fixture(scope="session")
def official() -> Official | None:
    """Return the document; None if it is absent and its path is not set."""
    if not DOCUMENT.is_file() and not os.environ.get(VARIABLE):
        return None
    return Official(yaml.safe_load(DOCUMENT.read_text()))


@pytest.fixture
def airbyte(official: Official | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckedSimulator]:
    """An Airbyte without jobs or connections; `violations` must be empty in the end."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    simulator = CheckedSimulator(Store())
    simulator.official = official
    with simulator.serving():
        yield simulator
    assert not simulator.violations, "\n".join(simulator.violations)


def _is_uuid(text: object) -> bool:
    try:
        return str(uuid.UUID(str(text))) == str(text).lower()
    except ValueError:
        return False


def _in_words(error: BaseException) -> str:
    causes = [f"{error.__class__.__name__} {error}", *(str(e) for e in getattr(error.__cause__, "schema_errors", ()))]
    return "; ".join(causes)
