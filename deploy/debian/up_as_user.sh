#!/usr/bin/env bash
# One `caracal up --demo --once` as an ordinary user, with a home of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$(mktemp -d /tmp/caracal-user.XXXXXX)
trap 'rm -rf "$home"' EXIT
if [ "$(id -u)" = 0 ]; then
  chown nobody:nogroup "$home"
  as_user="setpriv --reuid=nobody --regid=nogroup --clear-groups"
  bare="env -i HOME=$home LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin"
  # Checkout and interpreter may lie below a directory that only root may enter: the user gets
  # an environment of their own, of a Python that they can run.
  $bare $as_user python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
  }
  mkdir "$home/source"
  git archive HEAD | tar -x -C "$home/source"
  chown -R nobody:nogroup "$home/source"
  $bare $as_user python3 -m venv "$home/venv"
  # By the user's own Python: the lock's markers ask for its version.
  pip="env HOME=$home $as_user $home/venv/bin/python -m pip install --quiet --no-deps --no-cache-dir"
  $pip --require-hashes -r "$home/source/requirements.lock"
  $pip --no-build-isolation "$home/source"
  cd "$home"
  $bare $as_user "$home/venv/bin/caracal" up --demo --once --port-base 0 --data-dir "$home/data"
else
  .venv/bin/caracal up --demo --once --port-base 0 --data-dir "$home/data"
fi
