"""What loads and exports have in common: failures that may pass, such as a lost connection, are retried."""

import dagster as dg

RETRIES = dg.RetryPolicy(max_retries=3, delay=15, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
