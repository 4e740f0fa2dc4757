#!/usr/bin/env bash
# The contracts of log, relay and projections on Debian's own postgresql and redis-server:
# private instances on free ports and a temporary directory, stopped by pid.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || ! command -v redis-server >/dev/null; then
  run=""; [ "$(id -u)" = 0 ] || run="sudo"
  $run apt-get update -qq
  # Debian starts a cluster and a server at installation; ours are private.
  printf 'exit 101\n' | $run tee /usr/sbin/policy-rc.d >/dev/null; $run chmod +x /usr/sbin/policy-rc.d
  DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends postgresql redis-server >/dev/null
  $run rm -f /usr/sbin/policy-rc.d
fi

pg=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
dir=$(mktemp -d /tmp/caracal-debian.XXXXXX)
as=""
if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; as="setpriv --reuid=postgres --regid=postgres --clear-groups"; fi
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
pg_port=$(port); redis_port=$(port)

$as "$pg/initdb" -D "$dir/pg" --locale=C -E UTF8 -U caracal --auth=trust >/dev/null
$as "$pg/postgres" -D "$dir/pg" -p "$pg_port" -k "$dir" -c listen_addresses=127.0.0.1 -c max_connections=200 >"$dir/pg.log" 2>&1 &
pg_pid=$!
redis-server --port "$redis_port" --bind 127.0.0.1 --dir /tmp --save '' --databases 64 --maxmemory-policy noeviction >/dev/null &
redis_pid=$!
trap 'kill -INT $pg_pid 2>/dev/null; kill $redis_pid 2>/dev/null; wait; rm -rf "$dir"' EXIT

for _ in $(seq 100); do "$pg/pg_isready" -q -h 127.0.0.1 -p "$pg_port" && break; sleep 0.1; done
redis-cli -p "$redis_port" ping >/dev/null
"$pg/createdb" -h 127.0.0.1 -p "$pg_port" -U caracal caracal
echo "$("$pg/postgres" --version), $(redis-server --version | cut -d' ' -f3)"

export CARACAL_TEST_DATABASE_URL="postgresql://caracal@127.0.0.1:$pg_port/caracal"
export CARACAL_TEST_REDIS_URL="redis://127.0.0.1:$redis_port"
contracts() { .venv/bin/python -m pytest -q tests/store tests/projections "$@"; }
# Once more what failed on a machine that was too busy, as in .ci/run.
contracts || contracts --last-failed --last-failed-no-failures none
