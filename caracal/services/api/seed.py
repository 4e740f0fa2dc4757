"""The first global token, from ``CARACAL_ADMIN_TOKEN``."""

from __future__ import annotations

from hashlib import sha256

from caracal.errors import Conflict
from caracal.events.admin_token import AdminToken
from caracal.events.base import acting
from caracal.ids import new_id
from caracal.services.api.call import Api


async def bootstrap_token(api: Api) -> None:
    """Create the token ``bootstrap`` unless its digest is known; once on however many replicas."""
    if not (text := api.settings.caracal_admin_token):
        return
    with acting(zone_id=None, actor="system", actor_name="env-bootstrap"):
        token = AdminToken.create(
            new_id(),
            name="bootstrap",
            token_sha256=sha256(text.encode()).hexdigest(),
            scope="global",
            zone_id=None,
            capability="write",
            created_by="env-bootstrap",
        )
        try:
            saved = await api.log.save(token)
        except Conflict:
            return  # made before, here or on another process; a revoked one stays revoked
    await api.waiter.applied(saved)
