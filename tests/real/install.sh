#!/bin/sh
# The Debian packages that the tests with real MTAs need; nothing is done where all are there.
set -eu
cd "$(dirname "$0")"
missing=""
while read -r name; do
    case "$name" in "" | \#*) continue ;; esac
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing="$missing $name"
done <debian-packages.txt
[ -z "$missing" ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing
