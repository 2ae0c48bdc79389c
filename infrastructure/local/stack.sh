#!/usr/bin/env bash
# Runs the local stack's tool in an environment of its own: stack.sh up | down | status | start PART | stop PART | kill PART
# The environment lies outside the tree, so that checkouts share it and `make clean` leaves it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME: downloads are kept there}/.cache}/lakehouse-analytics
environment=$cache/stack-$(cksum <"$here/requirements.lock" | cut -d' ' -f1)

if ! "$environment/bin/python" -c '' 2>/dev/null; then
  uv=$here/../../.tools/bin/uv
  [ -x "$uv" ] || uv=$(command -v uv) || { echo "stack: uv is missing; \`make stack-up\` installs it into .tools" >&2; exit 1; }
  echo "Installing the stack's environment into $environment (once)"
  mkdir -p "$cache"
  # Built aside and renamed at the end: an interrupted or a second install never leaves half of one.
  building=$(mktemp -d "$cache/.building-XXXXXX")
  trap 'rm -rf "$building"' EXIT
  "$uv" venv --quiet --relocatable --python "${PYTHON:-python3}" "$building/environment"
  "$uv" pip install --quiet --python "$building/environment/bin/python" --require-hashes -r "$here/requirements.lock"
  if [ -e "$environment" ] && ! "$environment/bin/python" -c '' 2>/dev/null; then mv "$environment" "$building/broken"; fi
  # Unlike `mv`, a rename never moves into a folder that another install made meanwhile.
  "$building/environment/bin/python" -c 'import os, sys; os.rename(*sys.argv[1:])' \
    "$building/environment" "$environment" 2>/dev/null || "$environment/bin/python" -c ''
  rm -rf "$building"
  trap - EXIT
fi

PYTHONPATH=$here exec "$environment/bin/python" -B -m stack "$@"
