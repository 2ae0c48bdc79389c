#!/usr/bin/env bash
# Makes the credentials of compose.yaml, once: credentials.sh [FILE], by default infrastructure/local/.env,
# which `docker compose` reads by itself and git ignores. A file that exists is left alone.
set -euo pipefail
umask 077

file=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.env}
if [ -e "$file" ]; then
  echo "$file exists; kept."
  exit 0
fi

secret() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }

# Each in a step of its own, so that a failure ends the script.
postgres=$(secret 24)
dagster=$(secret 24)
iceberg=$(secret 24)
rpc=$(secret 32)
key=GK$(secret 12)
secret_key=$(secret 32)

# Written aside and moved into place: never half a file.
fresh=$(mktemp "$file.XXXXXX")
trap 'rm -f "$fresh"' EXIT
cat >"$fresh" <<END
# Made by compose/credentials.sh. The volumes keep what they were made with: delete this file only together
# with them (docker compose down --volumes, before).
LOCAL_POSTGRES_PASSWORD=$postgres
LOCAL_DAGSTER_DB_PASSWORD=$dagster
LOCAL_ICEBERG_DB_PASSWORD=$iceberg
LOCAL_GARAGE_RPC_SECRET=$rpc
LOCAL_S3_ACCESS_KEY_ID=$key
LOCAL_S3_SECRET_ACCESS_KEY=$secret_key
END
mv -n "$fresh" "$file"
echo "Wrote $file."
