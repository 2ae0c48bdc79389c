"""Starts runs when files arrive, and when a source with `meta.lakehouse.arrives` was loaded."""
