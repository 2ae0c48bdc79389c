"""Starting, recognizing and ending the servers, which outlive the command that started them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack.errors import StackError
from stack.files import last_lines, private_folder, write_private

KEEP_LOG_BYTES = 20_000_000
FORCED_WITHIN = 10.0  # seconds that the system may take to remove a killed process


@dataclass(frozen=True)
class Server:
    """One process of the stack.

    `mark` is an argument that no other process has: it contains a path of this stack. If the system has given the
    process id to another process since, that argument is missing. This does not depend on the clock.
    """

    name: str
    pid_file: Path
    log: Path
    mark: str
    stop_signal: signal.Signals = signal.SIGTERM

    def pid(self) -> int | None:
        """The process id while the process is alive and ours."""
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            ours = self.mark in _command_line(process) and _runs(process)
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process.pid if ours else None

    def start(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        """Start in a session of its own, so that closing the terminal does not end it."""
        private_folder(self.log.parent)
        private_folder(self.pid_file.parent)
        if self.log.exists() and self.log.stat().st_size > KEEP_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".previous.log"))
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        write_private(self.pid_file, f"{process.pid}\n")

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until the server answers; its death or the deadline is an error with the end of its log."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid() is None:
                self.pid_file.unlink(missing_ok=True)
                raise StackError(f"{self.name} ended while it started. {self._log_told()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {seconds:.0f} s. {self._log_told()}")
            time.sleep(0.1)

    def _log_told(self) -> str:
        return f"The end of {self.log}:\n{last_lines(self.log)}"

    def stop(self, seconds: float = 60) -> bool:
        """End it in order, by force after `seconds`; False when it was not running."""
        return self._end(self.stop_signal, seconds)

    def kill(self) -> bool:
        """End it as a crash would; False when it was not running."""
        return self._end(signal.SIGKILL, FORCED_WITHIN)

    def _end(self, number: signal.Signals, seconds: float) -> bool:
        pid = self.pid()
        if pid is not None:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
            process.send_signal(number)
            # PostgreSQL's children see their parent's end by themselves and let go of its data.
            for left in _left_after(family, seconds):
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
            _left_after(family, FORCED_WITHIN)
        self.pid_file.unlink(missing_ok=True)
        return pid is not None


def _left_after(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; those that have not. A zombie has: a container may have no process to reap it."""
    deadline = time.monotonic() + seconds
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if _runs(process)]
    return left


def _command_line(process: psutil.Process) -> list[str]:
    """The arguments. For a moment after it was started, a program has none yet."""
    deadline = time.monotonic() + 2
    while not (words := process.cmdline()) and _runs(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(words)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
