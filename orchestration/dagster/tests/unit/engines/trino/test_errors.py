"""What failures of Trino mean. The texts were seen on Trino 476 with dbt-trino 1.11, by breaking a real stack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.engines.base import Reason
from lakehouse_analytics.engines.trino.errors import Kind, classify, classify_dbt

T, P = Kind.TRANSIENT, Kind.PERMANENT
ID = "20261121_123653_00062_j5mwg"
REFUSED = (
    "HTTPSConnectionPool(host='localhost', port=28443): Max retries exceeded with url: {url} (Caused by "
    "NewConnectionError(\"HTTPSConnection(host='localhost', port=28443): Failed to establish a new connection: "
    '[Errno 111] Connection refused"))'
)


def of_model(error: str) -> str:
    return f"Database Error in model m (models/m.sql)\n  {error}\n  compiled code at target/run/probe/models/m.sql"


def query_error(kind: str, name: str, message: str, client: str = "TrinoQueryError") -> str:
    return of_model(f'{client}(type={kind}, name={name}, message="{message}", query_id={ID})')


#: type, name, message as seen → kind, certainly not applied, words of the advice
QUERIES = [
    ("EXTERNAL", "ICEBERG_COMMIT_ERROR", "Failed to commit the transaction during write: Found conflicting files that "
     "can contain records matching true: [s3://lakehouse/lakehouse/scratch/conflict-1ad2/data/x.parquet]",
     T, True, "Another writer"),
    ("INTERNAL_ERROR", "SERVER_STARTING_UP", "Trino server is still initializing", T, True, "starting"),
    # The catalog's database: stopped, killed under a query, and just back.
    ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR", "Cannot check and eventually update SQL schema", T, False, "database"),
    ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR", "Failed to connect: jdbc:postgresql://postgres:5432/iceberg",
     T, False, "database"),
    ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR",
     "Cannot cast org.postgresql.util.PSQLException to java.sql.SQLTransientException", T, False, "database"),
    ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR", "org.postgresql.util.PSQLException: Connection to 127.0.0.1:25432 "
     "refused. Check that the hostname and port are correct and that the postmaster is accepting TCP/IP connections.",
     T, False, "database"),
    ("INTERNAL_ERROR", "GENERIC_INTERNAL_ERROR", "Error listing tables for catalog lakehouse: Failed to execute exists "
     "query: SELECT table_namespace FROM iceberg_tables WHERE catalog_name = ? AND  (table_namespace = ? OR "
     "table_namespace LIKE ? ESCAPE '!') LIMIT 1", T, False, "database"),
    # The object storage: stopped, and killed under a query.
    ("EXTERNAL", "ICEBERG_INVALID_METADATA", "Error accessing metadata file for table scratch.fine",
     T, False, "storage"),
    ("EXTERNAL", "HIVE_WRITER_CLOSE_ERROR", "Error committing write parquet to Hive", T, False, "storage"),
    ("INSUFFICIENT_RESOURCES", "EXCEEDED_LOCAL_MEMORY_LIMIT", "Query exceeded per-node memory limit of 614.40MB "
     "[Allocated: 614.21MB, Delta: 821.42kB, Top Consumers: {PagesToPagesIndexes=482.86MB}]", P, False, "memory"),
    ("INSUFFICIENT_RESOURCES", "EXCEEDED_GLOBAL_MEMORY_LIMIT", "Query exceeded distributed user memory limit of 1MB",
     P, False, "memory"),
    ("INSUFFICIENT_RESOURCES", "EXCEEDED_TIME_LIMIT", "Query exceeded maximum time limit of 1.00s", P, False, "limit"),
    ("INSUFFICIENT_RESOURCES", "EXCEEDED_CPU_LIMIT", "Exceeded CPU limit of 1.00s", P, False, "limit"),
    ("USER_ERROR", "QUERY_HAS_TOO_MANY_STAGES", "Number of stages in the query (4) exceeds the allowed maximum (1).",
     P, False, "split"),
    ("USER_ERROR", "ICEBERG_TOO_MANY_OPEN_PARTITIONS", "Exceeded limit of 100 open writers for partitions: 3732",
     P, False, "windows"),
    ("USER_ERROR", "SYNTAX_ERROR", "line 10:14: mismatched input 'from'. Expecting: '*'", P, False, "SQL"),
    ("USER_ERROR", "DIVISION_BY_ZERO", "Division by zero", P, False, "SQL"),
    ("USER_ERROR", "INVALID_CAST_ARGUMENT", "Cannot cast 'a' to INT", P, False, "SQL"),
    ("USER_ERROR", "TYPE_MISMATCH", "line 10:16: Cannot apply operator: integer + varchar(1)", P, False, "SQL"),
    ("USER_ERROR", "SCHEMA_NOT_FOUND", "line 10:21: Schema 'nowhere' does not exist", P, False, "SQL"),
    ("USER_ERROR", "CATALOG_NOT_FOUND", "line 10:21: Catalog 'nocat' not found", P, True, "LAKEHOUSE_TRINO_CATALOG"),
    ("USER_ERROR", "INVALID_SESSION_PROPERTY", "line 3:28: Session property 'nope' does not exist",
     P, True, "LAKEHOUSE_TRINO_SESSION_PROPERTIES"),
    ("USER_ERROR", "PERMISSION_DENIED", "Access Denied: User lakehouse cannot impersonate user other",
     P, True, "LAKEHOUSE_TRINO_USER"),
    ("USER_ERROR", "PERMISSION_DENIED", "Access Denied: Cannot set system session property query_max_run_time",
     P, True, "LAKEHOUSE_TRINO_SESSION_PROPERTIES"),
    ("USER_ERROR", "PERMISSION_DENIED", "Access Denied: Cannot set catalog session property compression_codec",
     P, True, "LAKEHOUSE_TRINO_SESSION_PROPERTIES"),
    ("INSUFFICIENT_RESOURCES", "QUERY_QUEUE_FULL", 'Too many queued queries for "tiny"',
     T, True, "LAKEHOUSE_DBT_THREADS"),
    ("USER_ERROR", "ADMINISTRATIVELY_KILLED", "Query killed. Message: too big", P, False, "killed the query"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "message", "expected", "unapplied", "advice"), QUERIES)
def test_a_failed_query(kind: str, name: str, message: str, expected: Kind, unapplied: bool, advice: str) -> None:
    failure = classify_dbt(query_error(kind, name, message))
    assert (failure.kind, failure.certainly_not_applied) == (expected, unapplied)
    assert (failure.name, failure.query_id) == (name, ID)
    assert failure.message == " ".join(message.rstrip(".").split())
    assert advice in failure.advice


@pytest.mark.parametrize(
    "name",
    ["SERVER_SHUTTING_DOWN", "NO_NODES_AVAILABLE", "REMOTE_TASK_ERROR", "TOO_MANY_REQUESTS_FAILED", "REMOTE_HOST_GONE",
     "PAGE_TRANSPORT_ERROR", "PAGE_TRANSPORT_TIMEOUT", "CLUSTER_OUT_OF_MEMORY", "GENERIC_INSUFFICIENT_RESOURCES",
     "QUERY_QUEUE_FULL", "ICEBERG_CATALOG_ERROR", "ABANDONED_QUERY", "TRANSACTION_CONFLICT"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["INTERNAL_ERROR", "USER_ERROR", "EXTERNAL", "INSUFFICIENT_RESOURCES"])
def test_names_of_passing_failures_whatever_their_type(name: str, kind: str) -> None:
    assert classify_dbt(query_error(kind, name, "…")).kind is T


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("USER_ERROR", P), ("INTERNAL_ERROR", P), ("INSUFFICIENT_RESOURCES", T), ("EXTERNAL", T), ("NEW_TYPE", P)],
)
def test_a_name_nobody_knows_is_judged_by_its_type(kind: str, expected: Kind) -> None:
    assert classify_dbt(query_error(kind, "INVENTED_IN_TRINO_900", "…")).kind is expected


def test_an_unclear_commit_is_not_taken_for_a_conflict() -> None:
    unclear = "Cannot determine whether the commit was successful or not, the underlying data files may be needed"
    failure = classify_dbt(query_error("EXTERNAL", "ICEBERG_COMMIT_ERROR", unclear))
    assert failure.transient
    assert not failure.certainly_not_applied
    named = f"Failed to commit during write to gold.conflicting_orders: {unclear}"
    assert not classify_dbt(query_error("EXTERNAL", "ICEBERG_COMMIT_ERROR", named)).certainly_not_applied


def test_words_inside_a_message_do_not_decide() -> None:
    inner = "Cannot cast 'name=ICEBERG_COMMIT_ERROR, error 503, Connection refused' to INT"
    assert classify_dbt(query_error("USER_ERROR", "INVALID_CAST_ARGUMENT", inner)).kind is P


#: dbt's text without a query → name, kind, certainly not applied
REQUESTS = [
    (f"failed to execute: {REFUSED.format(url='/v1/statement')}", "CONNECTION_REFUSED", T, True),
    # Killed under a running query: the statement had been taken.
    (f"failed to fetch: {REFUSED.format(url=f'/v1/statement/executing/{ID}/y26/6')}", "CONNECTION_LOST", T, False),
    ("failed to fetch: HTTPConnectionPool(host='h', port=1): Read timed out. (read timeout=30)", "CONNECTION_LOST", T,
     False),
    ("failed to execute: HTTPConnectionPool(host='nowhere.invalid', port=28080): Max retries exceeded with url: "
     "/v1/statement (Caused by NameResolutionError(\"HTTPConnection(host='nowhere.invalid', port=28080): Failed to "
     "resolve 'nowhere.invalid' ([Errno -2] Name or service not known)\"))", "UNKNOWN_HOST", T, True),
    ("error 404: b'Error 404 Not Found: Query not found'", "QUERY_NOT_FOUND", T, False),
    ("error 502: bad gateway", "SERVER_UNAVAILABLE", T, False),
    ("error 503: service unavailable", "SERVER_UNAVAILABLE", T, False),
    ("error 504: gateway timeout", "SERVER_UNAVAILABLE", T, False),
    ("error 401: b'Access Denied: Invalid credentials'", "UNAUTHORIZED", P, True),
    ("error 403: b'Forbidden'", "FORBIDDEN", P, True),
    ("failed to execute: HTTPSConnectionPool(host='localhost', port=28443): Max retries exceeded with url: "
     "/v1/statement (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate "
     "verify failed: unable to get local issuer certificate (_ssl.c:1006)')))", "CERTIFICATE_NOT_TRUSTED", P, True),
    ("Could not find a suitable TLS CA certificate bundle, invalid path: /nowhere/ca.pem", "TLS_FILE", P, True),
    ("failed to execute: HTTPSConnectionPool(host='localhost', port=28080): Max retries exceeded with url: "
     "/v1/statement (Caused by SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number "
     "(_ssl.c:1006)')))", "WRONG_SCHEME", P, True),
    ("failed to execute: ('Connection aborted.', BadStatusLine('\\x15\\x03\\x03\\x00\\x02\\x02P'))".replace("\x15",
     "\\x15"), "WRONG_SCHEME", P, True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "kind", "unapplied"), REQUESTS)
def test_a_request_that_failed(text: str, name: str, kind: Kind, unapplied: bool) -> None:
    for said in (of_model(text), f"Database Error\n  {text}"):
        failure = classify_dbt(said)
        assert (failure.name, failure.kind, failure.certainly_not_applied) == (name, kind, unapplied)
        assert failure.query_id is None
        assert failure.of_server is (name != "QUERY_NOT_FOUND")


@pytest.mark.parametrize(("text", "name", "kind", "unapplied"), REQUESTS)
def test_the_client_s_own_exceptions_are_judged_alike(text: str, name: str, kind: Kind, unapplied: bool) -> None:
    running = classify(RuntimeError(text), ID)
    assert (running.name, running.kind, running.query_id) == (name, kind, ID)
    assert not running.certainly_not_applied
    # Without an id Trino never ran it, whatever became of the request.
    assert classify(RuntimeError(text)).certainly_not_applied


@pytest.mark.parametrize(("kind", "name", "message", "expected", "unapplied", "advice"), QUERIES)
def test_a_query_error_of_the_client_is_judged_as_its_text(
    kind: str, name: str, message: str, expected: Kind, unapplied: bool, advice: str
) -> None:
    from trino.exceptions import TrinoQueryError

    error = TrinoQueryError({"errorType": kind, "errorName": name, "message": message}, ID)
    assert classify(error, ID) == classify_dbt(of_model(str(error)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Compilation Error in model m (models/m.sql)\n  'nope' is undefined",
        "Got 3 results, configured to fail if != 0",
    ],
)
def test_what_is_not_trino_s_is_permanent(text: str) -> None:
    failure = classify_dbt(text)
    assert (failure.name, failure.kind, failure.certainly_not_applied) == ("UNKNOWN", P, False)


def test_a_failure_told_to_a_person_has_the_id_and_what_to_do() -> None:
    failure = classify_dbt(query_error("INSUFFICIENT_RESOURCES", "EXCEEDED_LOCAL_MEMORY_LIMIT", "Query exceeded 1MB"))
    assert str(failure).startswith(f"EXCEEDED_LOCAL_MEMORY_LIMIT: Query exceeded 1MB (query {ID}). The statement needs")


def test_a_message_of_a_book_s_length_is_cut() -> None:
    failure = classify_dbt(query_error("USER_ERROR", "GENERIC_USER_ERROR", "x" * 50_000))
    assert len(str(failure)) < 2000
    assert ID in str(failure)


@given(st.text() | st.builds(query_error, st.text(), st.text(), st.text()))
def test_every_text_is_judged(text: str) -> None:
    failure = classify_dbt(text)
    reason: Reason = failure
    assert reason.transient is (failure.kind is T)
    assert failure.advice
    assert failure.name
    assert "\n" not in str(failure)


@given(
    st.sampled_from(["USER_ERROR", "INTERNAL_ERROR", "EXTERNAL", "INSUFFICIENT_RESOURCES"]),
    st.from_regex(r"[A-Z][A-Z_]{2,30}", fullmatch=True),
    st.text(alphabet=st.characters(exclude_characters='"')),
)
def test_name_and_id_are_read_whatever_the_message(kind: str, name: str, message: str) -> None:
    failure = classify_dbt(query_error(kind, name, message))
    assert (failure.name, failure.query_id) == (name, ID)


@given(st.text())
def test_an_exception_without_words_is_named_by_its_type(text: str) -> None:
    assert classify(TimeoutError()).message == "TimeoutError"
    assert classify(RuntimeError(text)).certainly_not_applied
