"""Providers: ``/v1/zones/{zone_id}/providers``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field

from caracal.errors import BadInput, Conflict
from caracal.events.provider import Provider, ProviderKind, Sealed, provider_not_found
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Saved
from caracal.events.store.vault import Unreadable
from caracal.ids import log_key, new_id
from caracal.projections.provider import get_provider, list_providers
from caracal.provider_config import Config, hidden_secret, public_only, split
from caracal.services.api import provider_kinds
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.call import no_content
from caracal.services.fields import JsonObject, bounded_json
from caracal.services.models import Answer, Body, Name, Text
from caracal.services.path import PathId, ZoneId

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/zones/{zone_id}/providers", tags=["providers"])


_NOTHING = Config({}, {})
_UNREADABLE = "provider_secret_unreadable"


def _without_hidden(config: dict[str, Any]) -> dict[str, Any]:
    if (path := hidden_secret(config)) is not None:
        where = ".".join(path)
        raise ValueError(f"{where} looks like a secret; it is sealed only in secret_config")
    return config


PublicConfig = Annotated[JsonObject, AfterValidator(_without_hidden)]


class ProviderInput(Body):
    identifier: Name
    kind: ProviderKind
    name: Name | None = None
    owner_type: Name = "customer"
    client_id: Text | None = None
    config_json: PublicConfig = Field(default_factory=dict)
    secret_config: JsonObject | None = None


class ProviderPatch(Body):
    identifier: Name = ""
    kind: ProviderKind = "workload"
    name: Name = ""
    owner_type: Name = ""
    client_id: Text | None = None
    config_json: PublicConfig = Field(default_factory=dict)
    secret_config: JsonObject = Field(default_factory=dict)


class ProviderAnswer(Answer):
    id: str
    zone_id: str
    name: str
    identifier: str
    kind: str
    owner_type: str
    client_id: str | None
    config_json: Annotated[
        dict[str, Any], Field(validation_alias="config"), AfterValidator(public_only)
    ]
    secret_config_keys: list[str]
    created_at: datetime
    updated_at: datetime


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ProviderAnswer]:
    """List providers, newest first."""
    async with call.database() as db:
        rows = await list_providers(db, zone_id, page)
    return [ProviderAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("provider_identifier_conflict")
async def create(zone_id: ZoneId, body: ProviderInput, call: CallDep) -> ProviderAnswer:
    """Create a provider; what is secret in its configuration is sealed and never shown."""
    config = _NOTHING.changed(split(body.config_json, body.secret_config or {}))
    _check(body.kind, body.identifier, config)
    members = body.model_dump(exclude={"config_json", "secret_config"})
    members |= {"name": body.name or body.identifier, "config": config.public}
    provider_id, made = new_id(), list[Provider]()

    async def command() -> Saved:
        sealed = _sealed(call, config.secret)
        made[:] = [Provider.create(provider_id, zone_id=zone_id, sealed=sealed, **members)]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    return ProviderAnswer.of(made[0])


@router.get("/{provider_id}")
@refuses("provider_not_found")
async def get(zone_id: ZoneId, provider_id: PathId, call: CallDep) -> ProviderAnswer:
    """Show a provider."""
    async with call.database() as db:
        row = await get_provider(db, zone_id, provider_id)
    if row is None:
        raise provider_not_found(provider_id)
    return ProviderAnswer(**row)


@router.patch("/{provider_id}")
@refuses("no_fields", "provider_not_found", "provider_identifier_conflict", _UNREADABLE)
async def patch(
    zone_id: ZoneId, provider_id: PathId, body: ProviderPatch, call: CallDep
) -> ProviderAnswer:
    """Change a provider; both parts of its configuration merge by key, null removes one."""
    if not (given := body.given()):
        raise BadInput("no_fields", "nothing to change was sent")
    changed: list[Provider] = []

    async def command() -> Saved:
        provider = await call.find(Provider, provider_id, zone_id)
        if provider is None:
            raise provider_not_found(provider_id)
        provider.check_live()
        await _change(call, provider, dict(given))
        changed[:] = [provider]
        return await call.api.log.save(provider)

    await call.commit(command, zone_id)
    return ProviderAnswer.of(changed[0])


@router.delete("/{provider_id}", status_code=204)
@refuses("provider_not_found")
async def delete(zone_id: ZoneId, provider_id: PathId, call: CallDep) -> Response:
    """Archive a provider and erase its secrets; resources that name it are refused from now on."""
    missing = provider_not_found(provider_id)
    await call.change(Provider, provider_id, zone_id, Provider.archive, missing)
    return no_content(call)


async def _change(call: Call, provider: Provider, changes: dict[str, Any]) -> None:
    """Decide a PATCH: merge both parts, check what comes of it, seal the secret one anew."""
    names = provider.secret_config_keys
    config_json, secret_config = changes.pop("config_json", {}), changes.pop("secret_config", {})
    given = split(config_json, secret_config, names)
    touched = {n: v for n, v in given.secret.items() if v is not None or n in names}
    kind = changes.get("kind", provider.kind)
    opened = touched or kind != provider.kind
    kept = await _kept(call, provider, touched) if opened else {}
    config = Config(provider.config, kept).changed(Config(given.public, touched))
    _check(kind, changes.get("identifier", provider.identifier), config)
    sealed = _sealed(call, config.secret) if touched else None
    provider.change({**changes, "config": config.public}, sealed)


async def _kept(call: Call, provider: Provider, replaced: Mapping[str, Any]) -> dict[str, Any]:
    """Return the secrets that a change leaves as they are.

    Raises:
        VersionConflict: another command replaced them since ``provider`` was read.
        Conflict: 409 ``provider_secret_unreadable``; naming them all anew helps.
    """
    ref = provider.secret_config_ref
    if ref is None or set(provider.secret_config_keys) <= replaced.keys():
        return {}
    try:
        async with call.database() as db:
            return dict(orjson.loads(await call.api.vault.read(db, ref)))
    except Unreadable:
        again = await call.find(Provider, provider.aggregate_id, str(provider.zone_id))
        if again is None or again.secret_config_ref != ref:
            raise VersionConflict(log_key(provider.aggregate_id)) from None
        logger.warning("the secrets of provider %s do not open", provider.aggregate_id)
        lost = "the stored secrets cannot be opened; send or remove every secret key"
        raise Conflict(_UNREADABLE, lost) from None


def _check(kind: str, identifier: str, config: Config) -> None:
    for member, part in (("config_json", config.public), ("secret_config", config.secret)):
        try:
            bounded_json(part)
        except ValueError as problem:
            raise provider_kinds.refused(member, str(problem)) from None
    provider_kinds.check(kind, identifier, config)


def _sealed(call: Call, secret: Mapping[str, Any]) -> Sealed:
    if not secret:
        return Sealed()
    return Sealed(tuple(sorted(secret)), call.api.vault.seal(orjson.dumps(secret)))
