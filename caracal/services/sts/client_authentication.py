"""Who calls (RFC 6749, section 2.3; contract, section 5)."""

from __future__ import annotations

from datetime import datetime

from caracal.projections.memory import Row
from caracal.services.sts.call import Call
from caracal.services.sts.client_assertion import ClientAssertions
from caracal.services.sts.client_secrets import ClientSecrets
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.refusals import Refused, bad_client
from caracal.services.sts.token_request import TokenRequest
from caracal.services.sts.view import StsView


class ClientAuthentication:
    """Authenticates the calling application; the one place that knows the methods."""

    def __init__(
        self,
        view: StsView,
        secrets: ClientSecrets,
        assertions: ClientAssertions,
        failures: FailureLimit,
    ) -> None:
        self._view, self._failures = view, failures
        self._secrets, self._assertions = secrets, assertions

    def check_signature(self, call: Call, keys: tuple[bytes, ...]) -> Call:
        """Return the call with what the Gateway signed; row 0c of the validation order.

        A caller that goes on sending bad signatures is refused without leaving evidence of each.

        Raises:
            Refused: 401 ``access_denied``.
            TooMany: 429 ``access_denied``.
        """
        try:
            return call.verified(keys)
        except Refused:
            key = ("gateway signature", call.address)
            self._failures.check(key)
            self._failures.failed(key)
            raise

    async def authenticate(
        self, request: TokenRequest, *, by_gateway: bool, address: str, now: datetime
    ) -> Row:
        """Return the calling application; row 1 of the validation order.

        Args:
            request: the form.
            by_gateway: the Gateway signed the call; with a subject token that is enough.
            address: of the client.
            now: registrations may expire.

        Raises:
            Refused: 401 ``access_denied``, one text for all causes.
            TooMany: 429 ``access_denied``, too many failures, or too many at once.
        """
        application = self._known(request, now)
        if by_gateway and request.subject_token:
            return application or await self._found(request, now)
        if application is not None and await self._is_proven(application, request, now):
            return application
        keys = (("application", request.zone_id, request.application_id), ("address", address))
        self._failures.check(*keys)
        try:
            return await self._proven(application, request, now)
        except Refused:
            self._failures.failed(*keys)
            raise

    async def _is_proven(self, application: Row, request: TokenRequest, now: datetime) -> bool:
        """Say so of what costs little: others' failures must not shut out who can prove itself."""
        if application["credential_type"] == "public":
            return False
        if request.client_secret:
            return self._secrets.is_known(application, request.client_secret)
        return await self._asserts(application, request, now)

    async def _proven(self, known: Row | None, request: TokenRequest, now: datetime) -> Row:
        """If both are sent the secret decides: an assertion does not rescue a wrong one."""
        application = known or await self._found(request, now)
        if application["credential_type"] == "public":
            raise bad_client()
        if request.client_secret:
            proven = await self._secrets.verify(application, request.client_secret)
        else:  # that of a known application was looked at before
            proven = known is None and await self._asserts(application, request, now)
        if not proven:
            raise bad_client()
        return application

    async def _asserts(self, application: Row, request: TokenRequest, now: datetime) -> bool:
        if not request.client_assertion:
            return False
        return await self._assertions.proves(application, request, now.timestamp())

    def _known(self, request: TokenRequest, now: datetime) -> Row | None:
        zone = self._view.zone(request.zone_id)
        return None if zone is None else zone.application(request.application_id, now)

    async def _found(self, request: TokenRequest, now: datetime) -> Row:
        """Look again at the log's head: another replica may have made it a moment ago."""
        if not request.zone_id or not request.application_id:
            raise bad_client()
        await self._view.look_again()
        if (application := self._known(request, now)) is None:
            raise bad_client()
        return application
