"""The probe of `lakehouse webhook`: whether the server that other systems report loads to answers."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException

from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, skipped
from lakehouse_analytics.webhook.sources import ReportedSources

#: Addresses to listen on that are no addresses to connect to.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_LONGEST = 4096


def webhook(context: ProbeContext) -> Finding:
    """Request `/health`, if there are sources whose loads are reported."""
    sources = ReportedSources.of(context.graph.sources.values())
    if not sources.keys:
        return skipped("no source has arrives: {webhook: true}")
    settings, place = context.settings, fixes.here()
    what = f"loads of {counted(len(sources.keys), 'source table')} are reported ({some(sorted(sources.keys))})"
    if place is fixes.Place.POD:
        # Also with the token: the other pods may get it from the same Secret.
        return skipped(f"{what}, to a pod of its own, which Kubernetes probes")
    if settings.webhook_token is None:
        return skipped(f"{what}, but LAKEHOUSE_WEBHOOK_TOKEN is not set: no webhook runs here")
    host = _EVERYWHERE.get(settings.webhook_host, settings.webhook_host)
    where = f"http://{f'[{host}]' if ':' in host else host}:{settings.webhook_port}/health"
    try:
        problem = _problem(host, settings.webhook_port, context.patience)
    except (OSError, HTTPException) as error:
        problem = f"does not answer: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    if problem:
        return failed(f"{what}, but {where} {problem}", fixes.START_WEBHOOK)
    return fine(f"{where} answers; {what}")


def _problem(host: str, port: int, timeout: float) -> str | None:
    """Return what is wrong with the answer to `/health`; None if it is that of `lakehouse webhook`."""
    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        body = response.read(_LONGEST)
    finally:
        connection.close()
    try:
        is_ours = json.loads(body) == {"status": "ok"}
    except ValueError:
        is_ours = False
    return None if is_ours else f"is answered with {response.status} by another program"
