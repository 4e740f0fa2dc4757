"""``POST /v1/local/bootstrap``: a zone ready to use on the developer's own machine.

All of it has fixed ids and is made in one transaction, so who calls at the same time, or again,
finds the same things.
"""

from __future__ import annotations

import secrets
from importlib import resources

from fastapi import APIRouter
from pydantic import BaseModel

from caracal import secret_hash
from caracal.errors import Conflict, Forbidden
from caracal.events.application import Application
from caracal.events.base import Aggregate
from caracal.events.guards import Secret
from caracal.events.policy import Policy
from caracal.events.policy_set import PolicySet
from caracal.events.resource import Resource
from caracal.events.signing_key import SigningKey
from caracal.events.store.log import Saved
from caracal.events.store.vault import Unreadable
from caracal.events.zone import Zone
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.policy_contract import SCHEMA_VERSION
from caracal.services.api.signing_key import key_pair, newest_of
from caracal.services.api.zone import new_data_key
from caracal.services.models import Body
from caracal.services.proxy_headers import is_local

router = APIRouter(prefix="/v1/local", tags=["local"])

ZONE, APPLICATION, RESOURCE = "zone1", "app1", "resource1"
POLICY, POLICY_SET = "local-dev-allow", "local-dev-policy-set"
IDENTIFIER, SCOPES = "resource://example", ("read", "agent:lifecycle")
_SECRET_BYTES = 24
_CONTENT = resources.files(__package__).joinpath("local_dev_allow.rego").read_text()


class BootstrapInput(Body):
    force: bool = False


class LocalBootstrap(BaseModel):
    zone_id: str = ZONE
    app_id: str = APPLICATION
    application_id: str = APPLICATION
    app_client_id: str = f"{ZONE}:{APPLICATION}"
    app_client_secret: str | None
    resource: str = IDENTIFIER
    scope: str = " ".join(SCOPES)
    rotated: bool
    signing_key_resealed: bool


@router.post("/bootstrap", status_code=201, responses={200: {"model": LocalBootstrap}})
@refuses("not_found", "loopback_only", "zone_not_local_bootstrap", "zone_slug_conflict")
async def bootstrap(body: BootstrapInput, call: CallDep) -> LocalBootstrap:
    """Make the zone ``zone1`` with an application, a resource and a policy that allows all.

    200 when it is there already; ``force`` gives its application a new secret. For development:
    the route exists only with ``CARACAL_LOCAL_BOOTSTRAP_ENABLED=true``, for loopback peers.
    """
    if not is_local(call.request.scope):
        raise Forbidden("loopback_only", "bootstrap answers callers on this machine only")
    secret = secrets.token_hex(_SECRET_BYTES)
    if await call.api.log.find(Zone, ZONE) is None and await _create(call, secret):
        return LocalBootstrap(app_client_secret=secret, rotated=False, signing_key_resealed=False)
    await _check_ours(call)
    resealed = await _reseal(call)
    if body.force:
        await _rotate(call, secret)
    call.response.status_code = 200
    return LocalBootstrap(
        app_client_secret=secret if body.force else None,
        rotated=body.force,
        signing_key_resealed=resealed,
    )


async def _create(call: Call, secret: str) -> bool:
    """Make all of it; False when somebody else has by now."""

    async def command() -> Saved:
        return await call.api.log.save(*_things(call, secret))

    try:
        await call.commit(command, ZONE)
    except Conflict:
        if await call.api.log.find(Zone, ZONE) is None:
            raise  # another zone has the slug
        return False
    return True


def _things(call: Call, secret: str) -> list[Aggregate]:
    zone = Zone.create(
        ZONE,
        slug="local-dev",
        data_key=new_data_key(call),
        name="Local Dev",
        org_id="local",
        dcr_enabled=True,
        pkce_required=False,
        login_flow="default",
    )
    pair = key_pair(call.api.vault, f"{ZONE}-signing-key-v1")
    key = SigningKey.create(zone_id=ZONE, **pair)
    return [zone, key, _application(call, secret), _resource(call), *_policies(call)]


def _application(call: Call, secret: str) -> Application:
    return Application.create(
        APPLICATION,
        zone_id=ZONE,
        secret=_sealed(call, secret),
        name="Local Dev App",
        registration_method="managed",
        credential_type="password",
        jwks=None,
        jwks_uri=None,
        traits=[],
        consent="implicit",
    )


def _sealed(call: Call, secret: str) -> Secret:
    return call.api.vault.seal(secret_hash.of_random(secret).encode())


def _resource(call: Call) -> Resource:
    return Resource.create(
        RESOURCE,
        zone_id=ZONE,
        quota=call.api.settings.api_max_resources_per_zone,
        identifier=IDENTIFIER,
        name=IDENTIFIER,
        scopes=list(SCOPES),
        upstream_url=None,
        prefix_match=False,
        provider_id=None,
        gateway_application_id=APPLICATION,
        protocol="http",
        rate_limit=None,
    )


def _policies(call: Call) -> tuple[Policy, PolicySet]:
    policy = Policy.create(
        POLICY,
        zone_id=ZONE,
        name=POLICY,
        description="Allows all. For development only.",
        owner_type="customer",
        created_by=call.token["name"],
    )
    version = policy.add_version(f"{POLICY}-v1", content=_CONTENT, schema_version=SCHEMA_VERSION)
    made = PolicySet.create(POLICY_SET, zone_id=ZONE, name=POLICY_SET, description=None)
    chosen = made.add_version(
        f"{POLICY_SET}-v1",
        manifest=[version.id],
        schema_version=SCHEMA_VERSION,
        policies=[POLICY],
    )
    made.activate(chosen.id, policies=[POLICY], replacing=None)
    return policy, made


async def _check_ours(call: Call) -> None:
    """Refuse a zone that bootstrap did not make, or of which not all is left.

    Ids that have ended are never live again, so nothing can be made anew under them.
    """
    found = (
        await call.find(Zone, ZONE, ZONE),
        await call.find(Application, APPLICATION, ZONE),
        await call.find(Resource, RESOURCE, ZONE),
    )
    if any(thing is None or thing.archived for thing in found):
        raise Conflict(
            "zone_not_local_bootstrap",
            f"{ZONE} was not made by bootstrap, or {APPLICATION} or {RESOURCE} was archived",
        )


async def _rotate(call: Call, secret: str) -> None:
    missing = Conflict("zone_not_local_bootstrap", f"{APPLICATION} was archived")
    sealed = _sealed(call, secret)
    await call.change(Application, APPLICATION, ZONE, lambda app: app.change({}, sealed), missing)


async def _reseal(call: Call) -> bool:
    """Replace a signing key that the vault does not open any more; say whether it was one."""
    things: list[SigningKey] = []

    async def command() -> Saved:
        newest, things[:] = await newest_of(call, ZONE), []
        if not await _opens(call, newest):
            made = newest.successor(**key_pair(call.api.vault))
            newest.retire("unreadable")
            things[:] = [made, newest]  # no reader of the topic sees the zone without a key
        return await call.api.log.save(*things)

    await call.commit(command, ZONE)
    return bool(things)


async def _opens(call: Call, key: SigningKey) -> bool:
    try:
        async with call.database() as db:
            await call.api.vault.read(db, key.private_key_ref)
    except Unreadable:
        return False
    return True
