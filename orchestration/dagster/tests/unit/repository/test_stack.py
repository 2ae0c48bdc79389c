"""The tool of `make stack-up`: what can be tested without starting a server of the stack."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[5]
sys.path.insert(0, str(ROOT / "infrastructure" / "local"))

from stack import client_env, download, postgres, settings, trino_config, verify  # noqa: E402
from stack.errors import StackError  # noqa: E402
from stack.files import locked, write_private  # noqa: E402
from stack.layout import Layout  # noqa: E402
from stack.process import Server  # noqa: E402

SECRETS = [field.name for field in fields(settings.Settings) if not field.name.endswith(("_port", "_ports"))]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def known(tmp_path: Path) -> settings.Settings:
    return settings.load_or_create(tmp_path / "settings.json", {})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "a stack")


# --- The file that clients read


@given(st.dictionaries(st.from_regex(r"LAKEHOUSE_[A-Z]{1,8}", fullmatch=True), TEXT, max_size=5))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_shell_reads_back_every_value(values: dict[str, str]) -> None:
    script = f"set -aeu\n{client_env.render(values)}env -0"
    output = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout.decode()
    read = dict(line.split("=", 1) for line in output.split("\0") if line)
    assert {name: read[name] for name in values} == values


def test_pyiceberg_finds_its_catalog_in_it(
    known: settings.Settings, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.utils.config import Config

    for name, value in client_env.variables(layout, known).items():
        monkeypatch.setenv(name, value)
    catalog = Config().get_catalog_config("lakehouse")
    assert catalog is not None
    assert catalog["type"] == "sql"
    assert catalog["s3.endpoint"] == f"http://127.0.0.1:{known.s3_port}"
    assert catalog["s3.secret-access-key"] == known.s3_secret_key
    assert (
        catalog["warehouse"] == trino_config.catalog(known, "lakehouse")["iceberg.jdbc-catalog.default-warehouse-dir"]
    )


# --- Ports and secrets


def test_the_first_start_chooses_and_every_later_one_remembers(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    first = settings.load_or_create(path, {})
    assert settings.load_or_create(path, {}) == first == settings.load(path)
    assert mode(path) == 0o600


def test_no_two_stacks_share_a_secret(tmp_path: Path) -> None:
    one, other = (settings.load_or_create(tmp_path / name, {}) for name in ("one", "other"))
    values = [getattr(stack, name) for stack in (one, other) for name in SECRETS]
    assert len(set(values)) == 2 * len(SECRETS)
    assert min(map(len, values)) >= 20


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        monkeypatch.setattr(settings, "PORTS", dict.fromkeys(settings.PORTS, taken))
        known = settings.load_or_create(tmp_path / "settings.json", {})
    chosen = [known.port(name) for name in settings.PORTS]
    assert taken not in chosen
    assert len(set(chosen)) == len(chosen)


def test_the_environment_moves_a_port_and_keeps_the_secrets(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    before = settings.load_or_create(path, {})
    after = settings.load_or_create(path, {"LAKEHOUSE_STACK_S3_PORT": "23456"})
    assert after == replace(before, s3_port=23456) == settings.load_or_create(path, {})


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "1e3"])
def test_a_port_that_is_none_is_named(text: str) -> None:
    with pytest.raises(StackError, match=f"LAKEHOUSE_STACK_POSTGRES_PORT={text}: expected a port"):
        settings.requested_ports({"LAKEHOUSE_STACK_POSTGRES_PORT": text})


def test_one_port_for_two_parts_is_refused() -> None:
    with pytest.raises(StackError, match="LAKEHOUSE_STACK_S3_PORT=20000"):
        settings.requested_ports({"LAKEHOUSE_STACK_POSTGRES_PORT": "20000", "LAKEHOUSE_STACK_S3_PORT": "20000"})


# --- Trino workers


def test_a_stack_has_one_trino_process_unless_more_are_set(known: settings.Settings) -> None:
    assert known.workers == {}
    assert list(known.with_workers(3).workers) == ["trino-2", "trino-3"]


def test_the_number_of_workers_is_remembered_until_another_is_set(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    two = settings.load_or_create(path, {"LAKEHOUSE_STACK_WORKERS": "2"})
    assert len(two.worker_ports) == 1
    assert settings.load_or_create(path, {"LAKEHOUSE_STACK_WORKERS": ""}) == two == settings.load(path)
    three = settings.load_or_create(path, {"LAKEHOUSE_STACK_WORKERS": "3"})
    assert three.worker_ports[:1] == two.worker_ports
    assert len({three.port(name) for name in settings.PORTS} | set(three.worker_ports)) == len(settings.PORTS) + 2
    assert settings.load_or_create(path, {"LAKEHOUSE_STACK_WORKERS": "1"}) == replace(two, worker_ports=())


@pytest.mark.parametrize("text", ["0", "5", "two", "-1", "1.5"])
def test_a_number_of_workers_that_cannot_be_started_is_named(text: str) -> None:
    with pytest.raises(StackError, match=f"LAKEHOUSE_STACK_WORKERS={text}: expected a number .* from 1 to 4"):
        settings.asked_workers({"LAKEHOUSE_STACK_WORKERS": text})


def test_settings_of_a_stack_made_before_there_were_workers_are_read(tmp_path: Path, known: settings.Settings) -> None:
    path = tmp_path / "settings.json"
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "worker_ports"}
    path.write_text(json.dumps(older))
    assert settings.load(path) == known


def test_a_worker_joins_the_coordinator_and_shares_none_of_its_files_but_the_catalogs(
    known: settings.Settings, layout: Layout
) -> None:
    known = known.with_workers(2)
    [(name, port)] = known.workers.items()
    config = trino_config.worker_config(layout, known, Path("server"), name, port)
    coordinator = trino_config.config(layout, known, Path("server"))
    assert config["coordinator"] == "false"
    assert config["node.bind-ip"] == config["node.internal-address"] == "127.0.0.1"
    different = {"node.id", "coordinator", "http-server.http.port"}
    assert {name for name, value in config.items() if coordinator[name] != value} == different
    # Its folder has no `catalog`: a file there would be one catalog more on this worker alone.
    assert layout.node_etc(name) != layout.node_etc("trino") == layout.etc
    assert list(trino_config.worker_files(layout, known, Path("server"), name, port)) == ["config.properties"]


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace('"s3_port"', '"s4_port"')])
def test_damaged_settings_are_named_without_their_secrets(tmp_path: Path, damage: Callable[[str], str]) -> None:
    path = tmp_path / "settings.json"
    known = settings.load_or_create(path, {})
    path.write_text(damage(path.read_text()))
    with pytest.raises(StackError, match=r"settings\.json is damaged") as caught:
        settings.load(path)
    assert not [name for name in SECRETS if getattr(known, name) in str(caught.value)]


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "secret", "one")
        write_private(tmp_path / "secret", "two")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "secret"), (tmp_path / "secret").read_text()) == (0o600, "two")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_relative_folder_is_meant_from_the_repositorys_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_STACK_DIR", "elsewhere")
    assert Layout.from_environment().state == ROOT / "elsewhere"
    monkeypatch.setenv("LAKEHOUSE_STACK_DIR", "")
    assert Layout.from_environment().state == ROOT / ".stack"


# --- Trino's configuration


@pytest.mark.parametrize("text", ["2", "2GB", "-1G", "two", "1G -XX:Other"])
def test_a_heap_that_java_would_refuse_is_named(text: str) -> None:
    with pytest.raises(StackError, match=r"LAKEHOUSE_STACK_TRINO_HEAP=.*such as 2G"):
        trino_config.heap({"LAKEHOUSE_STACK_TRINO_HEAP": text})


def test_java_options_are_added(layout: Layout) -> None:
    options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    plain = trino_config.java_options(layout, {})
    assert trino_config.java_options(layout, {"LAKEHOUSE_STACK_TRINO_JAVA_OPTIONS": options}) == [
        *plain,
        *options.split(),
    ]


def test_trino_listens_on_loopback_and_asks_who_calls(known: settings.Settings, layout: Layout) -> None:
    config = trino_config.config(layout, known, Path("server"))
    assert config["node.bind-ip"] == config["node.internal-address"] == "127.0.0.1"
    assert set(config["http-server.authentication.type"].split(",")) == {"CERTIFICATE", "JWT", "PASSWORD"}


def test_each_catalog_has_a_name_and_a_warehouse_of_its_own(known: settings.Settings) -> None:
    names = (trino_config.CATALOG, *trino_config.TEST_CATALOGS)
    catalogs = [trino_config.catalog(known, name) for name in names]
    assert [catalog["iceberg.jdbc-catalog.catalog-name"] for catalog in catalogs] == list(names)
    assert len({catalog["iceberg.jdbc-catalog.default-warehouse-dir"] for catalog in catalogs}) == len(names)


# --- Processes

IDLE = "import signal, sys, time\nsignal.signal(signal.SIGTERM, {handler})\nprint('up', flush=True)\ntime.sleep(600)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server("idle", tmp_path / "run" / "idle.pid", tmp_path / "logs" / "idle.log", str(tmp_path / "mark"))
    yield server
    server.kill()


def started(server: Server, handler: str = "signal.SIG_DFL") -> int:
    command = [sys.executable, "-c", IDLE.format(handler=handler), server.mark]
    server.start(command, os.environ, Path.cwd())
    server.wait_ready(lambda: "up" in server.log.read_text(), 60)
    pid = server.pid()
    assert pid is not None
    return pid


def ended(pid: int) -> bool:
    """A child of ours stays a zombie until we ask for it."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def test_a_server_is_started_in_its_own_session_and_ended(server: Server) -> None:
    pid = started(server)
    assert os.getsid(pid) == pid != os.getsid(0)
    assert mode(server.log) == mode(server.pid_file) == 0o600
    assert server.stop()
    assert ended(pid)
    assert not server.stop()


def test_a_server_that_does_not_listen_is_ended_by_force(server: Server) -> None:
    pid = started(server, handler="signal.SIG_IGN")
    assert server.stop(seconds=0.2)
    assert ended(pid)


def test_a_process_id_that_went_to_somebody_else_is_not_ours(server: Server) -> None:
    started(server)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"{server.mark}-of-another"])
    try:
        ours = server.pid_file.read_text()
        server.pid_file.write_text(f"{stranger.pid}\n")
        assert server.pid() is None
        assert not server.kill()
        assert stranger.poll() is None
        write_private(server.pid_file, ours)
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "no number", "4194305"])
def test_a_pid_file_that_names_nobody(server: Server, text: str) -> None:
    server.pid_file.parent.mkdir()
    server.pid_file.write_text(text)
    assert server.pid() is None


def test_a_dead_child_that_nobody_buried_does_not_run(server: Server) -> None:
    pid = started(server)
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert server.pid() is None
    os.waitpid(pid, 0)


def test_a_death_at_the_start_tells_the_end_of_the_log(server: Server) -> None:
    server.start([sys.executable, "-c", "raise SystemExit('no such luck')", server.mark], os.environ, Path.cwd())
    with pytest.raises(StackError, match=r"idle ended while it started.*idle\.log:\n +no such luck"):
        server.wait_ready(lambda: False, 60)
    assert not server.pid_file.exists()


def test_a_second_command_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", "waiting for another command"):
            order.append("second")

    with locked(tmp_path / "lock", "not said"):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting" not in capsys.readouterr().out:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert mode(tmp_path / "lock") == 0o600


# --- Trino's archive


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who never fetched anything, on a machine without Maven."""
    for name in ("home", "bin", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_without_maven_one_error_says_how_to_get_it(machine: Path) -> None:
    with pytest.raises(StackError, match="apt-get install maven"):
        download.trino(machine / "cache")
    assert [path.name for path in (machine / "cache").iterdir()] == ["trino.lock"]


def test_an_archive_with_another_checksum_is_never_unpacked(machine: Path) -> None:
    maven = machine / "bin" / "mvn"
    archive = machine / "cache" / "maven" / download.TRINO.in_repository
    maven.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\nmkdir -p '{archive.parent}'\necho other > '{archive}'\n")
    maven.chmod(0o755)
    own = machine / "home" / ".m2" / "repository" / download.TRINO.in_repository
    own.parent.mkdir(parents=True)
    own.write_text("damaged too")
    with pytest.raises(StackError, match=f"expected {download.TRINO.sha256}: thrown away"):
        download.trino(machine / "cache")
    assert [path.name for path in (machine / "cache").iterdir()] == ["trino.lock"]
    assert own.exists()  # the user's own repository is not ours to clean


def test_mavens_own_words_are_told(machine: Path) -> None:
    maven = machine / "bin" / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] no route to the repository'\nexit 1\n")
    maven.chmod(0o755)
    with pytest.raises(StackError, match=r"could not fetch io\.trino:trino-server.*\n +\[ERROR\] no route"):
        download.trino(machine / "cache")


def test_files_that_plugins_share_survive_the_plugins_that_go(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = machine / "home" / ".m2" / "repository" / download.TRINO.in_repository
    archive.parent.mkdir(parents=True)
    top = f"trino-server-{download.TRINO.version}"
    with tarfile.open(archive, "w:gz") as packed:
        shared = tarfile.TarInfo(f"{top}/plugin/accumulo/shared.jar")
        shared.size = 6
        packed.addfile(shared, io.BytesIO(b"shared"))
        for plugin in sorted(download.PLUGINS):
            link = tarfile.TarInfo(f"{top}/plugin/{plugin}/shared.jar")
            link.type, link.linkname = tarfile.LNKTYPE, shared.name
            packed.addfile(link)
    monkeypatch.setattr(download, "TRINO", replace(download.TRINO, sha256=download._sha256(archive)))
    (machine / "cache" / ".trino-interrupted").mkdir()

    home = download.trino(machine / "cache")

    assert {path.name for path in (home / "plugin").iterdir()} == download.PLUGINS
    assert {path.read_bytes() for path in home.glob("plugin/*/shared.jar")} == {b"shared"}
    assert {path.name for path in (machine / "cache").iterdir()} == {home.name, "trino.lock"}
    assert download.trino(machine / "cache") == home


def test_nessie_is_kept_in_the_cache_if_its_checksum_is_the_expected_one(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = machine / "home" / ".m2" / "repository" / download.NESSIE.in_repository
    program.parent.mkdir(parents=True)
    program.write_text("a program")
    with pytest.raises(StackError, match=r"nessie-quarkus:0\.99\.0:jar:runner, 245 MB\) and `mvn` is not installed"):
        download.nessie(machine / "cache")
    monkeypatch.setattr(download, "NESSIE", replace(download.NESSIE, sha256=download._sha256(program)))
    kept = download.nessie(machine / "cache")
    assert kept.read_text() == "a program"
    assert {path.name for path in (machine / "cache").iterdir()} == {kept.name, "nessie.lock"}


def test_trino_and_pyiceberg_know_the_catalog_of_the_optional_part(tmp_path: Path) -> None:
    known = settings._new({"rest": 19999})
    properties = trino_config.rest_catalog(known)
    address = properties["iceberg.rest-catalog.uri"]
    assert address == "http://127.0.0.1:19999/iceberg/main"
    assert client_env.variables(Layout(tmp_path), known)["PYICEBERG_CATALOG__REST__URI"] == address
    old = {field.name: getattr(known, field.name) for field in fields(known) if field.name != "rest_port"}
    (tmp_path / "settings.json").write_text(json.dumps(old))
    of_older_stack = settings.load(tmp_path / "settings.json")
    assert of_older_stack
    assert of_older_stack.rest_port == settings.PORTS["rest"]


def test_the_lock_of_a_killed_postgresql_that_nobody_buried_is_removed_and_no_other(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    postgres.forget_dead(tmp_path)  # none

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock.write_text(f"{process.pid}\n{tmp_path}\n")
    postgres.forget_dead(tmp_path)
    assert lock.exists()
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    postgres.forget_dead(tmp_path)
    assert not lock.exists()
    process.wait()

    lock.write_text("nonsense\n")
    postgres.forget_dead(tmp_path)
    assert lock.exists()


def test_the_check_waits_for_a_trino_that_schedules_nothing_yet_on_its_node() -> None:
    """As a Trino of some seconds answers: the node is active, and no query can run on it."""
    client = object.__new__(verify._Client)
    starting = {"id": "q1", "error": {"errorName": "NO_NODES_AVAILABLE", "message": "No nodes available to run query"}}
    answers = iter([starting, starting, {"id": "q3", "data": [[1]]}, {"id": "q4", "error": {"message": "denied"}}])
    client._request = lambda *_: next(answers)  # type: ignore[method-assign,assignment]

    assert client.ask("insert into proof values 1") == [[1]]
    with pytest.raises(StackError, match=r"denied \(query q4\)"):
        client.ask("insert into proof values 1")
