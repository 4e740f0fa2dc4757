"""``client.admin_audit``."""

from __future__ import annotations

from typing import TypedDict, Unpack

from caracal.client.call import Listing, api, merged, one_page
from caracal.client.method import D, Namespace, many


class AdminAuditEvent(TypedDict):
    """A request that changed something, or was refused (``status_code`` from 400)."""

    id: str
    request_id: str | None
    actor_id: str | None
    actor_name: str | None
    actor_scope: str | None
    action: str
    method: str
    path: str
    zone_id: str
    entity_type: str | None
    entity_id: str | None
    status_code: int | None
    occurred_at: str


class AdminAuditQuery(TypedDict, total=False):
    """Which requests to list; ``actor`` is the id of an admin token."""

    since: str | None
    until: str | None
    actor: str | None
    action: str | None
    entity_type: str | None
    entity_id: str | None
    request_id: str | None
    status_code: int | None
    limit: int | None
    cursor: str | None


class AdminAudit(Namespace[D]):
    """What administrators did, read only.

    >>> client.admin_audit.list(zone_id, entity_type="grants")
    >>> client.admin_audit.list(status_code=403)
    """

    @many
    def list(
        self,
        zone_id: str | None = None,
        query: AdminAuditQuery | None = None,
        **more: Unpack[AdminAuditQuery],
    ) -> Listing[AdminAuditEvent]:
        """List requests, newest first: one page, at most ``limit`` (the server's default: 100).

        Without ``zone_id`` those of all zones and of none; a global token is needed.
        """
        below = () if zone_id is None else ("zones", zone_id)
        chosen = merged(AdminAuditQuery, query, more)
        return one_page(api("GET", *below, "admin-audit", query=chosen.items()))

    list_page, iter = list.by_page(), list.each()
