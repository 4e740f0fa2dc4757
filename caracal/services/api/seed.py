"""The first global token, from ``CARACAL_ADMIN_TOKEN``; the ones before it end.

Only seeds *older* than this process' own end. So while replicas are given a new value one after
the other, one that still has the old value, and starts again, does not revoke the new one.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from hashlib import sha256

from caracal.errors import CaracalError, Conflict, StartError, Unavailable
from caracal.events.admin_token import AdminToken, admin_token_not_found
from caracal.events.base import acting
from caracal.events.store.log import Saved, retrying
from caracal.ids import new_id
from caracal.services.api.call import Api

logger = logging.getLogger(__name__)
_SEED = "env-bootstrap"


async def bootstrap_token(api: Api) -> None:
    """Create the token ``bootstrap`` unless its digest is known, and revoke stale ones.

    Once on however many replicas. A token that was revoked is not revived.

    Raises:
        StartError: the log cannot be read or written.
    """
    if not (text := api.settings.caracal_admin_token):
        return
    try:
        with acting(zone_id=None, actor="system", actor_name=_SEED):
            await _sow(api, sha256(text.encode()).hexdigest())
    except Unavailable as error:
        raise StartError(f"the admin tokens cannot be seeded: {error.description}") from error


async def _sow(api: Api, digest: str) -> None:
    with suppress(Conflict):  # made before, here or on another process
        await api.waiter.applied(await api.log.save(_seed(digest)))
    own, stale = await api.view.seeded(digest, _SEED)
    if own is None:
        logger.warning("CARACAL_ADMIN_TOKEN is a revoked or lesser token; set a fresh one")
    for token_id in stale:
        await _revoke(api, token_id, survivor=str(own))


def _seed(digest: str) -> AdminToken:
    return AdminToken.create(
        new_id(),
        name="bootstrap",
        token_sha256=digest,
        scope="global",
        zone_id=None,
        capability="write",
        created_by=_SEED,
    )


async def _revoke(api: Api, token_id: str, survivor: str) -> None:
    async def command() -> Saved:
        token = await api.log.find(AdminToken, token_id)
        if token is None:
            raise admin_token_not_found(token_id)
        token.revoke(survivor)
        return await api.log.save(token)

    try:
        await api.waiter.applied(await retrying(command))
    except CaracalError as refusal:  # another process was faster
        logger.info("the admin token %s is not revoked: %s", token_id, refusal.description)
