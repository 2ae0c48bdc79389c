"""The servers written in Java: fetched by coordinate with Maven, checked, and kept in the cache, Trino's unpacked."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.files import locked
from stack.terminal import say

MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get"


@dataclass(frozen=True)
class Artifact:
    """A file of Maven Central."""

    title: str
    group: str
    name: str
    version: str
    file: str
    packaging: str
    sha256: str
    megabytes: int

    @property
    def coordinate(self) -> str:
        """How Maven names it."""
        return f"{self.group}:{self.name}:{self.version}:{self.packaging}"

    @property
    def in_repository(self) -> Path:
        """Where a repository of Maven has it."""
        return Path(*self.group.split("."), self.name, self.version, self.file)


TRINO = Artifact(
    "Trino", "io.trino", "trino-server", "476", "trino-server-476.tar.gz", "tar.gz",
    "cfd5accde17e8ebd251eeeb78aed1f490e77bb3a164d95a0f454bf8a7c1cbd3f", 821,
)  # fmt: skip
NESSIE = Artifact(
    "Nessie", "org.projectnessie.nessie", "nessie-quarkus", "0.99.0", "nessie-quarkus-0.99.0-runner.jar", "jar:runner",
    "ce9fa33e2878bf5ea3981876b9e6204cabc0362b3dd82326b10e47271a78c417", 245,
)  # fmt: skip
# `geospatial` brings functions that Trino's analyzer looks up, and `resource-group-managers` the queues of a cluster
# that others use, too; the rest of 50 plugins we have no use for.
PLUGINS = {"geospatial", "iceberg", "password-authenticators", "resource-group-managers", "tpch"}


def home(cache: Path) -> Path:
    """Where the unpacked server lies, or will."""
    return cache / f"trino-{TRINO.version}-{'-'.join(sorted(PLUGINS))}"


def trino(cache: Path) -> Path:
    """The folder of the unpacked server; fetched when it is not there yet. Safe to call from two processes."""
    unpacked = home(cache)
    if unpacked.exists():
        return unpacked
    with locked(cache / "trino.lock", "waiting for another process that fetches Trino") as lock:
        if not unpacked.exists():
            repository = cache / "maven"  # kept until unpacked: an interrupted download goes on from here
            _unpack(_fetched(TRINO, repository, lock), unpacked)
            shutil.rmtree(repository, ignore_errors=True)
    return unpacked


def nessie(cache: Path) -> Path:
    """Nessie's program; fetched when it is not there yet. Safe to call from two processes."""
    program = cache / NESSIE.file
    if program.exists():
        return program
    with locked(cache / "nessie.lock", "waiting for another process that fetches Nessie") as lock:
        if not program.exists():
            repository = cache / "maven-nessie"
            copied = cache / f".{NESSIE.file}"
            shutil.copyfile(_fetched(NESSIE, repository, lock), copied)
            copied.replace(program)
            shutil.rmtree(repository, ignore_errors=True)
    return program


def _fetched(artifact: Artifact, repository: Path, lock: int) -> Path:
    fetched = repository / artifact.in_repository
    for archive in (fetched, Path.home() / ".m2" / "repository" / artifact.in_repository):
        if archive.exists() and _sha256(archive) == artifact.sha256:
            return archive
    if shutil.which("mvn") is None:
        raise StackError(
            f"Maven fetches {artifact.title} ({artifact.coordinate}, {artifact.megabytes} MB) and `mvn` is not "
            "installed. Debian and Ubuntu: apt-get install maven; Fedora: dnf install maven; macOS: brew install maven"
        )
    say(f"{artifact.coordinate} with Maven, {artifact.megabytes} MB, once … ", end="")
    done = subprocess.run(
        ["mvn", "-q", "-B", "-U", f"-Dmaven.repo.local={repository}", MAVEN_GOAL, f"-Dartifact={artifact.coordinate}",
         "-Dtransitive=false"],
        capture_output=True, text=True, check=False, pass_fds=[lock],  # Maven may outlive us, and goes on writing
    )  # fmt: skip
    if done.returncode or not fetched.exists():
        output = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-15:])
        raise StackError(f"Maven could not fetch {artifact.coordinate}; a second start resumes. Its output:\n{output}")
    if (have := _sha256(fetched)) != artifact.sha256:
        shutil.rmtree(repository)
        raise StackError(
            f"{artifact.coordinate} has the sha256 {have}, expected {artifact.sha256}: thrown away, "
            "nothing was unpacked"
        )
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
        unpacked = building / f"trino-server-{TRINO.version}"
        for plugin in (unpacked / "plugin").iterdir():
            if plugin.name not in PLUGINS:
                shutil.rmtree(plugin)
        unpacked.replace(home)
    finally:
        shutil.rmtree(building, ignore_errors=True)
