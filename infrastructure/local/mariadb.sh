#!/usr/bin/env bash
# Unpacks MariaDB's server and the libraries that this machine does not have from Debian packages, without root:
# mariadb.sh FOLDER. The tests of tables of databases start it.
set -euo pipefail

folder=$1
packages=mariadb-server-core
mkdir -p "$(dirname "$folder")"
building=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$building"' EXIT

options=(-qq)
if ! apt-cache show $packages >/dev/null 2>&1; then
  # No list of packages, such as in a fresh container. Only root may write the machine's own.
  mkdir -p "$building/lists/partial" "$building/cache/archives/partial"
  options+=(-o "Dir::State::Lists=$building/lists" -o "Dir::Cache=$building/cache")
  apt-get "${options[@]}" update
fi
mapfile -t missing < <(apt-get "${options[@]}" --simulate --no-install-recommends install $packages | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
(cd "$building" && apt-get "${options[@]}" download "${missing[@]}" 2>/dev/null)
mkdir "$building/root"
for package in "$building"/*.deb; do
  dpkg-deb --extract "$package" "$building/root"
done
chmod 755 "$building/root"
rm -rf "$folder"
mv "$building/root" "$folder"
