# The environment of every make recipe, sourced by each (BASH_ENV): `.env`, then what follows from it.
_root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
if [ -f "$_root/.env" ]; then
  . "$_root/.env"
fi
# The project of this repository keeps to every policy; other projects get warnings.
if [ -z "${LAKEHOUSE_DBT_PROJECT_DIR:-}" ]; then
  : "${LAKEHOUSE_STRICT:=true}"
fi
# On Trino, without another one named: the local stack that `make stack-up` started.
_stack=${LAKEHOUSE_STACK_DIR:-$_root/.stack}
if [ "${LAKEHOUSE_ENV:-local}" = trino ] && [ -z "${LAKEHOUSE_TRINO_HOST:-}" ] && [ -r "$_stack/env" ]; then
  . "$_stack/env"
fi
# One history for each engine: row counts are compared with their own.
if [ -z "${DAGSTER_HOME:-}" ]; then
  DAGSTER_HOME=$_root/.dagster_home
  [ "${LAKEHOUSE_ENV:-local}" = local ] || DAGSTER_HOME=$DAGSTER_HOME/$LAKEHOUSE_ENV
fi
# The materialisations of a run of many partitions are stored together.
: "${DAGSTER_EVENT_BATCH_SIZE:=1000}"
unset _root _stack
