"""A real lakehouse on this machine, without Docker: PostgreSQL, an S3 server and Trino on loopback."""
