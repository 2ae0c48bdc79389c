"""Recovery from failures around a run: launches that failed halfway, a lost database connection, and missed retries."""
