"""The application's tokens: ambient mandates, and mandates of one call (RFC 8693)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from caracal.client.call import Call
from caracal.client.core import Core
from caracal.client.errors import INVALID_RESPONSE, AdminApiError, AdminTransportError
from caracal.client.options import Endpoint
from caracal.client.plan import Ask, Plan, Share
from caracal.client.planned import Acting, E, planned

if TYPE_CHECKING:
    from caracal.client.key import ClientKey

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REFRESH_SECONDS = 60.0
"""A token with less life left is not used for new calls."""
_LAST_SECONDS = 36.0  # the Gateway refuses a bearer with less than 35
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class IssuedToken(TypedDict):
    """What the STS answers (its contract, section 12)."""

    access_token: str
    token_type: str
    expires_in: int
    issued_token_type: str
    target_resources: list[str]
    upstreams: dict[str, dict[str, Any]]
    scope: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who an application is to the STS: by its secret, or by a key of its ``jwks`` (RFC 7523)."""

    zone_id: str
    application_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_key: ClientKey | None = None
    key_id: str | None = None
    """Of the registered key; its thumbprint (RFC 7638) if None."""

    def proof(self, audience: str, now: float) -> Mapping[str, str]:
        """Return the fields of a form by which the application proves itself, once.

        Args:
            audience: the issuer.
            now: Unix seconds, as the STS counts them.
        """
        if self.client_key is None:
            return {"client_secret": self.client_secret or ""}
        key_id = self.key_id or self.client_key.thumbprint
        signed = self.client_key.assertion(key_id, self.application_id, audience, now=now)
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}


class TokenEndpoint:
    """The STS's token endpoint, as one application calls it."""

    def __init__(self, sts: Endpoint, credentials: Credentials) -> None:
        self._sts, self._credentials = sts, credentials

    def issue(self, resources: Sequence[str], **members: Any) -> Plan[IssuedToken]:
        """Exchange the application's proof; further form fields by name, None is left out.

        Raises:
            AdminApiError: the STS refused; ``interaction_required`` has its challenge in ``body``.
            AdminTransportError: no answer came.
        """
        body = {
            "grant_type": GRANT_TYPE,
            "zone_id": self._credentials.zone_id,
            "application_id": self._credentials.application_id,
            "resource": list(resources),
            **members,
        }
        call: Call[IssuedToken] = Call(
            "api", "POST", "/oauth/2/token", body, form=True, fresh=self._proof
        )
        issued = yield Ask(Core(self._sts), call)
        return _checked(issued, "dpop" if self._sts.prover.binds else "bearer")

    def _proof(self) -> Mapping[str, str]:
        audience = (self._sts.public_url or self._sts.url).removesuffix("/")
        return self._credentials.proof(audience, self._sts.prover.now())


class TokenSource(Acting[E]):
    """The ambient mandate, fetched when it is needed and again before it ends.

    Whoever needs one while it is fetched waits for the same fetch. It stays in memory only.
    """

    def __init__(
        self,
        plans: E,
        endpoint: TokenEndpoint,
        resources: Sequence[str],
        scope: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(plans)
        self._endpoint, self._resources, self._scope = endpoint, tuple(resources), scope
        self._clock = clock
        self._flight = plans.flight()
        self._writing = threading.Lock()
        self._forgotten = 0
        self._held = ("", float("-inf"))

    def plan(self) -> Plan[str]:
        """Return a token with at least 60 s to live, or the longest-lived that the STS gives.

        While the STS cannot be reached, one with less is good as long as the Gateway takes it.

        Raises:
            AdminApiError: the STS refused.
            AdminTransportError: no answer came.
        """
        if token := self._with(REFRESH_SECONDS):
            return token
        try:
            fetched: str = yield Share(self._flight, partial(self._fetched, self._forgotten))
            return fetched
        except (AdminTransportError, AdminApiError) as error:
            away = isinstance(error, AdminTransportError) or error.status >= 500
            if away and (token := self._with(_LAST_SECONDS)):
                return token
            raise

    token = planned(plan)

    def forget(self) -> None:
        """Drop the token, as after its session was revoked; the next call fetches another."""
        with self._writing:
            self._held, self._forgotten = ("", float("-inf")), self._forgotten + 1
        self._flight.drop()

    def _with(self, seconds: float) -> str:
        """Return the token if it has so long to live, else nothing."""
        token, ends = self._held
        return token if ends - self._clock() >= seconds else ""

    def _fetched(self, forgotten: int) -> Plan[str]:
        if token := self._with(REFRESH_SECONDS):  # another thread's fetch has just ended
            return token
        asked = self._clock()
        issued = yield from self._endpoint.issue(self._resources, scope=self._scope or None)
        token = issued["access_token"]
        with self._writing:
            if forgotten == self._forgotten:  # else it was forgotten meanwhile
                self._held = (token, asked + issued["expires_in"])
        return token


def _checked(issued: IssuedToken, token_type: str) -> IssuedToken:
    token, life = issued.get("access_token"), issued.get("expires_in")
    if not isinstance(token, str) or not _JWT.fullmatch(token):
        raise _unusable("no JWT was issued")
    if type(life) not in (int, float) or life <= 0:
        raise _unusable("the token has no life")
    if str(issued.get("token_type", "bearer")).lower() != token_type:  # RFC 9449, section 5
        raise _unusable("the token is not bound as it should be")
    return issued


def _unusable(description: str) -> AdminApiError:
    return AdminApiError(200, INVALID_RESPONSE, {}, description=description)
