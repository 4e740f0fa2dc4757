#!/usr/bin/env bash
# One `caracal up --demo --once` as an ordinary user, with a home of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$(mktemp -d /tmp/caracal-user.XXXXXX)
trap 'rm -rf "$home"' EXIT
if [ "$(id -u)" = 0 ]; then
  chown 60999:60999 "$home"
  # The checkout may lie below a directory that only root may enter: install for the user.
  python3 -m venv "$home/venv" >/dev/null
  cp requirements.lock "$home/"
  "$home/venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$home/requirements.lock"
  "$home/venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation .
  rm -rf build caracal.egg-info
  chown -R 60999:60999 "$home"
  cd "$home"
  env -i HOME="$home" PATH="$PATH" LANG=C.UTF-8 setpriv --reuid=60999 --regid=60999 --clear-groups \
    "$home/venv/bin/caracal" up --demo --once --port-base 0 --data-dir "$home/data"
else
  .venv/bin/caracal up --demo --once --port-base 0 --data-dir "$home/data"
fi
