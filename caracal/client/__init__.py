"""Clients of Caracal: of its control plane and Coordinator, and the agents' own side.

>>> from caracal.client import AdminClient
>>> client = AdminClient(api_url="http://localhost:3000", admin_token="cat_...")
>>> client.zones.list()

``Caracal`` is for the agents: it spawns them and hands authority on; ``SyncCaracal`` does so
without an event loop. What resource servers need
stands in ``caracal.client.verify``, ``revocation``, ``guard`` and ``fastapi``.
"""

from __future__ import annotations

from caracal.client.call import NULL, Page
from caracal.client.client import AdminClient, AsyncAdminClient, LocalBootstrapResult
from caracal.client.errors import AdminApiError, AdminCancelledError, AdminTransportError
from caracal.client.runtime import Caracal, SyncCaracal
from caracal.client.token import discover_admin_token
from caracal.errors import CaracalError

__all__ = [
    "NULL",
    "AdminApiError",
    "AdminCancelledError",
    "AdminClient",
    "AdminTransportError",
    "AsyncAdminClient",
    "Caracal",
    "CaracalError",
    "LocalBootstrapResult",
    "Page",
    "SyncCaracal",
    "discover_admin_token",
]
