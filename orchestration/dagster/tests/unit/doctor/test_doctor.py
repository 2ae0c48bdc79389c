"""`lakehouse doctor`: in which order it asks, what becomes of probes that fail or hang, and that it keeps secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics import doctor
from lakehouse_analytics.cli import main
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.doctor import clock, data, fixes, instance, limits, project, warehouse
from lakehouse_analytics.doctor import trino as doctor_of_trino
from lakehouse_analytics.doctor.probe import (
    FailedError,
    Finding,
    Location,
    Probe,
    ProbeContext,
    Status,
    failed,
    fine,
    skipped,
    unchecked,
)
from lakehouse_analytics.doctor.probe import Result as DoctorResult
from lakehouse_analytics.doctor.probes import NAMES, PROBES, RENAMED
from lakehouse_analytics.doctor.report import exit_code, summary
from lakehouse_analytics.doctor.run import Run
from lakehouse_analytics.doctor.secrets import mask
from lakehouse_analytics.maintenance.policy import MaintainedTable, Policy
from lakehouse_analytics.settings import Settings, repository_root

Ask = Callable[[ProbeContext], Finding]


@pytest.fixture(autouse=True)
def _no_end_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that hangs by mistake must not take pytest with it."""

    def end(code: int) -> None:
        pytest.fail(f"the process would have ended with {code}: a probe hangs")

    monkeypatch.setattr(os, "_exit", end)


def well(known: ProbeContext) -> Finding:
    return fine("well")


def ill(known: ProbeContext) -> Finding:
    return failed("ill", "rest")


def raising(error: Exception) -> Ask:
    def ask(known: ProbeContext) -> Finding:
        raise error

    return ask


def examine(*probes: Probe, timeout: float = 5.0, skip: tuple[str, ...] = ()) -> dict[str, tuple[str, str, str]]:
    """Return status, message and fix by name, in the order of the report."""
    run = Run(probes, ProbeContext(timeout, frozenset(skip)), mask())
    return {result.name: (result.status.value, result.message, result.fix) for result in run.results()}


@pytest.fixture
def hanging() -> Iterator[Ask]:
    """A probe that waits for the end of the test."""
    end = threading.Event()

    def ask(known: ProbeContext) -> Finding:
        end.wait(60)
        return fine("too late")

    yield ask
    end.set()


# --- Order


def test_every_probe_comes_after_those_it_needs() -> None:
    for number, probe in enumerate(PROBES):
        assert {*probe.needs, *probe.after} <= {*NAMES[:number]}, probe.name
    assert len({*NAMES}) == len(NAMES)


def test_they_are_told_in_their_order_whichever_is_ready_first() -> None:
    second_is_done = threading.Event()

    def first(known: ProbeContext) -> Finding:
        assert second_is_done.wait(5)  # independent ones run at the same time
        return fine("first")

    def second(known: ProbeContext) -> Finding:
        second_is_done.set()
        return fine("second")

    assert [*examine(Probe("a", first), Probe("b", second))] == ["a", "b"]


def test_a_probe_uses_what_another_found_out() -> None:
    def find(known: ProbeContext) -> Finding:
        known.location = Location(1, 2, {}, {})
        return fine("")

    def use(known: ProbeContext) -> Finding:
        return fine(str(known.location.jobs))

    assert examine(Probe("a", find), Probe("b", use, needs=("a",)))["b"][1] == "2"


def test_what_needs_a_failed_one_is_not_asked_and_names_the_cause() -> None:
    found = examine(
        Probe("a", ill),
        Probe("b", raising(AssertionError("it was called")), needs=("a",)),
        Probe("c", raising(AssertionError("it was called")), needs=("b",)),
        Probe("d", well, after=("a", "b")),
        Probe("e", well),
    )
    assert found == {
        "a": ("failed", "ill", "rest"),
        "b": ("unchecked", "not checked, because a failed", ""),
        "c": ("unchecked", "not checked, because a failed", ""),
        "d": ("ok", "well", ""),
        "e": ("ok", "well", ""),
    }


def test_what_is_left_out_is_not_asked_nor_what_needs_it() -> None:
    found = examine(Probe("a", raising(AssertionError("it was called"))), Probe("b", ill, needs=("a",)), skip=("a",))
    assert found == {
        "a": ("skipped", "left out (--skip)", ""),
        "b": ("skipped", "not checked, because a is left out", ""),
    }


def test_an_error_that_nobody_foresaw_is_a_line() -> None:
    found = examine(Probe("a", raising(ZeroDivisionError("by\nzero"))), Probe("b", raising(FailedError("so", "do"))))
    assert found["a"][:2] == ("failed", "ZeroDivisionError: by")
    assert found["b"] == ("failed", "so", "do")


# --- Time


def test_a_probe_that_hangs_is_told_and_keeps_nobody(hanging: Ask) -> None:
    began = time.monotonic()
    found = examine(Probe("a", hanging), Probe("b", well), Probe("c", well, needs=("a",)), timeout=0.2)
    assert time.monotonic() - began < 5
    assert found["a"][:2] == ("failed", "no answer within 0.2 s")
    assert "--timeout" in found["a"][2]
    assert found["b"][0] == "ok"
    assert found["c"] == ("unchecked", "not checked, because a failed", "")


def test_the_answer_of_one_that_was_given_up_changes_nothing() -> None:
    def slow(known: ProbeContext) -> Finding:
        time.sleep(0.3)
        return fine("late")

    def slower(known: ProbeContext) -> Finding:
        time.sleep(0.4)
        return fine("b")

    found = examine(Probe("a", slow), Probe("b", slower, after=("a",)), timeout=0.2)
    assert [found[name][1] for name in "ab"] == ["no answer within 0.2 s"] * 2


def test_each_has_its_own_deadline_from_when_it_is_asked() -> None:
    def half(known: ProbeContext) -> Finding:
        time.sleep(0.6)
        return fine("done")

    chain = [Probe("a", half), Probe("b", half, needs=("a",)), Probe("c", half, needs=("b",))]
    assert [status for status, _, _ in examine(*chain, timeout=1.2).values()] == ["ok"] * 3


def test_a_probe_does_not_hang_while_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    class SlowToEnd(threading.Thread):
        def run(self) -> None:
            super().run()
            ended.wait(60)

    monkeypatch.setattr(threading, "Thread", SlowToEnd)
    run = Run([Probe("a", well)], ProbeContext(timeout=30), str)
    try:
        assert [result.status.value for result in run.results()] == ["ok"]
        assert not run.hangs
    finally:
        ended.set()


def test_the_process_ends_while_a_probe_hangs() -> None:
    program = """
        import sys, time
        from lakehouse_analytics.doctor import run_doctor
        from lakehouse_analytics.doctor.probe import Probe, fine
        hangs = Probe("hangs", lambda known: time.sleep(600))
        sys.exit(run_doctor(as_json=True, timeout=0.2, probes=[hangs, Probe("well", lambda known: fine("well"))]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert [(one["name"], one["status"]) for one in json.loads(done.stdout)] == [("hangs", "failed"), ("well", "ok")]
    assert done.stderr == ""


# --- The report


def printed(capsys: pytest.CaptureFixture[str], *probes: Probe, as_json: bool = False) -> tuple[int, str]:
    code = doctor.run_doctor(as_json=as_json, timeout=5, probes=probes)
    return code, capsys.readouterr().out


def test_a_line_each_with_the_mend_below(capsys: pytest.CaptureFixture[str]) -> None:
    two = raising(FailedError("one thing\nanother", "do this\nand that"))
    nothing = Probe("rest", lambda known: skipped("not wanted"))
    code, text = printed(capsys, Probe("good", well), Probe("wrong", two), nothing)
    assert code == 1
    assert text.splitlines()[:-1] == [
        "✔ good   well",
        "✘ wrong  one thing",
        "         another",
        "         → do this",
        "         → and that",
        "– rest   not wanted",
        "",
    ]
    assert text.splitlines()[-1].startswith("1 probe failed: 1 of 3 are fine, 1 left out or not applicable. ")


def test_the_exit_code_is_0_where_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = printed(capsys, Probe("a", well), Probe("b", lambda known: skipped("")))
    assert code == 0
    assert text.splitlines()[-1].startswith("Nothing failed: 1 of 2 are fine, 1 left out or not applicable. ")
    assert printed(capsys, Probe("a", well), Probe("b", ill))[0] == 1
    assert printed(capsys, Probe("a", ill), as_json=True)[0] == 1


def cannot(known: ProbeContext) -> Finding:
    return unchecked("no way to see it", "look at it")


def test_what_could_not_be_checked_is_never_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    probes = (Probe("a", well), Probe("b", cannot), Probe("c", well, needs=("b",)))
    code, text = printed(capsys, *probes)
    assert code == 3
    assert text.splitlines() == [
        "✔ a  well",
        "? b  no way to see it",
        "     → look at it",
        "? c  not checked, because b was not checked",
        "",
        text.splitlines()[-1],
    ]
    assert text.splitlines()[-1].startswith("Incomplete, 2 not checked (b, c): 1 of 3 are fine. ")
    code, text = printed(capsys, *probes, Probe("d", ill))
    assert code == 1
    assert text.splitlines()[-1].startswith("1 probe failed: 1 of 4 are fine, 2 not checked. ")


@given(st.lists(st.sampled_from(Status), max_size=6))
def test_the_last_line_and_the_exit_code_agree(found: list[Status]) -> None:
    results = [doctor_result(f"p{number}", status) for number, status in enumerate(found)]
    line, code = summary(results, 1.0), exit_code(results)
    assert ("Nothing failed" in line) == (code == 0) == (not {Status.FAILED, Status.UNCHECKED} & {*found})
    assert (code == 1) == (Status.FAILED in found)
    assert (f"{found.count(Status.UNCHECKED)} not checked" in line) == (Status.UNCHECKED in found)
    assert f"{found.count(Status.OK)} of {len(found)} are fine" in line


def doctor_result(name: str, status: Status) -> DoctorResult:
    return DoctorResult(name, status, "", "", 0.0)


def test_json_is_a_list_of_objects(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = printed(capsys, Probe("a", well), Probe("b", ill), Probe("c", well, needs=("b",)), as_json=True)
    found = json.loads(text)
    assert all(isinstance(one.pop("seconds"), float) for one in found)
    assert found == [
        {"name": "a", "status": "ok", "message": "well", "fix": ""},
        {"name": "b", "status": "failed", "message": "ill", "fix": "rest"},
        {"name": "c", "status": "unchecked", "message": "not checked, because b failed", "fix": ""},
    ]


def test_a_terminal_without_these_signs_gets_words() -> None:
    program = """
        from lakehouse_analytics.doctor import run_doctor
        from lakehouse_analytics.doctor.probe import Probe, failed
        run_doctor(probes=[Probe("a", lambda known: failed("a…b", "c"))])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.splitlines()[:2] == ["FAILED a  a?b", "          -> c"], done.stderr


# --- The command


def lakehouse_doctor(*words: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *words])


def all_but(*names: str) -> list[str]:
    return [word for name in NAMES if name not in names for word in ("--skip", name)]


def test_the_command_leaves_out_what_it_is_told_to() -> None:
    result = lakehouse_doctor("--json", *all_but("settings", "airbyte"))
    assert result.exit_code == 0, result.output
    statuses = {one["name"]: one["status"] for one in json.loads(result.stdout)}
    assert list(statuses) == list(NAMES)
    assert statuses["settings"] == "ok"
    assert statuses["airbyte"] == "skipped"  # no URL is set


def test_a_former_name_of_a_probe_is_still_taken() -> None:
    assert RENAMED.keys().isdisjoint(NAMES)
    for former, name in RENAMED.items():
        result = lakehouse_doctor("--json", *all_but("settings", name), "--skip", former)
        assert result.exit_code == 0, result.output
        found = {one["name"]: one["message"] for one in json.loads(result.stdout)}
        assert found[name] == "left out (--skip)"


def test_unknown_names_and_times_are_refused() -> None:
    assert "is not one of 'settings'" in lakehouse_doctor("--skip", "engines").stderr
    assert lakehouse_doctor("--timeout", "0").exit_code == 2


def test_wrong_settings_are_a_line_each_and_stop_what_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TIMEZONE", "Europe/Berln")
    monkeypatch.setenv("LAKEHOUSE_TRINO_PORT", "many")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = lakehouse_doctor("--json")
    assert (result.exit_code, result.stderr) == (1, "")
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert [line.partition(":")[0] for line in found["settings"]["message"].splitlines()] == [
        "LAKEHOUSE_TIMEZONE",
        "LAKEHOUSE_TRINO_PORT",
    ]
    assert found["storage"]["message"].startswith("DAGSTER_HOME is not set")  # needs no settings
    others = [one for name, one in found.items() if name not in ("settings", "storage")]
    assert {one["status"] for one in others} == {"unchecked"}
    assert {one["message"].partition(" and ")[0] for one in others} == {
        "not checked, because settings failed", "not checked, because storage failed",
    }  # fmt: skip


OF_THE_INSTANCE = ("storage", "queue", "limits", "daemons", "schedules", "sensors")


def test_a_code_server_without_an_instance_says_what_was_not_checked_and_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    only = all_but("settings", *OF_THE_INSTANCE)
    result = lakehouse_doctor("--json", *only)
    assert result.exit_code == 3
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert found["storage"]["status"] == "unchecked"
    for name in ("database", "queue", "limits", "daemons", "schedules", "sensors"):
        assert name in found["storage"]["message"]
    assert "includeInstance" in found["storage"]["fix"]
    assert found["daemons"]["message"] == "not checked, because storage was not checked"
    last = lakehouse_doctor(*only).stdout.splitlines()[-1]
    assert last.startswith("Incomplete, ")
    assert "daemons" in last


# --- Secrets

SECRETS = {
    "LAKEHOUSE_TRINO_PASSWORD": "tr1no-wr0ng",
    "LAKEHOUSE_AIRBYTE_CLIENT_SECRET": 'a1rbyte"wr0ng',
    "LAKEHOUSE_SMTP_PASSWORD": "m@il/wr0ng",
    "PYICEBERG_CATALOG__LAKE__S3__SECRET_ACCESS_KEY": "s3-wr0ng-key",
    "PYICEBERG_CATALOG__LAKE__URI": "postgresql://lake:p%40ss-wr0ng@127.0.0.1:1/lake",
    "WAREHOUSE_OF_SOMEBODY": "redis://:r3dis-wr0ng@host/0",
    "OUR_DB": "inst4nce-wr0ng",
}


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (*SECRETS.values(), "p%40ss-wr0ng", "p@ss-wr0ng", "wr0ng") if secret in text]


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_db: {hostname: 127.0.0.1, port: 1, username: d, db_name: d,"
        " password: {env: OUR_DB}}}}\n"
    )


@pytest.mark.usefixtures("_secrets")
@pytest.mark.parametrize("secret", [*SECRETS.values(), "p@ss-wr0ng"])
def test_what_a_library_quotes_of_a_secret_is_masked(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    probes = (Probe("a", raising(ValueError(f"<{secret}>"))), Probe("b", raising(FailedError(f"{secret}", secret))))
    for as_json in (True, False):
        doctor.run_doctor(as_json=as_json, probes=probes)
        said = capsys.readouterr()
        assert not secrets_in(said.out + said.err)
        assert "****" in said.out


@pytest.mark.usefixtures("_secrets")
def test_a_password_in_dagsters_own_configuration_is_masked(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: 'postgresql://d:hard-c0ded@h/d'}}\n")
    assert mask()("postgresql://d:hard-c0ded@h/d") == "postgresql://d:****@h/d"


@pytest.mark.parametrize("password", ["dagster", "trino", "lakehouse", "true", "8080", "home", "daemons"])
def test_a_password_that_is_a_common_word_hides_nothing_else(
    password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DAGSTER_PG_PASSWORD", "LAKEHOUSE_TRINO_PASSWORD"):
        monkeypatch.setenv(name, password)
    monkeypatch.setenv("LAKEHOUSE_TRINO_USER", "etl")
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_db: {hostname: 127.0.0.1, username: d, db_name: d,"
        " password: {env: DAGSTER_PG_PASSWORD}}}}\n"
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    text = "dagster.yaml of /home/etl/lakehouse: trino at trino:8080, true; LAKEHOUSE_TRINO_HOST; daemons of etl"
    assert mask()(text) == text
    doctor.run_doctor(
        probes=[Probe("daemons", raising(ValueError(f"postgresql://d:{password}@h/d; password='{password}'")))]
    )
    assert "postgresql://d:****@h/d; password='****'" in capsys.readouterr().out


@pytest.mark.usefixtures("_secrets")
def test_paths_users_and_hosts_are_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO_CLIENT_KEY", "/etc/tls/key.pem")
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_ID", "the-application")
    assert (
        mask()("/etc/tls/key.pem the-application lake@127.0.0.1") == "/etc/tls/key.pem the-application lake@127.0.0.1"
    )


@pytest.mark.usefixtures("_secrets")
@pytest.mark.parametrize("words", [["--json"], []])
def test_no_output_of_the_command_has_a_secret(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    monkeypatch.setenv("LAKEHOUSE_TRINO_HTTP_SCHEME", "https")
    monkeypatch.setenv("LAKEHOUSE_TRINO_HOST", "127.0.0.1")
    monkeypatch.setenv("LAKEHOUSE_TRINO_PORT", "1")
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "lake")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_ID", "me")
    # Dagster tries PostgreSQL for 15 seconds: once is enough.
    result = lakehouse_doctor(*words, "--timeout", "60", "--skip", "manifest" if words else "storage")
    assert result.exit_code == 1
    assert not secrets_in(result.output)
    if words:
        assert "Connection refused" in json.loads(result.stdout)[NAMES.index("storage")]["message"]
        found = {one["name"]: one["status"] for one in json.loads(result.stdout)}
        assert [name for name, status in found.items() if status == "failed"] == [
            "engine", "warehouse", "airbyte", "storage",
        ], result.output  # fmt: skip


# --- The code location, in an interpreter of its own


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an interpreter that loads the code location meets in place of Dagster."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "dagster.py"


def test_a_location_that_does_not_load(library: Path) -> None:
    library.write_text("raise RuntimeError('no such wheel')\n")
    found = project.location(ProbeContext(30.0))
    assert found.message == "lakehouse_analytics.definitions does not load: RuntimeError: no such wheel"
    assert found.fix.endswith("`python -m lakehouse_analytics.doctor.load --traceback`")


def test_a_location_that_dies_while_it_loads(library: Path) -> None:
    library.write_text("import os; os.abort()\n")
    found = project.location(ProbeContext(30.0))
    assert found.message.startswith("lakehouse_analytics.definitions does not load: ")


def test_a_location_that_loads_for_ever_is_ended(library: Path) -> None:
    tell = "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))"
    library.write_text(f"import os, pathlib, time\n{tell}\ntime.sleep(600)\n")
    found = project.location(ProbeContext(3.0))
    assert found.message == "lakehouse_analytics.definitions did not load within 3 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(library.with_name("pid").read_text()), 0)


# --- Trino, as much of it as a few lines can be


class Trino(ThreadingHTTPServer):
    """Answers every request alike, but `/v1/info`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.info: dict[str, Any] = {"nodeVersion": {"version": "476"}, "starting": False}
        self.status = 401
        self.date = ""


class _Handler(BaseHTTPRequestHandler):
    server: Trino

    def _answer(self) -> None:
        is_info = self.path == "/v1/info"
        status = 200 if is_info else self.server.status
        said = self.headers.get("Authorization", "")
        body = json.dumps(self.server.info) if is_info else f"Invalid credentials: {said}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.server.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def trino(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trino]:
    server = Trino()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    monkeypatch.setenv("LAKEHOUSE_TRINO_HOST", "127.0.0.1")
    monkeypatch.setenv("LAKEHOUSE_TRINO_PORT", str(server.server_port))
    with serving(server):
        yield server


def finding_of(ask: Ask, timeout: float = 10.0) -> Finding:
    known = ProbeContext(timeout)
    known.settings = Settings.load()
    try:
        return ask(known)
    except FailedError as error:
        return error.finding


def test_trino_that_refuses_the_log_in(trino: Trino) -> None:
    found = finding_of(data.engine)
    assert found.status is Status.FAILED
    assert found.message.startswith(f"Trino at http://127.0.0.1:{trino.server_port}: UNAUTHORIZED: error 401")
    assert "LAKEHOUSE_TRINO_PASSWORD" in found.fix


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("476", Status.OK, "Trino 476; 476 or newer is needed"),
        ("480-e.3", Status.OK, "480-e.3"),
        ("475", Status.FAILED, "older than 476"),
        ("435-amzn-0", Status.FAILED, "older than 476"),
        ("dev", Status.UNCHECKED, "not checked"),
        (None, Status.UNCHECKED, "not checked"),
    ],
)
def test_trino_s_version(trino: Trino, version: str | None, status: Status, words: str) -> None:
    trino.info["nodeVersion"] = version and {"version": version}
    found = finding_of(doctor_of_trino.version)
    assert (found.status, words in found.message) == (status, True), found


def test_the_documentation_names_the_same_version() -> None:
    text = (repository_root() / "docs" / "engines.md").read_text()
    assert f"version {doctor_of_trino.MINIMUM_VERSION} or newer" in text


def upkept_for(name: str, retain: int, orphans: int, **policy: bool) -> MaintainedTable:
    times = {"retain": timedelta(days=retain), "orphans": timedelta(days=orphans)}
    return MaintainedTable(name, ("silver", name), Relation("lake", "silver", name), Policy(**times, **policy))  # type: ignore[arg-type]


def test_contracts_below_what_trino_refuses_to_delete() -> None:
    floors = {"lake": {doctor_of_trino.EXPIRE: timedelta(days=7), doctor_of_trino.ORPHANS: timedelta(days=3)}}
    tables = [
        upkept_for("fine", 7, 3),
        upkept_for("short", 2, 3),
        upkept_for("shorter", 1, 2),
        upkept_for("off", 1, 1, expire_snapshots=False, remove_orphan_files=False),
    ]
    problems, fixes = doctor_of_trino.too_short(tables, floors)
    assert problems == [
        "lake does not delete files younger than 7d (iceberg.expire-snapshots.min-retention): "
        "silver.short has retain 2d, silver.shorter has retain 1d",
        "lake does not delete files younger than 3d (iceberg.remove-orphan-files.min-retention): "
        "silver.shorter has orphans 2d",
    ]
    assert "iceberg.expire-snapshots.min-retention=1d" in fixes[0]
    assert "meta.lakehouse.maintenance.orphans to 3d" in fixes[1]


def test_trino_that_is_starting(trino: Trino) -> None:
    trino.info["starting"] = True
    assert finding_of(data.engine).message.endswith("is still starting")


def test_trino_that_is_not_there(trino: Trino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO_PORT", "1")
    found = finding_of(data.engine)
    assert found.message == "Trino at http://127.0.0.1:1 cannot be reached: connection refused"
    assert "LAKEHOUSE_TRINO_HOST and LAKEHOUSE_TRINO_PORT" in found.fix


def test_a_clock_that_agrees_and_one_that_does_not(trino: Trino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TIMEZONE", "Europe/Berlin")
    agrees = finding_of(clock.clock)
    assert agrees.status is Status.OK
    assert agrees.message.startswith("LAKEHOUSE_TIMEZONE is Europe/Berlin, where it is ")
    assert agrees.message.endswith("this machine's clock agrees with Trino's")
    trino.date = trino_time = "Sat, 21 Nov 2020 02:00:00 GMT"
    wrong = finding_of(clock.clock)
    assert wrong.status is Status.FAILED
    assert "s ahead of Trino's" in wrong.message, trino_time


def test_a_clock_that_nobody_can_be_asked_for(trino: Trino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_TRINO_PORT", "1")
    found = finding_of(clock.clock)
    assert found.status is Status.UNCHECKED
    assert "because no server sent its time" in found.message


# --- The warehouse, on a disk


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from pyiceberg.catalog.sql import SqlCatalog

    SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/lake.db").close()
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "lake")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/lake.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{tmp_path}/warehouse")
    return tmp_path / "warehouse"


def test_what_is_written_into_the_warehouse_is_gone_afterwards(lake: Path) -> None:
    found = finding_of(warehouse.warehouse)
    assert found.status is Status.OK, found
    assert [path.name for path in lake.rglob("*") if path.is_file()] == []


def test_a_warehouse_that_cannot_be_written(lake: Path) -> None:
    lake.write_text("a file where a folder should be")
    found = finding_of(warehouse.warehouse)
    assert found.status is Status.FAILED
    assert found.message.startswith(f"nothing can be written below file://{lake}: ")
    assert "PYICEBERG_CATALOG__LAKE__*" in found.fix


def test_a_warehouse_that_keeps_what_it_was_given(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiceberg.io.pyarrow import PyArrowFileIO

    monkeypatch.setattr(PyArrowFileIO, "delete", lambda *_: raising(OSError("denied"))(ProbeContext(1)))
    found = finding_of(warehouse.warehouse)
    assert "was written and cannot be deleted: OSError: denied" in found.message
    [left] = [path for path in lake.rglob("*") if path.is_file()]
    assert str(left) in found.message  # so that a person can


def test_a_catalog_that_is_not_configured_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "nowhere")
    found = finding_of(warehouse.warehouse)
    assert "pyiceberg has no catalog of that name" in found.message
    assert "PYICEBERG_CATALOG__NOWHERE__URI" in found.fix


# --- Dagster's instance


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProbeContext]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nrun_monitoring: {enabled: true}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    made = ProbeContext(10.0)
    made.settings = Settings.load()
    made.location = Location(1, 1, {"daily": False, "nightly": True}, {"always": True, "seldom": False})
    found = instance.storage(made)
    assert found.status is Status.OK, found
    assert "0 runs; its schema is up to date" in found.message
    yield made
    made.instance.dispose()


def test_an_instance_that_was_never_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    found = instance.storage(ProbeContext(10.0))
    assert found.fix == "Run `lakehouse init`, which writes it."
    assert [*tmp_path.iterdir()] == []  # nothing is made by looking


def beat(known: ProbeContext, age: float, *kinds: str, error: str = "") -> None:
    from dagster._daemon.types import DaemonHeartbeat
    from dagster_shared.error import SerializableErrorInfo

    for kind in kinds:
        errors = [SerializableErrorInfo(error, [], None)] if error else []
        known.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, kind, "id", errors))


def test_daemons_that_never_ran(known: ProbeContext) -> None:
    found = instance.daemons(known)
    assert (found.status, found.message) == (Status.FAILED, "no daemon runs: no heartbeat recorded")
    assert "make dev" in found.fix


def test_daemons_that_live_one_that_is_silent_and_one_with_an_error(known: ProbeContext) -> None:
    kinds = known.instance.get_required_daemon_types()
    beat(known, 20, *kinds)
    well = instance.daemons(known)
    assert well.status is Status.OK
    assert "last heartbeat 2" in well.message
    beat(known, 7200, "SENSOR")
    beat(known, 1, "SCHEDULER", error="Kaputt\n  at line 1")
    found = instance.daemons(known)
    assert found.status is Status.FAILED
    assert {*found.message.splitlines()} == {"sensor: no heartbeat for 2 h", "scheduler: Kaputt"}


def switch(known: ProbeContext, kind: str, name: str, status: str, location: str = "lakehouse_analytics") -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.definitions.selector import InstigatorSelector
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        ScheduleInstigatorData,
        SensorInstigatorData,
    )

    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    origin = repository.get_instigator_origin(name)
    what = ScheduleInstigatorData("0 2 * * *") if kind == "SCHEDULE" else SensorInstigatorData()
    state = InstigatorState(origin, InstigatorType[kind], InstigatorStatus[status], what)
    selector = InstigatorSelector(location_name=location, repository_name="__repository__", name=name)
    if known.instance.get_instigator_state(origin.get_id(), selector.get_id()):
        known.instance.update_instigator_state(state)
    else:
        known.instance.add_instigator_state(state)


def test_a_stopped_schedule_is_told_with_how_to_start_it(known: ProbeContext) -> None:
    found = instance.schedules(known)
    assert (found.status, found.message) == (Status.FAILED, "stopped: daily; running: nightly")
    assert "http://localhost:3000/automation" in found.fix
    assert "dagster schedule start daily -w " in found.fix
    assert found.fix.endswith("/orchestration/dagster/dagster_workspace.yaml`")
    switch(known, "SCHEDULE", "daily", "RUNNING")
    assert instance.schedules(known) == fine("running: daily, nightly")
    switch(known, "SCHEDULE", "nightly", "STOPPED")
    assert instance.schedules(known).message == "stopped: nightly; running: daily"


def test_a_sensor_that_somebody_stopped_is_a_failure_and_one_that_nobody_started_is_not(known: ProbeContext) -> None:
    assert instance.sensors(known) == fine("running: always; off, as declared: seldom")
    switch(known, "SENSOR", "always", "STOPPED")
    found = instance.sensors(known)
    assert (found.status, found.message) == (Status.FAILED, "stopped: always; off, as declared: seldom")
    assert "dagster sensor start always" in found.fix


def test_of_two_locations_ours_counts_and_another_where_ours_is_not_there(known: ProbeContext) -> None:
    switch(known, "SCHEDULE", "daily", "RUNNING", location="renamed")
    assert instance.schedules(known).status is Status.OK
    switch(known, "SCHEDULE", "daily", "STOPPED")
    assert instance.schedules(known).status is Status.FAILED


def test_a_project_without_schedules_is_fine(known: ProbeContext) -> None:
    known.location = Location(1, 1, {}, {})
    assert instance.schedules(known) == fine("there are no schedules")


@pytest.mark.parametrize("place", ["checkout", "pod"])
def test_a_run_coordinator_that_is_not_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """As chart 1.12.19 writes it for `runCoordinator: {enabled: false}`, and as both charts write the queue."""
    from dagster import DagsterInstance

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    if place == "pod":
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")

    def found(coordinator: str) -> Finding:
        (tmp_path / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{coordinator}\n")
        known = ProbeContext(10.0)
        known.instance = DagsterInstance.get()
        try:
            return limits.queue(known)
        finally:
            known.instance.dispose()

    module = "dagster._core.run_coordinator"
    off = found(
        f"run_coordinator: {{module: {module}.sync_in_memory_run_coordinator, class: SyncInMemoryRunCoordinator}}"
    )
    assert off.status is Status.FAILED
    assert off.message.startswith("the run coordinator is not the queue: SyncInMemoryRunCoordinator starts every run")
    assert "`concurrency`" in off.message
    if place == "pod":
        assert "dagsterDaemon: {runCoordinator: {enabled: true" in off.fix
        assert "`concurrency`" in off.fix
    on = f"run_coordinator: {{module: {module}.queued_run_coordinator, class: QueuedRunCoordinator, config: {{}}}}"
    assert found(on).status is Status.OK
    assert found("").status is Status.OK
    assert found("concurrency: {runs: {max_concurrent_runs: 3}}").status is Status.OK


def test_what_doctor_says_to_put_into_values_is_what_the_chart_takes() -> None:
    """The block is YAML, and its class is there."""
    import importlib

    import yaml

    [_, block] = fixes.queue_runs(fixes.Place.POD).splitlines()
    coordinator = yaml.safe_load(block)["dagsterDaemon"]["runCoordinator"]
    named = coordinator["config"]["customRunCoordinator"]
    assert coordinator["type"] == "CustomRunCoordinator"
    assert hasattr(importlib.import_module(named["module"]), named["class"])


def test_a_pod_that_has_the_instance_is_checked_as_any_other_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `includeInstance: true` the chart mounts this file, and nothing else, into DAGSTER_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        textwrap.dedent(f"""\
            storage: {{sqlite: {{base_dir: {tmp_path}/storage}}}}
            scheduler: {{module: dagster.core.scheduler, class: DagsterDaemonScheduler}}
            run_launcher:
              module: dagster_k8s
              class: K8sRunLauncher
              config:
                load_incluster_config: true
                job_namespace: dagster
                service_account_name: dagster
                dagster_home: /opt/dagster/dagster_home
                instance_config_map: dagster-instance
                postgres_password_secret: dagster-postgresql-secret
            run_coordinator:
              module: dagster._core.run_coordinator.queued_run_coordinator
              class: QueuedRunCoordinator
              config: {{}}
            compute_logs:
              module: dagster_aws.s3.compute_log_manager
              class: S3ComputeLogManager
              config: {{bucket: lakehouse, prefix: dagster/logs}}
            telemetry: {{enabled: false}}
            """)
    )
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    known = ProbeContext(10.0)
    known.settings = Settings.load()
    known.location = Location(1, 1, {"daily": False}, {"always": True})
    try:
        assert instance.storage(known).status is Status.OK
        assert limits.queue(known).status is Status.OK
        dead = instance.daemons(known)
        assert dead.status is Status.FAILED
        assert "kubectl -n" in dead.fix
        assert "make dev" not in dead.fix
        beat(known, 20, *known.instance.get_required_daemon_types())
        assert instance.daemons(known).status is Status.OK
        assert "-- dagster schedule start daily" in instance.schedules(known).fix
        assert instance.sensors(known) == fine("running: always")
    finally:
        known.instance.dispose()
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]  # the root file system is read-only


def test_folders_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/opt/lakehouse")
    monkeypatch.setenv("OLDPWD", "/usr/lib")
    monkeypatch.setenv("DAGSTER_K8S_PG_PASSWORD_SECRET", "dagster-postgresql-secret")
    text = "/opt/lakehouse/dbt, /usr/lib/x and dagster-postgresql-secret"
    assert mask()(text) == text
