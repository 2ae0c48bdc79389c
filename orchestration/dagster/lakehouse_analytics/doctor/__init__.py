"""`lakehouse doctor` checks everything that a deployment needs, and reports what is wrong and how to fix it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakehouse_analytics.doctor.probe import Probe


def run_doctor(
    *, as_json: bool = False, timeout: float = 15.0, skip: Collection[str] = (), probes: Sequence[Probe] | None = None
) -> int:
    """Run the probes and print their results.

    Args:
        as_json: Print one list of objects instead of lines of text.
        timeout: Time limit of each probe, in seconds.
        skip: Names of the probes to skip.
        probes: The probes to run; by default, all of `PROBES`.

    Returns:
        The exit code (see `report.exit_code`). If a probe hangs, this function ends the process instead of returning.
    """
    import click

    from lakehouse_analytics.doctor import report
    from lakehouse_analytics.doctor.probe import ProbeContext
    from lakehouse_analytics.doctor.probes import PROBES
    from lakehouse_analytics.doctor.run import Run, quiet
    from lakehouse_analytics.doctor.secrets import mask

    began = time.monotonic()
    selected = PROBES if probes is None else probes
    context = ProbeContext(timeout=timeout, left_out=frozenset(skip))
    width = max(len(probe.name) for probe in selected)
    plain = not _can_encode("✔→…", sys.stdout.encoding)
    results = []
    with quiet():
        run = Run(selected, context, mask())
        run.load()
        for result in run.results():
            results.append(result)
            if not as_json:
                click.echo(report.lines(result, width, plain=plain))
    if as_json:
        click.echo(report.as_json(results))
    else:
        click.echo("\n" + report.summary(results, time.monotonic() - began))
    code = report.exit_code(results)
    if run.hangs:
        # Exit without cleanup: a regular exit would wait for the threads that libraries have started.
        sys.stdout.flush()
        os._exit(code)
    if instance := getattr(context, "instance", None):
        instance.dispose()
    return code


def _can_encode(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
