"""Where things lie: the state of one stack, and the downloads that all stacks of a user share."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Layout:
    """The folders and files of one stack."""

    state: Path

    @classmethod
    def from_environment(cls) -> "Layout":
        """`LAKEHOUSE_STACK_DIR`, relative to the repository's root, else `.stack`."""
        return cls((ROOT / (os.environ.get("LAKEHOUSE_STACK_DIR") or ".stack")).resolve())

    @property
    def settings(self) -> Path:
        """Ports and generated secrets."""
        return self.state / "settings.json"

    @property
    def env(self) -> Path:
        """What a client needs, as shell lines."""
        return self.state / "env"

    @property
    def lock(self) -> Path:
        """Lock of the one command that changes this stack."""
        return self.state / "lock"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data."""
        return self.state / "data" / "postgres"

    @property
    def s3(self) -> Path:
        """The S3 server's root; its folders are buckets."""
        return self.state / "data" / "s3"

    def trino(self, node: str) -> Path:
        """The working files of one Trino process."""
        return self.state / "data" / node

    @property
    def etc(self) -> Path:
        """Trino's configuration, written at each start."""
        return self.state / "etc"

    def node_etc(self, node: str) -> Path:
        """The configuration that only this Trino process reads; the coordinator's is `etc` itself."""
        return self.etc if node == "trino" else self.etc / node

    @property
    def tls(self) -> Path:
        """The private authority, certificates and keys."""
        return self.state / "tls"

    @property
    def run(self) -> Path:
        """One file with a process id for each running part."""
        return self.state / "run"

    @property
    def checked(self) -> Path:
        """Exists when the servers were seen to work together since the last start."""
        return self.run / "checked"

    @property
    def logs(self) -> Path:
        """The one folder of logs."""
        return self.state / "logs"

    def log(self, part: str) -> Path:
        """The one log of a part."""
        return self.logs / f"{part}.log"


def cache() -> Path:
    """The folder of downloads, which `stack.sh` made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lakehouse-analytics"
