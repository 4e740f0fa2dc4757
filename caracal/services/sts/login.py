"""Users who sign in at an issuer that the zone trusts, and begin a session with its id_token.

RFC 8693, section 3: ``subject_token_type`` is ``urn:ietf:params:oauth:token-type:id_token``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from math import ceil

from redis.asyncio import Redis

from caracal import clock
from caracal.errors import CaracalError, Unauthenticated, Unavailable
from caracal.events.store.redis import GONE
from caracal.foreign_jwt import ForeignJwt
from caracal.mandate import Claims
from caracal.projections.memory import Row
from caracal.services.sts import id_token
from caracal.services.sts.id_token import Told, Unacceptable
from caracal.services.sts.issuer_keys import IssuerKeys
from caracal.services.sts.refusals import Refused, audit_unavailable, bad_request, denied
from caracal.services.sts.token_request import TokenRequest
from caracal.services.sts.view import StsView, ZoneView
from caracal.services.sts.zone_keys import ZoneKeys
from caracal.user_id import user_id_of

INVALID = "subject_token_invalid"
_UNDER_WAY = 60
"""Seconds that a request takes at most, and replicas' clocks differ."""
_ALONE = ("actor_token", "session_id", "agent_session_id", "delegation_edge_id")


@dataclass(frozen=True, slots=True)
class Login:
    """A user who has signed in.

    Attributes:
        user_id: the pseudonym.
        rules: row of the trusted issuer.
        told: what the id_token tells.
        digest: of what the issuer has signed: the token, however its signature is spelt.
    """

    user_id: str
    rules: Row = field(repr=False)
    told: Told = field(repr=False)
    digest: str = field(repr=False)

    @property
    def issuer_id(self) -> str:
        """Return the anchor."""
        return str(self.rules["id"])

    @property
    def session_seconds(self) -> int:
        """Return how long the session may last."""
        return int(self.rules["session_seconds"])

    @property
    def claims(self) -> Claims:
        """Return what the ambient mandate says of the user, and policies see from the first on."""
        return {
            "sub": self.user_id,
            "sub_type": "user",
            "user": {
                "issuer": self.rules["issuer"],
                "trusted_issuer_id": self.issuer_id,
                "auth_time": self.told.authenticated_at,
                "claims": dict(self.told.mapped),
            },
        }


class Logins:
    """Proves id_tokens; each begins one session, unless its issuer's rules let it begin more.

    Attributes:
        proven_total: how many were taken; ``refused_total``: and were not.
    """

    def __init__(self, view: StsView, keys: IssuerKeys, zone_keys: ZoneKeys, redis: Redis) -> None:
        self._view, self._keys, self._zone_keys, self._redis = view, keys, zone_keys, redis
        self.proven_total = self.refused_total = 0

    @property
    def counters(self) -> dict[str, int]:
        """Return what ``/metrics`` tells."""
        return {
            "logins_total": self.proven_total,
            "refused_total": self.refused_total,
            "key_fetches_total": self._keys.fetches_total,
            "key_fetch_failures_total": self._keys.failures_total,
        }

    async def proven(self, request: TokenRequest, zone: ZoneView, now: datetime) -> Login:
        """Return who has signed in; rows 3 and 4 of the validation order.

        Args:
            request: of a client that is proven.
            zone: of the request; it knows the issuers.
            now: tokens expire.

        Raises:
            Refused: 400, what does not go with it; 401 ``invalid_token``; 403, not for this
                application; 503 ``issuer_unavailable``.
            Unavailable: 503 ``state_stale``; InternalError: the zone's key is not there.
        """
        try:
            login = await self._proven(request, zone, now.timestamp())
        except Refused:
            self.refused_total += 1
            raise
        self.proven_total += 1
        return login

    @asynccontextmanager
    async def used(self, login: Login, zone_id: str) -> AsyncIterator[None]:
        """Use the id_token up, if it is good for one session only.

        What fails inside leaves it as it was: nobody got a session for it.

        Raises:
            Refused: 401 ``invalid_token``, it has begun a session before.
            Unavailable: 503 ``audit_unavailable``, that cannot be known.
        """
        if not login.rules["single_use"]:
            yield
            return
        key = f"sts:id-token:{zone_id}:{login.digest}"
        left = max(0, ceil(login.told.usable_until - clock.now().timestamp()))
        life = left + _UNDER_WAY  # until then who was let in before may come here
        try:
            first = await self._redis.set(key, "1", nx=True, ex=life)
        except GONE as error:
            raise audit_unavailable() from error
        if not first:
            self.refused_total += 1
            used = Unauthenticated("invalid_token", "the id_token was used before")
            raise Refused(used, INVALID)
        try:
            yield
        except BaseException:
            with suppress(*GONE):  # then the user signs in once more
                await self._redis.delete(key)
            raise

    async def _proven(self, request: TokenRequest, zone: ZoneView, now: float) -> Login:
        if any(getattr(request, name) for name in _ALONE):
            error = bad_request(f"an id_token goes with none of: {', '.join(_ALONE)}")
            raise Refused(error, INVALID)
        try:
            token = id_token.read(request.subject_token)
            rules = await self._rules(zone, id_token.issuer_of(token))
            said = id_token.told(token, rules, now)  # first: who is refused makes us fetch nothing
            _check_application(rules, request.application_id)
            await self._check_signature(token, rules)
        except Unacceptable as reason:
            raise _invalid(str(reason)) from None
        key = await self._zone_keys.opened(zone.id)
        user_id = user_id_of(key, rules["issuer"], said.subject, rules["subject_claim"])
        if zone.trusted_issuer(rules["issuer"]) is not rules:
            raise denied("the issuer's rules changed meanwhile", INVALID)
        return Login(user_id, rules, said, sha256(token.signed).hexdigest())

    async def _rules(self, zone: ZoneView, issuer: str) -> Row:
        """What is unknown is looked for once more, at the log's head."""
        rules = zone.trusted_issuer(issuer)
        if rules is None:
            await self._view.look_again()
            rules = zone.trusted_issuer(issuer)
        if rules is None:
            raise Unacceptable("iss: not trusted")
        return rules

    async def _check_signature(self, token: ForeignJwt, rules: Row) -> None:
        kid = id_token.key_id_of(token)
        if token.alg not in rules["algorithms"]:
            raise Unacceptable("alg")
        try:
            found = await self._keys.find(rules, kid)
        except Unavailable as error:
            raise _refused(error, "keys: cannot be had") from None
        if found is None:
            raise Unacceptable("kid: unknown")
        if not found.may_verify(token.alg) or not token.is_signed_by(found.key):
            raise Unacceptable("signature")


def _check_application(rules: Row, application_id: str) -> None:
    if rules["application_ids"] and application_id not in rules["application_ids"]:
        raise denied("the issuer is not trusted for this application", INVALID)


def _invalid(reason: str) -> Refused:
    """Return row 3: one text for all causes; which it was is for the audit trail."""
    return _refused(Unauthenticated("invalid_token", "invalid subject_token"), reason)


def _refused(error: CaracalError, reason: str) -> Refused:
    refused = Refused(error, INVALID)
    refused.about = {"subject_check": reason}
    return refused
