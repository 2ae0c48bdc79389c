#!/usr/bin/env bash
# Starts the image as a pod would, without a network: it has everything that it needs. `make image-test` calls it.
#   smoke.sh IMAGE [docker|podman|a command that takes their options [VALUES-FILE …]]
# Its environment is that of the code server in the values files; by default, in those of this repository.
set -euo pipefail

image=${1:?the image, with its tag}
engine=${2:-$(command -v docker || command -v podman || true)}
[[ -n $engine ]] || { echo "Neither docker nor podman is installed: one of them starts the image."; exit 1; }
values=("${@:3}")
((${#values[@]})) || values=("$(dirname "${BASH_SOURCE[0]}")/dagster/values.yaml")

# As the `restricted` Pod Security Standard has it, with an empty volume for scratch.
as_pod=(--network none --cap-drop ALL --security-opt no-new-privileges
    --tmpfs /tmp:rw,size=1g,mode=1777 --env TMPDIR=/tmp --env DAGSTER_HOME=/tmp)
run() { "$engine" run --rm --read-only "${as_pod[@]}" "$@"; }

said=$(run "$image" id -u)
[[ $said == 10001 ]] || { echo "It runs as user $said, not 10001."; exit 1; }
echo "user           10001"

# `env` of the code server, from the last file that has deployments, as helm merges them.
read_env='
import sys, yaml
files = [(one or {}).get("dagster-user-deployments", {}) for one in yaml.safe_load_all(sys.stdin)]
found = [deployment for file in files if file.get("deployments") for deployment in [file["deployments"]]]
ours = [one for one in found[-1] if "lakehouse_analytics.definitions" in one.get("dagsterApiGrpcArgs", [])]
env = (ours or found[-1])[0].get("env") or {}
pairs = env.items() if isinstance(env, dict) else [(one["name"], one.get("value", "")) for one in env]
sys.stdout.write("".join(f"{name}={value}\0" for name, value in pairs))
'
pod=() loading=()
while IFS= read -r -d '' variable; do
    pod+=(--env "$variable")
    # What needs a Secret or a mounted file beside it cannot be loaded here.
    case $variable in
        LAKEHOUSE_NOTIFY* | LAKEHOUSE_SLACK* | LAKEHOUSE_SMTP* | LAKEHOUSE_AIRBYTE* | *_CA_BUNDLE=* | *_CERTIFICATE=* | *_KEY=*) ;;
        *) loading+=(--env "$variable") ;;
    esac
done < <(for file in "${values[@]}"; do echo ---; cat "$file"; done | run --interactive "$image" python -c "$read_env")
((${#loading[@]})) || { echo "No environment of the code server in ${values[*]}."; exit 1; }

# The manifests of the build are those of the pods' environment: each target's, and the one that a pod uses.
said=$(run "${pod[@]}" "$image" lakehouse manifest --check) || {
    echo "The pods do not accept the manifest of the image. Build it with the values of ${values[*]}, or correct them."
    exit 1
}
used=$(basename "$(dirname "$said")")
echo "manifest       $used, which the pods use"
for target in $(run "$image" sh -c 'ls "$LAKEHOUSE_DBT_PROJECT_DIR/target"'); do
    [[ $target != "$used" ]] || continue
    adapter=$(run "$image" sh -c "grep '\"type\"' \"\$LAKEHOUSE_DBT_PROJECT_DIR/target/$target/lakehouse_fingerprint.json\"")
    case $adapter in *duckdb*) environment=local ;; *) environment=prod ;; esac
    run "${pod[@]}" --env LAKEHOUSE_ENV="$environment" --env LAKEHOUSE_DBT_TARGET="$target" "$image" \
        lakehouse manifest --check >/dev/null
    echo "manifest       $target"
done
said=$(run "${pod[@]}" --env LAKEHOUSE_DBT_VARS='{not_of_the_build: 1}' "$image" lakehouse manifest --check 2>&1) && {
    echo "It takes a manifest that was made with other variables of dbt."
    exit 1
}
[[ $said == *"\`not_of_the_build\` of LAKEHOUSE_DBT_VARS"*"building the image again"* ]] || { echo "$said"; exit 1; }
echo "stale          a manifest of other variables, and the error says which"

# A start parses nothing: dbt is not even imported.
run "${loading[@]}" "$image" python -c "
import sys
import lakehouse_analytics.definitions as d
d.defs()
sys.exit('It imports dbt to load.' if 'dbt' in sys.modules else 0)"
echo "loads          without dbt"

# The root file system of a pod is read-only: a module without bytecode would be compiled at every start.
compiled=$(run "${loading[@]}" "$image" python -v -c "import lakehouse_analytics.definitions as d; d.defs()" 2>&1 |
    awk '/^# code object from \// && ++n <= 5 {print $5}')
[[ -z $compiled ]] || { echo "These modules have no bytecode, so each start compiles them: $compiled"; exit 1; }
echo "bytecode       of every module that loading imports"

# The code server, as the image starts it and as its probe asks it.
server=$("$engine" run --detach --read-only "${as_pod[@]}" "${loading[@]}" "$image")
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
