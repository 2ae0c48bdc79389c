"""Runs a connector as a subprocess: reads its messages, reports why it failed, and stops all of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import orjson
from pydantic import ValidationError

from lakehouse_analytics.ingest.broken_records import broken_record
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.protocol import Catalog, TraceError

Message = dict[str, Any]
#: Messages, each with the line that contains it.
Messages = Generator[tuple[Message, bytes], None, None]
#: The environment variables that a connector gets: none of our own settings, and no PYTHON* variable.
_PASSED_ON = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"}
_PASSED_ON |= {"REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


class Connector:
    """The commands of a connector (Airbyte protocol: `spec`, `discover`, `read`).

    Args:
        name: Name for messages.
        command: The command that starts the connector, without arguments.
        directory: Private folder of this sync, for the files with config, catalog and state.
        progress: Called with one line at a time.
    """

    def __init__(self, name: str, command: list[str], directory: Path, progress: Callable[[str], None]) -> None:
        self.name = name
        self.redact: Callable[[str], str] = lambda text: text
        self._command = command
        self._directory = directory
        self._progress = progress

    def spec(self) -> dict[str, Any]:
        """Return the JSON schema of the connector's config."""
        return dict(self._first_message("spec", "SPEC")["spec"]["connectionSpecification"])

    def discover(self, config: dict[str, Any]) -> Catalog:
        """Return the streams that the connector offers with a config."""
        answer = self._first_message("discover", "CATALOG", config=config)
        try:
            return Catalog.model_validate(answer["catalog"])
        except (KeyError, ValidationError):
            raise IngestError(f"{self.name}: `discover` returned an invalid catalog") from None

    def read(self, config: dict[str, Any], catalog: dict[str, Any], state: list[Message]) -> Messages:
        """Yield messages, each with its line.

        Raises:
            IngestError: The connector failed. This may be raised at the end; the messages must be discarded then.
        """
        files: dict[str, Any] = {"config": config, "catalog": catalog}
        return self._messages("read", **(files | {"state": state} if state else files))

    def _first_message(self, verb: str, kind: str, **files: Any) -> Message:
        with closing(self._messages(verb, **files)) as messages:
            answers = [message for message, _ in messages if message["type"] == kind]
        if not answers:
            raise IngestError(f"{self.name}: `{verb}` did not return a {kind} message")
        return answers[0]

    def _messages(self, verb: str, **files: Any) -> Messages:
        arguments = [verb]
        for option, content in files.items():
            path = self._directory / f"{option}.json"
            path.touch(mode=0o600)
            path.write_text(json.dumps(content), encoding="utf-8")  # orjson rejects integers beyond 64 bits
            arguments += [f"--{option}", str(path)]
        # In a new session, so that only this process gets Ctrl-C, and the connector's child processes can be stopped
        # with it.
        process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=self._directory,
            env={k: v for k, v in os.environ.items() if k in _PASSED_ON or k.startswith("LC_")} | {"DO_NOT_TRACK": "1"},
        )
        try:
            yield from self._follow(process, verb)
        finally:
            _stop(process)
            (self._directory / "config.json").unlink(missing_ok=True)

    def _follow(self, process: subprocess.Popen[bytes], verb: str) -> Messages:
        assert process.stdout is not None  # noqa: S101  # piped above
        assert process.stderr is not None  # noqa: S101
        last_lines: deque[str] = deque(maxlen=20)
        reader = threading.Thread(target=_drain, args=(process.stderr, last_lines), daemon=True)
        reader.start()
        errors: list[str] = []
        logged: list[str] = []
        broken = ""
        with closing(process.stdout) as lines:
            for line in lines:
                try:
                    message = orjson.loads(line)
                except orjson.JSONDecodeError as invalid:
                    if line.lstrip().startswith(b"{"):
                        broken = self._broken(verb, line, invalid)
                        if line.endswith(b"\n"):
                            raise IngestError(broken) from None
                        continue  # truncated because the connector ended; its exit code explains more
                    message = None
                if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                    text = line.decode(errors="replace").strip()
                    if text:
                        self._progress(f"{self.name} printed: {self.redact(text)[:200]}")
                    continue
                if (error := _error(message)) is not None:
                    errors.append(error)
                elif message["type"] == "LOG" and (text := _logged_error(message)):
                    logged.append(text)
                elif message["type"] == "CONTROL":
                    self._progress(f"{self.name} changed its own config (perhaps a new token), which is not stored")
                yield message, line
        code = process.wait()
        reader.join(timeout=1)
        if errors:
            raise IngestError(f"{self.name} failed: {self.redact(errors[0])[:600]}")
        if code:
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            reason = " ".join((logged[-1:] or [*last_lines][-1:] or [""])[0].split())
            raise IngestError(f"{self.name}: `{verb}` {ended}" + (f": {self.redact(reason)[:500]}" if reason else ""))
        if broken:
            raise IngestError(broken)

    def _broken(self, verb: str, line: bytes, invalid: orjson.JSONDecodeError) -> str:
        """Return why a message cannot be read. It must not be skipped, because it may be part of a record."""
        if (record := broken_record(line)) is not None:
            raise record
        start = self.redact(line.decode(errors="replace"))[:60].strip()
        reason = f"{invalid.msg} at character {invalid.pos + 1}"
        return f"{self.name}: `{verb}` printed an invalid message ({reason}): {start}"


def _logged_error(message: Message) -> str:
    log = message.get("log")
    if not isinstance(log, dict) or log.get("level") not in ("FATAL", "ERROR"):
        return ""
    return str(log.get("message", ""))


def _error(message: Message) -> str | None:
    trace = message.get("trace")
    if message["type"] != "TRACE" or not isinstance(trace, dict) or trace.get("type") != "ERROR":
        return None
    try:
        error = TraceError.model_validate(trace.get("error") or {})
    except ValidationError:
        return "an error that cannot be read"
    where = f"stream {error.stream_descriptor.name}: " if error.stream_descriptor else ""
    return where + error.text()


def _drain(stream: IO[bytes], lines: deque[str]) -> None:
    for line in stream:
        if text := line.decode(errors="replace").strip():
            lines.append(text)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the connector and all of its child processes. May be called repeatedly."""
    if process.returncode is not None:
        return
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            # The connector has ended, but child processes that ignored the signal have not.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return
