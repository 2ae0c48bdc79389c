"""Every way to connect to a real Trino, the message if that fails, and dbt with the same settings."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import jwt
import pytest
import requests
from lakehouse_analytics.engines.trino.client import connect
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.engines.trino.session import TrinoError, TrinoUnavailableError
from lakehouse_analytics.settings import Settings, repository_root

from .stack import stack_environment

pytestmark = [pytest.mark.integration, pytest.mark.trino]

NONSENSE = "/nowhere/nonsense.pem"
#: A minute of work for two cores.
LONG = "select count(*) from tpch.sf1000.lineitem a where a.comment like '%{mark}%'"


class Stack:
    """The local stack, as an environment to change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.variables = stack_environment()
        self.tls = Path(self.variables["LAKEHOUSE_STACK_DIR"]) / "tls"
        self._monkeypatch = monkeypatch
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)

    def trino(self, **variables: str | None) -> TrinoResource:
        """The resource of this environment, changed: `ca_bundle=None` unsets LAKEHOUSE_TRINO_CA_BUNDLE."""
        for name, value in variables.items():
            if value is None:
                self._monkeypatch.delenv(f"LAKEHOUSE_TRINO_{name.upper()}", raising=False)
            else:
                self._monkeypatch.setenv(f"LAKEHOUSE_TRINO_{name.upper()}", value)
        return TrinoResource.of(Settings.load())

    def plain(self, **variables: str | None) -> TrinoResource:
        """Over HTTP, where a name is enough."""
        port = str(self.http[1])
        return self.trino(**{"password": None, "ca_bundle": None, "http_scheme": "http", "port": port, **variables})

    @property
    def http(self) -> tuple[str, int]:
        address = urlsplit(self.variables["LAKEHOUSE_TRINO_UI_URL"])
        return str(address.hostname), int(address.port or 80)

    def token(self, lasts: timedelta = timedelta(hours=12), key: str | None = None) -> str:
        claims = {"sub": self.variables["LAKEHOUSE_TRINO_USER"], "exp": datetime.now(UTC) + lasts}
        return jwt.encode(claims, key or (self.tls / "jwt.key").read_text(), algorithm="RS256")

    def query(self, query_id: str) -> dict[str, Any]:
        """What Trino's UI knows of a query."""
        host, port = self.http
        answer = requests.get(f"http://{host}:{port}/v1/query/{query_id}", headers={"X-Trino-User": "test"}, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Stack:
    return Stack(monkeypatch)


@pytest.fixture
def schema(stack: Stack) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"trino_resource_{uuid.uuid4().hex[:8]}"
    # Over HTTP, so that a test may change how to log in.
    http = {"host": stack.http[0], "port": stack.http[1], "http_scheme": "http", "auth": "none", "ca_bundle": None}
    trino = stack.trino().model_copy(update=http)
    trino.execute(f"create schema {name}")
    yield name
    trino.execute(f"drop schema if exists {name} cascade")


def refused(trino: TrinoResource) -> TrinoUnavailableError:
    """Both ways to ask say the same, at once."""
    with pytest.raises(TrinoUnavailableError) as waiting:
        trino.wait_until_free()
    with pytest.raises(TrinoUnavailableError) as asking:
        trino.fetch_all("select 1")
    assert waiting.value.failure.name == asking.value.failure.name
    assert not asking.value.failure.transient
    return asking.value


def logged(error: BaseException | None) -> str:
    """Return what a log shows of an exception: its text, and that of the exceptions which it does not suppress."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


def test_without_a_log_in_over_http(stack: Stack) -> None:
    trino = stack.plain()
    trino.wait_until_free()
    assert trino.fetch_all("select 1, 'a' union all select 2, null order by 1") == [(1, "a"), (2, None)]


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", None])
def test_with_a_password_and_a_private_authority(
    stack: Stack, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, NONSENSE)
    trino = stack.trino()
    trino.wait_until_free()
    assert trino.fetch_all("select current_user") == [("lakehouse",)]


def test_a_wrong_password_is_one_error_at_once_without_the_password(stack: Stack) -> None:
    error = refused(stack.trino(password="wr0ng-s3cret"))
    assert error.failure.name == "UNAUTHORIZED"
    assert "LAKEHOUSE_TRINO_PASSWORD" in str(error)
    assert "wr0ng-s3cret" not in logged(error)


def test_a_user_that_is_not_who_logs_in_is_told_which_variable(stack: Stack) -> None:
    with pytest.raises(TrinoError, match="LAKEHOUSE_TRINO_USER"):
        stack.trino(password=None, jwt=stack.token(), user="stranger").fetch_all("select 1")


def test_with_a_token(stack: Stack) -> None:
    trino = stack.trino(password=None, jwt=stack.token())
    trino.wait_until_free()
    assert trino.fetch_all("select current_user") == [("lakehouse",)]


def test_a_token_of_another_key_is_refused_by_trino(stack: Stack) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    token = stack.token(key=pem.decode())
    error = refused(stack.trino(password=None, jwt=token))
    assert error.failure.name == "UNAUTHORIZED"
    assert "LAKEHOUSE_TRINO_JWT" in str(error)
    assert token not in logged(error)


@pytest.mark.parametrize("made", ["expired", "s3cret-no-token"])
def test_an_expired_token_and_what_is_no_token_never_reach_trino(stack: Stack, made: str) -> None:
    token = stack.token(-timedelta(minutes=1)) if made == "expired" else made
    error = refused(stack.trino(password=None, jwt=token))
    assert error.failure.name == "LOG_IN"
    assert "LAKEHOUSE_TRINO_JWT" in str(error)
    assert token not in logged(error)


def run(trino: TrinoResource, instance: dg.DagsterInstance, sql: str = "select 1") -> dg.ExecuteInProcessResult:
    @dg.op
    def ask(context: dg.OpExecutionContext, engine: dg.ResourceParam[TrinoResource]) -> str:
        engine.wait_until_free()
        result = engine.execute(sql, ["asset:ga"])
        context.log.info(f"queried {engine}")
        return result.query_id

    @dg.job
    def nightly() -> None:
        ask()

    defs = dg.Definitions(jobs=[nightly], resources={"engine": trino})
    return defs.resolve_job_def("nightly").execute_in_process(instance=instance, raise_on_error=False)


def test_a_run_refuses_a_token_that_ends_before_it_may(stack: Stack) -> None:
    # The same token is good enough for a question outside a run.
    trino = stack.trino(password=None, jwt=stack.token(timedelta(hours=5)))
    assert trino.fetch_all("select 1") == [(1,)]
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(trino, instance)
        [failure] = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
        assert failure
        assert "but a run may last until" in failure.to_string()
        assert run(stack.trino(jwt=stack.token(timedelta(hours=7))), instance).success


def test_a_run_s_queries_carry_its_tags_and_dagster_stores_no_secret(stack: Stack) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    trino = stack.trino()
    secret = os.environ["LAKEHOUSE_TRINO_PASSWORD"]
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(trino, instance)
        assert result.success
        query = stack.query(result.output_for_node("ask"))
        assert query["session"]["source"] == "lakehouse-analytics"
        assert set(query["session"]["clientTags"]) == {f"run:{result.run_id}", "job:nightly", "asset:ga"}
        [row] = trino.fetch_all(f"select source from system.runtime.queries where query_id = '{query['queryId']}'")
        assert row == ("lakehouse-analytics",)
        stored = [serialize_value(entry) for entry in instance.all_logs(result.run_id)]
        stored += [serialize_value(instance.get_run_by_id(result.run_id))]
    repository = dg.Definitions(resources={"engine": trino}).get_repository_def()
    shown = serialize_value(RepositorySnap.from_def(repository))
    assert trino.host in shown  # what is searched does show the resource's fields
    assert any(f"port={trino.port}" in text for text in stored)
    assert not [text for text in [*stored, shown, repr(trino), trino.model_dump_json()] if secret in text]


def test_with_a_client_certificate(stack: Stack) -> None:
    trino = stack.trino(
        password=None, client_certificate=str(stack.tls / "client.pem"), client_key=str(stack.tls / "client.key")
    )
    trino.wait_until_free()
    assert trino.fetch_all("select current_user") == [("lakehouse",)]


def test_a_key_of_another_certificate_names_the_variables(stack: Stack) -> None:
    trino = stack.trino(
        password=None, client_certificate=str(stack.tls / "client.pem"), client_key=str(stack.tls / "jwt.key")
    )
    assert "LAKEHOUSE_TRINO_CLIENT_KEY" in str(refused(trino))


def test_an_untrusted_certificate_names_the_variable(stack: Stack) -> None:
    error = refused(stack.trino(ca_bundle=None))
    assert error.failure.name == "CERTIFICATE_NOT_TRUSTED"
    assert "LAKEHOUSE_TRINO_CA_BUNDLE" in str(error)


def test_a_bundle_that_is_none_names_the_variable(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate\n")
    assert "LAKEHOUSE_TRINO_CA_BUNDLE" in str(refused(stack.trino(ca_bundle=str(tmp_path / "ca.pem"))))


def test_http_where_https_listens_and_the_reverse(stack: Stack) -> None:
    port = str(stack.http[1])
    assert refused(stack.trino(port=port)).failure.name == "WRONG_SCHEME"
    port = stack.variables["LAKEHOUSE_TRINO_PORT"]
    assert refused(stack.plain(port=port)).failure.name == "WRONG_SCHEME"


def test_session_properties_and_the_zone_are_in_force(stack: Stack) -> None:
    trino = stack.trino(session_properties='{"query_max_run_time": "17m"}')
    [value] = [row[1] for row in trino.fetch_all("show session") if row[0] == "query_max_run_time"]
    assert value == "17m"
    assert trino.fetch_all("select current_timezone()") == [("UTC",)]


def test_a_wrong_session_property_names_the_variable(stack: Stack) -> None:
    with pytest.raises(TrinoError, match="LAKEHOUSE_TRINO_SESSION_PROPERTIES"):
        stack.trino(session_properties='{"nope": "1"}').fetch_all("select 1")


def test_a_catalog_that_is_not_there_names_the_variable(stack: Stack) -> None:
    with pytest.raises(TrinoError, match="LAKEHOUSE_TRINO_CATALOG"):
        stack.trino(catalog="nowhere").wait_until_free()


def test_a_failed_query_is_told_with_its_id_and_page(stack: Stack) -> None:
    trino = stack.trino()
    with pytest.raises(TrinoError) as caught:
        trino.fetch_all("select 1 / x from (values 0) t(x)")
    failure = caught.value.failure
    assert failure.name == "DIVISION_BY_ZERO"
    assert failure.query_id
    assert failure.query_id in str(caught.value)
    assert stack.query(failure.query_id)["state"] == "FAILED"
    page = trino.query_url(failure.query_id)
    assert page == f"{stack.variables['LAKEHOUSE_TRINO_UI_URL']}/ui/query.html?{failure.query_id}"
    assert stack.plain(ui_url=None).query_url("x") == f"http://localhost:{stack.http[1]}/ui/query.html?x"


def test_a_statement_that_writes_says_what_it_did(stack: Stack, schema: str) -> None:
    trino = stack.trino()
    trino.execute(f"create table {schema}.t (x int)")
    result = trino.execute(f"insert into {schema}.t values 1, 2")
    assert result.rows == [(2,)]
    assert stack.query(result.query_id)["state"] == "FINISHED"


def test_a_statement_whose_answer_is_lost_is_never_run(stack: Stack, schema: str) -> None:
    """Why a request that got no answer may be sent again, whatever the statement."""
    trino = stack.trino()
    trino.execute(f"create table {schema}.t (x int)")
    host, port = stack.http
    insert = f"insert into {stack.variables['LAKEHOUSE_TRINO_CATALOG']}.{schema}.t values 1"
    headers = {"X-Trino-User": "test"}
    answer = requests.post(f"http://{host}:{port}/v1/statement", insert, headers=headers, timeout=30).json()
    for _ in range(5):
        assert trino.fetch_all(f"select count(*) from {schema}.t") == [(0,)]
        assert trino.fetch_all(f"select 1 from system.runtime.queries where query_id = '{answer['id']}'") == []
    # The statement is valid: it runs as soon as its first page is requested.
    while "nextUri" in answer:
        answer = requests.get(answer["nextUri"], headers=headers, timeout=30).json()
    assert trino.fetch_all(f"select count(*) from {schema}.t") == [(1,)]


class Forwarder(threading.Thread):
    """A way to Trino that opens late, and can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.target, self.closing = target, False
        self.connections: list[socket.socket] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def run(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(0.05)
            while not self.closing:
                with suppress(TimeoutError):
                    near, far = listener.accept()[0], socket.create_connection(self.target)
                    self.connections += [near, far]
                    threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    @staticmethod
    def _pass(near: socket.socket, far: socket.socket) -> None:
        with near, far, suppress(OSError, ValueError):
            while True:
                for side in select.select([near, far], [], [])[0]:
                    data = side.recv(65536)
                    if not data:
                        return
                    (far if side is near else near).sendall(data)

    def cut(self) -> None:
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarder(stack: Stack) -> Iterator[Forwarder]:
    made = Forwarder(stack.http)
    yield made
    made.closing = True
    if made.is_alive():
        made.join()


def test_a_trino_that_comes_late_is_waited_for(stack: Stack) -> None:
    with forwarder(stack) as way:
        trino = stack.plain(host="127.0.0.1", port=str(way.port))
        with pytest.raises(TrinoUnavailableError) as caught:
            trino.model_copy(update={"start_timeout": 0}).wait_until_free()
        assert caught.value.failure.name == "CONNECTION_REFUSED"
        opening = threading.Timer(1.5, way.start)
        opening.start()
        trino.wait_until_free()
        opening.join()
        assert trino.fetch_all("select 1") == [(1,)]


def test_a_trino_that_never_comes_is_named_with_what_was_tried(stack: Stack) -> None:
    with forwarder(stack) as way:
        trino = stack.plain(host="127.0.0.1", port=str(way.port), start_timeout="1")
        with pytest.raises(TrinoUnavailableError) as caught:
            trino.wait_until_free()
    for word in (
        f"http://127.0.0.1:{way.port}",
        "LAKEHOUSE_TRINO_HOST",
        "1 s (LAKEHOUSE_TRINO_START_TIMEOUT)",
        "attempts: ",
    ):
        assert word in str(caught.value)


def states(trino: TrinoResource, mark: str) -> list[str]:
    listed = trino.fetch_all(
        "select state, error_code from system.runtime.queries "
        f"where query like '%{mark}%' and query not like '%runtime%' order by created"
    )
    return [" ".join(filter(None, row)) for row in listed]


def until_running(trino: TrinoResource, mark: str) -> None:
    deadline = time.monotonic() + 60
    while "RUNNING" not in states(trino, mark):
        assert time.monotonic() < deadline, states(trino, mark)
        time.sleep(0.1)


def test_a_query_that_reads_survives_a_cut_connection(stack: Stack) -> None:
    mark = uuid.uuid4().hex
    with forwarder(stack) as way:
        way.start()
        watcher = stack.plain()
        trino = stack.plain(host="127.0.0.1", port=str(way.port))

        def cut() -> None:
            until_running(watcher, mark)
            way.cut()

        cutter = threading.Thread(target=cut)
        cutter.start()
        rows = trino.fetch_all(f"select count(*) from tpch.sf1.lineitem where comment <> '{mark}'")
        cutter.join()
    assert rows == [(6001215,)]


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.settings import Settings
TrinoResource.of(Settings.load()).fetch_all(sys.argv[1])
"""


def test_an_interrupted_process_cancels_its_query(stack: Stack) -> None:
    mark = uuid.uuid4().hex
    trino = stack.trino()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, LONG.format(mark=mark)], stderr=subprocess.PIPE, text=True
    )
    try:
        until_running(trino, mark)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in errors
    assert states(trino, mark) == ["FAILED USER_CANCELED"]


def test_a_connection_carries_no_password_in_its_settings_over_http(stack: Stack) -> None:
    connection = connect(stack.plain().server())
    assert connection.auth is None
    connection.close()


# dbt over the same settings

PROJECT = """
name: one
profile: lakehouse
models: {one: {+materialized: table, +on_table_exists: replace}}
"""
MACRO = "{% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}"


class Dbt:
    """A project of one model, with the repository's profile."""

    def __init__(self, root: Path, schema: str) -> None:
        self.root = root
        for name, text in {
            "dbt_project.yml": PROJECT,
            "macros/generate_schema_name.sql": MACRO,
            "models/answer.sql": f"{{{{ config(schema='{schema}') }}}} select 42 as x",
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def __call__(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(Path(sys.executable).parent / "dbt"), command, "--target", "trino", "--no-use-colors"]
        profiles = {"DBT_PROFILES_DIR": str(repository_root() / "dbt"), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
        return subprocess.run(
            words, cwd=self.root, env={**os.environ, **profiles, **environment}, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip


def run_results(root: Path) -> list[dict[str, Any]]:
    return list(json.loads((root / "target" / "run_results.json").read_text())["results"])


def test_dbt_reaches_trino_with_password_and_private_authority(stack: Stack, schema: str, tmp_path: Path) -> None:
    trino, dbt = stack.trino(), Dbt(tmp_path, schema)
    debug = dbt("debug")
    assert debug.returncode == 0, debug.stdout
    run = dbt("run")
    assert run.returncode == 0, run.stdout
    assert trino.fetch_all(f"select x from {schema}.answer") == [(42,)]

    # A machine's own bundle wins over the profile's `cert`: that is why engines.py hands dbt ours in its place.
    overridden = dbt("run", REQUESTS_CA_BUNDLE=NONSENSE)
    assert overridden.returncode != 0
    assert NONSENSE in overridden.stdout
    ours = dbt("run", REQUESTS_CA_BUNDLE=os.environ["LAKEHOUSE_TRINO_CA_BUNDLE"], CURL_CA_BUNDLE=NONSENSE)
    assert ours.returncode == 0, ours.stdout

    secret = os.environ["LAKEHOUSE_TRINO_PASSWORD"]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [text for text in written if secret.encode() in text]
    assert secret not in debug.stdout + run.stdout


@pytest.mark.parametrize(
    ("way", "principal"), [("jwt", "lakehouse"), ("certificate", "CN=lakehouse"), ("none", "lakehouse")]
)
def test_dbt_logs_in_the_other_ways(stack: Stack, schema: str, tmp_path: Path, way: str, principal: str) -> None:
    if way == "jwt":
        stack.trino(password=None, jwt=stack.token())
    elif way == "certificate":
        pair = {"client_certificate": str(stack.tls / "client.pem"), "client_key": str(stack.tls / "client.key")}
        stack.trino(password=None, **pair)
    else:
        stack.plain()
    run = Dbt(tmp_path, schema)("run")
    assert run.returncode == 0, run.stdout
    [result] = run_results(tmp_path)
    assert stack.query(result["adapter_response"]["query_id"])["session"]["principal"] == principal


def test_dbt_s_failure_is_judged_as_ours(stack: Stack, schema: str, tmp_path: Path) -> None:
    trino, dbt = stack.trino(), Dbt(tmp_path, schema)
    (tmp_path / "models" / "answer.sql").write_text("select 1 / x as y from (values 0) t(x)")
    assert dbt("run").returncode == 1
    [result] = run_results(tmp_path)
    failure = trino.classify_error(result["message"])
    assert (failure.name, failure.transient) == ("DIVISION_BY_ZERO", False)
    assert failure.query_id
    assert stack.query(failure.query_id)["state"] == "FAILED"
