#!/usr/bin/env bash
# Prints what a shell on this machine needs to use the lakehouse of compose.yaml, passwords included:
#   set -a; eval "$(infrastructure/local/compose/host-env.sh)"; set +a
set -euo pipefail

file=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.env
[ -r "$file" ] || { echo "$file is missing: run infrastructure/local/compose/credentials.sh first" >&2; exit 1; }
# Only the names of compose.yaml, as it reads them: what the shell has set wins.
value() {
  if [ -n "${!1:-}" ]; then printf '%s' "${!1}"; else sed -n "s/^$1=//p" "$file"; fi
}
port() {
  local set
  set=$(value "$1")
  printf '%s' "${set:-$2}"
}

cat <<END
LAKEHOUSE_ENV=trino
LAKEHOUSE_TRINO_HOST=localhost
LAKEHOUSE_TRINO_PORT=$(port LOCAL_TRINO_PORT 8080)
LAKEHOUSE_TRINO_HTTP_SCHEME=http
LAKEHOUSE_ICEBERG_CATALOG=lakehouse
AWS_REQUEST_CHECKSUM_CALCULATION=when_required
PYICEBERG_CATALOG__LAKEHOUSE__TYPE=sql
PYICEBERG_CATALOG__LAKEHOUSE__URI=postgresql+psycopg2://iceberg:$(value LOCAL_ICEBERG_DB_PASSWORD)@localhost:$(port LOCAL_POSTGRES_PORT 5432)/iceberg
PYICEBERG_CATALOG__LAKEHOUSE__WAREHOUSE=s3://lakehouse/warehouse
PYICEBERG_CATALOG__LAKEHOUSE__S3__ENDPOINT=http://localhost:$(port LOCAL_S3_PORT 3900)
PYICEBERG_CATALOG__LAKEHOUSE__S3__REGION=garage
PYICEBERG_CATALOG__LAKEHOUSE__S3__FORCE_VIRTUAL_ADDRESSING=false
PYICEBERG_CATALOG__LAKEHOUSE__S3__ACCESS_KEY_ID=$(value LOCAL_S3_ACCESS_KEY_ID)
PYICEBERG_CATALOG__LAKEHOUSE__S3__SECRET_ACCESS_KEY=$(value LOCAL_S3_SECRET_ACCESS_KEY)
END
