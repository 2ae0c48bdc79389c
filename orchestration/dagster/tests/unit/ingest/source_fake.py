"""A connector for tests: speaks the Airbyte protocol as the scenario beside it says. Standard library only.

A scenario is JSON: `schemas` (stream to properties), and either `steps` (messages to print as they are) or `order`
(streams to send the next record of; in capitals: that stream's STATE), with `total` records a stream in the source.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

scenario: dict[str, Any] = json.loads((Path(__file__).parent / "scenario.json").read_text())
options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))


def emit(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def record(stream: str, data: dict[str, Any], **more: Any) -> None:
    emit({"type": "RECORD", "record": {"stream": stream, "data": data, "emitted_at": 1_700_000_000_000, **more}})


def state(stream: str, cursor: Any) -> None:
    body = {"stream_descriptor": {"name": stream}, "stream_state": {"cursor": cursor}}
    emit({"type": "STATE", "state": {"type": "STREAM", "stream": body}})


def status(stream: str, word: str) -> None:
    body = {"stream_descriptor": {"name": stream}, "status": word}
    emit({"type": "TRACE", "trace": {"type": "STREAM_STATUS", "emitted_at": 1.5, "stream_status": body}})


def crash(how: str) -> NoReturn:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "half a line":
        sys.stdout.write('{"type": "RECORD", "record": {"stream": "us')
        sys.stdout.flush()
    sys.exit(3)


def do(step: dict[str, Any]) -> None:
    match step:
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"clock": path}:
            Path(path).write_text(repr(time.time()))
        case {"config": path}:
            Path(path).write_text(Path(options["--config"]).read_text())
        case {"print": text}:
            print(text, flush=True)
        case {"stderr": text}:
            print(text, file=sys.stderr, flush=True)
        case {"record": [stream, data]}:
            record(stream, data)
        case {"state": [stream, cursor]}:
            state(stream, cursor)
        case {"status": [stream, word]}:
            status(stream, word)
        case {"worker": path}:
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(path).write_text(f"{os.getpid()} {worker.pid}")
        case {"crash": how}:
            crash(how)
        case {"argument": option, "to": path}:
            Path(path).write_text(Path(options[option]).read_text() if option in options else "none")
        case {"environment": path}:
            Path(path).write_text(json.dumps(dict(os.environ)))
        case message:
            emit(message)


def read_in_order() -> None:
    given = json.loads(Path(options["--state"]).read_text()) if "--state" in options else []
    cursors = dict.fromkeys(scenario["total"], 0)
    for item in given:
        cursors[item["stream"]["stream_descriptor"]["name"]] = item["stream"]["stream_state"]["cursor"]
    for index, token in enumerate(scenario["order"]):
        if index == scenario.get("crash_at"):
            crash(scenario["crash"])
        stream = token.lower()
        if token != stream:
            state(stream, cursors[stream])
        elif cursors[stream] < scenario["total"][stream]:
            cursors[stream] += 1
            record(stream, {"id": cursors[stream]})
    for stream in cursors:
        state(stream, cursors[stream])
        status(stream, "COMPLETE")


verb = sys.argv[1]
if verb == "spec":
    properties = {"count": {}, "seed": {}, "password": {"airbyte_secret": True}, "start_date": {}}
    emit({"type": "SPEC", "spec": {"connectionSpecification": {"type": "object", "properties": properties}}})
elif verb == "discover":
    for step in scenario.get("discover_steps", []):
        do(step)
    modes = scenario.get("modes", ["full_refresh", "incremental"])
    streams = [
        {"name": name, "json_schema": {"type": "object", "properties": properties}, "supported_sync_modes": modes}
        for name, properties in scenario["schemas"].items()
    ]
    emit({"type": "CATALOG", "catalog": {"streams": streams}})
elif "steps" in scenario:
    for step in scenario["steps"]:
        do(step)
else:
    read_in_order()
