"""`.env`: `make` (infrastructure/local/env.sh) reads it as python-dotenv does, and runs no line of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[5]
SCRIPT = Path("infrastructure", "local", "env.sh")
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/home/ann", "OUTER": "outer"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    (root / SCRIPT).parent.mkdir(parents=True)
    shutil.copy(ROOT / SCRIPT, root / SCRIPT)
    shutil.copy(ROOT / "Makefile", root)
    return root


def read(checkout: Path, text: str, *names: str) -> subprocess.CompletedProcess[bytes]:
    """A recipe's shell, which prints the variables, each with a NUL at its end."""
    (checkout / ".env").write_bytes(text.encode())
    environment = ENVIRONMENT | {"BASH_ENV": str(checkout / SCRIPT)}
    command = [
        "bash",
        "-aeu",
        "-o",
        "pipefail",
        "-c",
        "".join(f"printf '%s\\0' \"${{{name}-unset}}\"\n" for name in names),
    ]
    return subprocess.run(command, env=environment, cwd=checkout, capture_output=True, check=False)


PIECES = st.sampled_from(
    [
        *"ab =#$'\"\\`()~;&|*!{}:-",
        "$$",
        "${OUTER}",
        "${X0}",
        "${NONE}",
        "${NONE:-d e}",
        "${OUTER:-x}",
        "\\n",
        "\\'",
        "é",
        " #",
    ]
)
INSIDE = st.lists(PIECES, max_size=8).map("".join)


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _double(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


VALUE = st.one_of(
    INSIDE.filter(lambda text: not text.lstrip(" ").startswith(("'", '"'))), INSIDE.map(_single), INSIDE.map(_double)
)
LINE = st.one_of(
    VALUE.flatmap(lambda value: st.sampled_from([f"={value}", f" = {value}", f"={value}\r", f"= {value} "])),
)


@given(st.lists(LINE, max_size=3))
@example(["=pa$$word"])
@example(["=a b c", "='${X0}'"])
@example(["=$(touch ran)"])
@example(["=`touch ran`; touch ran"])
def test_make_reads_what_dagster_reads(checkout: Path, lines: list[str]) -> None:
    names = [f"X{number}" for number in range(len(lines))]
    text = "# a comment\n\n" + "\n".join(
        f"{'export ' if number % 2 else ''}{name}{line}"
        for number, (name, line) in enumerate(zip(names, lines, strict=True))
    )
    done = read(checkout, text, *names)
    assert done.returncode == 0, done.stderr.decode()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            patch.delenv(name)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        expected = dotenv_values(checkout / ".env")
    assert dict(zip(names, done.stdout.decode().split("\0"), strict=False)) == expected
    assert not (checkout / "ran").exists()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('X="secret', "X: expected the quote to be closed on this line"),
        ("X='secret", "X: expected the quote to be closed on this line"),
        ("X='secret' more", "X: expected the quote to be closed on this line"),
        ('X="secret\\"', "X: expected the quote to be closed on this line"),
        ("secret b c", "expected NAME=value, a comment or an empty line"),
        ("secret", "expected NAME=value, a comment or an empty line"),
        ("2X=secret", "expected NAME=value, a comment or an empty line"),
        ("X.Y=secret", "expected NAME=value, a comment or an empty line"),
        ("X=secret${a b}", r"X: expected ${NAME} or ${NAME:-default}"),
        ("UID=secret", "UID: the shell does not allow this variable to be set"),
    ],
)
def test_a_line_that_cannot_be_read_stops_make(checkout: Path, line: str, error: str) -> None:
    (checkout / ".env").write_text(f"A=1\n{line}\nB=2\n")
    done = subprocess.run(
        ["make", "--directory", str(checkout), "help"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f".env:2: {error}" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_names_that_the_script_uses_itself_are_names_like_any_other(checkout: Path) -> None:
    # Each value would break the rest of the file, were it the script's own.
    names = ["name", "file", "line", "label", "space", "number", "assignment", "single", "double", "rest", "default"]
    text = "".join(f"{name}=x\nA_{name}='${{{name}}} b'\n" for name in names)
    done = read(checkout, text, *names, *(f"A_{name}" for name in names))
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == ["x"] * len(names) + ["x b"] * len(names)


def test_a_file_that_is_not_readable_stops_make(checkout: Path) -> None:
    (checkout / ".env").unlink(missing_ok=True)
    (checkout / ".env").mkdir()
    try:
        done = subprocess.run(
            ["make", "help"], cwd=checkout, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
    finally:
        (checkout / ".env").rmdir()
    assert done.returncode != 0
    assert ".env:1: the file cannot be read" in done.stderr


def test_a_shell_that_sources_it_stays_open(checkout: Path) -> None:
    (checkout / ".env").write_text("a b c\n")
    script = f"source {SCRIPT} || echo still open"
    done = subprocess.run(
        ["bash", "--norc", "-i", "-c", script],
        cwd=checkout,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "still open" in done.stdout


@pytest.mark.parametrize("folder", ["with space", "a:b", "a%b", "a#b", "a$b", "a'b"])
def test_a_folder_that_make_cannot_handle_is_refused_at_once(checkout: Path, tmp_path: Path, folder: str) -> None:
    clone = tmp_path / folder
    clone.mkdir()
    shutil.copy(checkout / "Makefile", clone)
    done = subprocess.run(["make", "demo"], cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f'The folder "{clone}" has' in done.stderr
    assert not done.stdout
