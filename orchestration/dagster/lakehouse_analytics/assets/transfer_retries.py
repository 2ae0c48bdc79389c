"""What loads and exports have in common: failures that may pass, such as a lost connection, are retried."""

from typing import NoReturn

import dagster as dg

RETRIES = dg.RetryPolicy(max_retries=3, delay=15, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def fail_or_retry(context: dg.AssetExecutionContext, message: str, *, transient: bool) -> NoReturn:
    """Fail the op, or execute it again if the failure may pass and retries are left.

    The ops have no retry policy: Dagster applies a policy to every exception and to interrupts as well, so that a run
    that was canceled would start again.

    Args:
        context: The context of the op.
        message: The reason.
        transient: Whether the failure may pass.

    Raises:
        dg.RetryRequested: The op is executed again. The cause has the reason, so that the event shows it.
        dg.Failure: The op failed.
    """
    if transient and context.retry_number < RETRIES.max_retries:
        delay = RETRIES.calculate_delay(context.retry_number + 1)
        raise dg.RetryRequested(RETRIES.max_retries, delay) from dg.Failure(message)
    raise dg.Failure(message, allow_retries=False) from None
