"""Signing keys: ``/v1/zones/{zone_id}/signing-key``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from caracal import mandate
from caracal.events.signing_key import SigningKey, newest_key
from caracal.events.store.log import Saved
from caracal.events.store.vault import Vault
from caracal.events.zone import zone_not_found
from caracal.ids import new_id
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.path import ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/signing-key", tags=["signing keys"])


class Rotation(BaseModel):
    zone_id: str
    kid: str
    version: int
    created_at: datetime


def key_pair(vault: Vault, kid: str | None = None) -> dict[str, Any]:
    """Return a new key as ``SigningKey.create`` takes it: ``kid`` and both its parts."""
    key = mandate.SigningKey.generate(kid or new_id())
    return {
        "kid": key.kid,
        "public_jwk": key.public_jwk(),
        "private_key": vault.seal(key.pem()),
    }


@router.post("/rotate", status_code=201)
@refuses()
async def rotate(zone_id: ZoneId, call: CallDep) -> Rotation:
    """Sign with a new key from now on; what the one before signed stays valid."""
    made: list[SigningKey] = []

    async def command() -> Saved:
        newest = await newest_of(call, zone_id)
        made[:] = [newest.successor(**key_pair(call.api.vault))]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    (key,) = made
    return Rotation(
        zone_id=zone_id, kid=key.aggregate_id, version=key.number, created_at=key.created_on
    )


async def newest_of(call: Call, zone_id: str) -> SigningKey:
    """Return the newest key by its guard: the read model may lag, the log does not.

    Raises:
        NotFound: 404 ``zone_not_found``; a zone that is there has a key.
    """
    kid = await call.api.log.owner(newest_key(zone_id))
    newest = await call.find(SigningKey, kid, zone_id) if kid is not None else None
    if newest is None:
        raise zone_not_found(zone_id)
    return newest
