"""The probe of time: the time zone of schedules and partitions, and the accuracy of this machine's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from lakehouse_analytics.common.network import http_date
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, unchecked

#: Maximum acceptable difference. Tokens and time windows tolerate differences this small.
TOLERANCE = timedelta(minutes=1)


def clock(context: ProbeContext) -> Finding:
    """Compare this machine's clock with those of Trino and Airbyte, if they are in use."""
    zone = context.settings.timezone
    words = [f"LAKEHOUSE_TIMEZONE is {zone}, where it is {datetime.now(ZoneInfo(zone)):%H:%M}"]
    wrong = False
    compared = list(_differences(context))
    for server, offset in compared:
        seconds = abs(offset.total_seconds())
        if abs(offset) > TOLERANCE:
            wrong = True
            words.append(
                f"this machine's clock is {seconds:.0f} s {'ahead of' if offset > ZERO else 'behind'} {server}'s"
            )
        else:
            words.append(f"this machine's clock agrees with {server}'s")
    if not compared and any(_servers(context)):
        words.append("this machine's clock could not be compared, because no server sent its time")
        return unchecked("; ".join(words))
    if wrong:
        return failed("\n".join(words), fixes.set_clock(fixes.here()))
    return fine("; ".join(words))


ZERO = timedelta(0)


def _differences(context: ProbeContext) -> Iterator[tuple[str, timedelta]]:
    for server, get_date in _servers(context):
        # An unreachable server is reported by its own probe.
        with suppress(Exception):
            started = datetime.now(UTC)
            their_time = http_date(get_date() or "")
            # The answer was produced between these two readings, so compare with their midpoint. The header has whole
            # seconds.
            ours = started + (datetime.now(UTC) - started) / 2
            if their_time:
                yield server, ours - their_time


def _servers(context: ProbeContext) -> Iterator[tuple[str, Callable[[], str | None]]]:
    import requests

    # The probe makes two requests, so each gets half of its time.
    timeout = context.patience / 2

    def trino() -> str | None:
        from lakehouse_analytics.doctor.coordinator import probe_server
        from lakehouse_analytics.engines.trino.server_info import server_info
        from lakehouse_analytics.engines.trino.session import http_session

        server = probe_server(context)
        with http_session(server) as session:
            return server_info(server, session, timeout).date

    def airbyte() -> str:
        # Every response has a Date header, even if the request is not authenticated.
        answer = requests.get(f"{context.settings.airbyte_url}/health", timeout=timeout, allow_redirects=False)
        return answer.headers["Date"]

    if context.engine_type.name == "trino" and "engine" not in context.left_out:
        yield "Trino", trino
    if context.settings.airbyte_url and "airbyte" not in context.left_out:
        yield "Airbyte", airbyte
