"""What goes wrong around a run: launches that fail half-way, lost databases, retries that Dagster forgets."""
