"""Private PostgreSQL and Valkey for development, tests and one-machine use."""

from caracal.embedded.datadir import DataDir
from caracal.embedded.servers import EmbeddedServers

__all__ = ["DataDir", "EmbeddedServers"]
