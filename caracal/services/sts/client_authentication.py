"""Who calls (RFC 6749, section 2.3; contract, section 5)."""

from __future__ import annotations

from datetime import datetime

from caracal.ids import ID_PATTERN
from caracal.projections.memory import Row
from caracal.services.consistency import need_log
from caracal.services.sts.call import Call
from caracal.services.sts.client_assertion import ClientAssertions
from caracal.services.sts.client_secrets import ClientSecrets
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.lone_applications import LoneApplications
from caracal.services.sts.refusals import Refused, bad_client
from caracal.services.sts.token_request import TokenRequest
from caracal.services.sts.view import StsView, ZoneView, is_over


class ClientAuthentication:
    """Authenticates the calling application; the one place that knows the methods."""

    def __init__(
        self,
        view: StsView,
        secrets: ClientSecrets,
        assertions: ClientAssertions,
        failures: FailureLimit,
        alone: LoneApplications,
    ) -> None:
        self._view, self._failures, self._alone = view, failures, alone
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

    async def authenticate(self, call: Call, now: datetime) -> Row:
        """Return the calling application; row 1 of the validation order.

        Args:
            call: that the Gateway signed it is enough, with a subject token of ours.
            now: registrations may expire.

        Raises:
            Refused: 401 ``access_denied``, one text for all causes.
            TooMany: 429 ``access_denied``, too many failures, or too many at once.
        """
        request = call.request
        application = self._known(request, now)
        if call.by_gateway and request.subject_token and not request.is_login:
            return application or await self._found(call, now)
        if application is not None and await self._is_proven(application, request, now):
            return application
        keys = _counted(request, call.address)
        self._failures.check(*keys)
        try:
            return await self._proven(application, call, now)
        except Refused:
            self._failures.failed(*keys)
            raise

    async def entered(self, call: Call, client: Row, now: datetime) -> tuple[ZoneView, Row]:
        """Return the zone of a client that was authenticated, and the client as it is there.

        Raises:
            Refused: 401 ``access_denied``, it has changed meanwhile and is not proven any more.
            TooMany: 429 ``access_denied``.
            Unavailable: 503 ``state_stale``, the zone is not in memory and cannot be read now.
        """
        zone = await self._view.zones.load(call.request.zone_id)
        known = zone.application(client["id"], now)
        if known is None or known["position"] != client["position"]:
            known = await self.authenticate(call, now)
        return zone, known

    async def _is_proven(self, application: Row, request: TokenRequest, now: datetime) -> bool:
        """Say so of what costs little: others' failures must not shut out who can prove itself."""
        if application["credential_type"] == "public":
            return False
        if request.client_secret:
            return self._secrets.is_known(application, request.client_secret)
        return await self._asserts(application, request, now)

    async def _proven(self, known: Row | None, call: Call, now: datetime) -> Row:
        """If both are sent the secret decides: an assertion does not rescue a wrong one."""
        request = call.request
        application = known or await self._found(call, now)
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
        view, zone_id, application_id = self._view, request.zone_id, request.application_id
        if not view.has_zone(zone_id):
            return None
        if (zone := view.zones.peek(zone_id)) is not None:
            return zone.application(application_id, now)
        return _in_time(self._alone.known(zone_id, application_id), now)

    async def _found(self, call: Call, now: datetime) -> Row:
        """Look at the log's head: another replica may have made it a moment ago."""
        view, request, zone_id = self._view, call.request, call.request.zone_id
        if not zone_id or not request.application_id:
            raise bad_client()
        await view.zones.arriving(zone_id)
        if not view.has_zone(zone_id) or view.zones.peek(zone_id) is not None:
            await view.look_again()
        application = self._known(request, now)
        if application is None and view.has_zone(zone_id) and view.zones.peek(zone_id) is None:
            await need_log(view.following)
            found = await self._alone.find(zone_id, request.application_id, call.address)
            application = _in_time(found, now)
        if application is None:
            raise bad_client()
        return application


def _in_time(application: Row | None, now: datetime) -> Row | None:
    return None if application is None or is_over(application, now) else application


def _counted(request: TokenRequest, address: str) -> list[tuple[str, ...]]:
    """Return what a failure counts for; what can be no id is remembered for nobody."""
    named = request.zone_id, request.application_id
    of_application = all(map(ID_PATTERN.fullmatch, named))
    return [*([("application", *named)] if of_application else []), ("address", address)]
