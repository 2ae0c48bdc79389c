#!/usr/bin/env bash
# Starts the image as a pod would, without a network: it has everything, and asks nobody. `make image-test` calls it.
#   smoke.sh IMAGE [docker|podman|a command with their options]
set -euo pipefail

image=${1:?the image, with its tag}
engine=${2:-$(command -v docker || command -v podman || true)}
[[ -n $engine ]] || { echo "Neither docker nor podman is installed: one of them starts the image."; exit 1; }

# As the `restricted` Pod Security Standard has it, with an empty volume for scratch.
as_pod=(--network none --cap-drop ALL --security-opt no-new-privileges
    --tmpfs /tmp:rw,size=1g,mode=1777 --env TMPDIR=/tmp --env DAGSTER_HOME=/tmp)
run() { "$engine" run --rm --read-only "${as_pod[@]}" "$@"; }

said=$(run "$image" id -u)
[[ $said == 10001 ]] || { echo "It runs as user $said, not 10001."; exit 1; }
echo "user           10001"

for environment in local trino; do
    run --env LAKEHOUSE_ENV="$environment" --env LAKEHOUSE_DUCKDB_PATH=/tmp/lakehouse.duckdb "$image" \
        python -c "import lakehouse_analytics.definitions as d; d.defs()"
    echo "loads          $environment"
done

# The root file system of a pod is read-only: a module without bytecode would be compiled at every start.
compiled=$(run "$image" python -v -c "import lakehouse_analytics.definitions as d; d.defs()" 2>&1 |
    awk '/^# code object from \// && ++n <= 5 {print $5}')
[[ -z $compiled ]] || { echo "These modules have no bytecode, so each start compiles them: $compiled"; exit 1; }
echo "bytecode       of every module that loading imports"

# The code server, as the image starts it and as its probe asks it.
server=$("$engine" run --detach --read-only "${as_pod[@]}" "$image")
trap '"$engine" rm --force "$server" >/dev/null 2>&1 || true' EXIT
for second in $(seq 90); do
    "$engine" exec "$server" python -m lakehouse_analytics.health 4000 2>/dev/null && break
    if [[ $second == 90 ]]; then "$engine" logs "$server" || true; exit 1; fi
    sleep 1
done
echo "serves         gRPC on 4000"
# A signal that process 1 does not hand on would be waited for until the kill.
began=$SECONDS
"$engine" stop --time 60 "$server" >/dev/null
((SECONDS - began < 50)) || { echo "SIGTERM did not end it."; exit 1; }
echo "ends           on SIGTERM"

# Not its own to change, whatever the file system.
said=$("$engine" run --rm "${as_pod[@]}" "$image" sh -c 'touch /opt/lakehouse/dbt/x 2>&1 || true')
[[ $said == *"Permission denied"* ]] || { echo "Its project can be written to: $said"; exit 1; }
echo "root's own     /opt/lakehouse"
