"""Load the code location as a code server does, and print what it declares as JSON. Runs as a program."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any


def declared() -> dict[str, Any]:
    """Return what the code location declares, as the fields of `probe.Location`."""
    from dagster import DefaultScheduleStatus, DefaultSensorStatus

    from lakehouse_analytics.definitions import defs

    repository = defs().get_repository_def()
    return {
        "assets": len(repository.asset_graph.executable_asset_keys),
        "jobs": len([name for name in repository.job_names if not name.startswith("__")]),
        "schedules": {s.name: s.default_status is DefaultScheduleStatus.RUNNING for s in repository.schedule_defs},
        "sensors": {s.name: s.default_status is DefaultSensorStatus.RUNNING for s in repository.sensor_defs},
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        answer = declared()
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        answer = {"error": str(error).strip() or type(error).__name__}
        if type(error).__module__.partition(".")[0] != "lakehouse_analytics":
            answer["error"] = f"{type(error).__name__}: {answer['error'].splitlines()[0]}"
    print(json.dumps(answer))  # noqa: T201
