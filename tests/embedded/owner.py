"""A program for the tests: starts the servers of a directory, says who they are, and waits."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from caracal.embedded import EmbeddedServers

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
servers = EmbeddedServers(Path(sys.argv[1]))
servers.start()
print(servers.postgres_pid, servers.valkey_pid, servers.database_url, servers.redis_url, flush=True)
signal.sigwait({signal.SIGTERM})
servers.stop()
