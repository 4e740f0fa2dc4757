"""Clients of Caracal's control plane and Coordinator.

>>> from caracal.client import AdminClient
>>> client = AdminClient(api_url="http://localhost:3000", admin_token="cat_...")
>>> client.zones.list()
"""

from __future__ import annotations

from caracal.client.call import NULL, Page
from caracal.client.client import AdminClient, AsyncAdminClient, LocalBootstrapResult
from caracal.client.errors import AdminApiError, AdminCancelledError, AdminTransportError
from caracal.client.token import discover_admin_token
from caracal.errors import CaracalError

__all__ = [
    "NULL",
    "AdminApiError",
    "AdminCancelledError",
    "AdminClient",
    "AdminTransportError",
    "AsyncAdminClient",
    "CaracalError",
    "LocalBootstrapResult",
    "Page",
    "discover_admin_token",
]
