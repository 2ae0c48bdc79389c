"""`lakehouse doctor`: checks everything that a deployment needs, and says what is wrong and how to fix it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakehouse_analytics.doctor.probe import Probe


def examine(
    *, as_json: bool = False, timeout: float = 15.0, skip: Collection[str] = (), probes: Sequence[Probe] | None = None
) -> int:
    """Ask every probe and print what it found.

    Args:
        as_json: One list of objects instead of lines.
        timeout: Seconds that each probe has.
        skip: Names of probes to leave out.
        probes: Others than those of the house.

    Returns:
        The exit code (`report.exit_code`). Where a probe hangs, the process ends here.
    """
    import click

    from lakehouse_analytics.doctor import report
    from lakehouse_analytics.doctor.probe import ProbeContext
    from lakehouse_analytics.doctor.probes import PROBES
    from lakehouse_analytics.doctor.run import Run, quiet
    from lakehouse_analytics.doctor.secrets import mask

    began = time.monotonic()
    asked = PROBES if probes is None else probes
    context = ProbeContext(timeout=timeout, left_out=frozenset(skip))
    width = max(len(probe.name) for probe in asked)
    plain = not _shows("✔→…", sys.stdout.encoding)
    results = []
    with quiet():
        run = Run(asked, context, mask())
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
        # Libraries wait for their threads when a process ends in order.
        sys.stdout.flush()
        os._exit(code)
    if instance := getattr(context, "instance", None):
        instance.dispose()
    return code


def _shows(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
