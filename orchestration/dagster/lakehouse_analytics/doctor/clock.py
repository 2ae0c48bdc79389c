"""The zone of schedules and partitions, and whether this machine's clock is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from lakehouse_analytics.common.network import http_date
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, unchecked

#: Tokens and windows of time bear a small difference.
TOLERANCE = timedelta(minutes=1)


def clock(context: ProbeContext) -> Finding:
    """Compared with the clocks of Trino and Airbyte, where they are asked."""
    zone = context.settings.timezone
    words = [f"LAKEHOUSE_TIMEZONE is {zone}, where it is {datetime.now(ZoneInfo(zone)):%H:%M}"]
    wrong = False
    compared = list(_differences(context))
    for who, ahead in compared:
        seconds = abs(ahead.total_seconds())
        if abs(ahead) > TOLERANCE:
            wrong = True
            words.append(f"this machine's clock is {seconds:.0f} s {'ahead of' if ahead > ZERO else 'behind'} {who}'s")
        else:
            words.append(f"this machine's clock agrees with {who}'s")
    if not compared and any(_servers(context)):
        words.append("this machine's clock could not be compared, because no server sent its time")
        return unchecked("; ".join(words))
    if wrong:
        return failed("\n".join(words), fixes.set_clock(fixes.here()))
    return fine("; ".join(words))


ZERO = timedelta(0)


def _differences(context: ProbeContext) -> Iterator[tuple[str, timedelta]]:
    for who, ask in _servers(context):
        # A server that cannot be reached is another probe's finding.
        with suppress(Exception):
            before = datetime.now(UTC)
            said = http_date(ask())
            # In the middle of the time that the answer took; it has whole seconds.
            ours = before + (datetime.now(UTC) - before) / 2
            if said:
                yield who, ours - said


def _servers(context: ProbeContext) -> Iterator[tuple[str, Callable[[], str]]]:
    import requests

    # Two of them fit into the time of one probe.
    timeout = context.patience / 2

    def trino() -> str:
        from lakehouse_analytics.doctor.coordinator import server_of
        from lakehouse_analytics.engines.trino.session import http_session

        server = server_of(context)
        with http_session(server) as session:
            return session.get(f"{server.address}/v1/info", timeout=timeout).headers["Date"]

    def airbyte() -> str:
        # Whatever it answers without a log-in, it says when.
        answer = requests.get(f"{context.settings.airbyte_url}/health", timeout=timeout, allow_redirects=False)
        return answer.headers["Date"]

    if context.engine_type.name == "trino" and "engine" not in context.left_out:
        yield "Trino", trino
    if context.settings.airbyte_url and "airbyte" not in context.left_out:
        yield "Airbyte", airbyte
