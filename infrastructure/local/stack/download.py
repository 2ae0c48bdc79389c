"""Trino's server: fetched by coordinate with Maven, checked, unpacked once into the cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from stack.errors import StackError
from stack.files import locked
from stack.terminal import say

VERSION = "476"
SHA256 = "cfd5accde17e8ebd251eeeb78aed1f490e77bb3a164d95a0f454bf8a7c1cbd3f"
COORDINATE = f"io.trino:trino-server:{VERSION}:tar.gz"
IN_REPOSITORY = Path("io", "trino", "trino-server", VERSION, f"trino-server-{VERSION}.tar.gz")
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get"
# `geospatial` brings functions that Trino's analyzer looks up, and `resource-group-managers` the queues of a cluster
# that others use, too; the rest of 50 plugins we have no use for.
PLUGINS = {"geospatial", "iceberg", "password-authenticators", "resource-group-managers", "tpch"}


def home(cache: Path) -> Path:
    """Where the unpacked server lies, or will."""
    return cache / f"trino-{VERSION}-{'-'.join(sorted(PLUGINS))}"


def trino(cache: Path) -> Path:
    """The folder of the unpacked server; fetched when it is not there yet. Safe to call from two processes."""
    unpacked = home(cache)
    if unpacked.exists():
        return unpacked
    with locked(cache / "trino.lock", "waiting for another process that fetches Trino") as lock:
        if not unpacked.exists():
            repository = cache / "maven"  # kept until unpacked: an interrupted download goes on from here
            _unpack(_archive(repository, lock), unpacked)
            shutil.rmtree(repository, ignore_errors=True)
    return unpacked


def _archive(repository: Path, lock: int) -> Path:
    fetched = repository / IN_REPOSITORY
    for archive in (fetched, Path.home() / ".m2" / "repository" / IN_REPOSITORY):
        if archive.exists() and _sha256(archive) == SHA256:
            return archive
    if shutil.which("mvn") is None:
        raise StackError(
            f"Maven fetches Trino ({COORDINATE}, 821 MB) and `mvn` is not installed. "
            "Debian and Ubuntu: apt-get install maven; Fedora: dnf install maven; macOS: brew install maven"
        )
    say(f"{COORDINATE} with Maven, 821 MB, once … ", end="")
    done = subprocess.run(
        ["mvn", "-q", "-B", "-U", f"-Dmaven.repo.local={repository}", MAVEN_GOAL, f"-Dartifact={COORDINATE}",
         "-Dtransitive=false"],
        capture_output=True, text=True, check=False, pass_fds=[lock],  # Maven may outlive us, and goes on writing
    )  # fmt: skip
    if done.returncode or not fetched.exists():
        output = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-15:])
        raise StackError(f"Maven could not fetch {COORDINATE}; a second start resumes. Its output:\n{output}")
    if (have := _sha256(fetched)) != SHA256:
        shutil.rmtree(repository)
        raise StackError(f"{COORDINATE} has the sha256 {have}, expected {SHA256}: thrown away, nothing was unpacked")
    return fetched


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, home: Path) -> None:
    """Unpack aside, whole because plugins share files through hard links, then drop what is not needed."""
    for left in home.parent.glob(".trino-*"):
        shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=".trino-", dir=home.parent))
    try:
        with tarfile.open(archive, "r|gz") as archived:
            archived.extraction_filter = getattr(tarfile, "data_filter", None)  # None: Python before 3.11.4
            archived.extractall(building)  # noqa: S202  (its checksum is the expected one)
        unpacked = building / f"trino-server-{VERSION}"
        for plugin in (unpacked / "plugin").iterdir():
            if plugin.name not in PLUGINS:
                shutil.rmtree(plugin)
        unpacked.replace(home)
    finally:
        shutil.rmtree(building, ignore_errors=True)
