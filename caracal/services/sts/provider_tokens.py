"""Tokens that providers issue: of users, refreshed, and of services (contract, section 13)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from caracal import clock
from caracal.errors import NotFound, Unavailable
from caracal.events.base import Fact, acting
from caracal.events.grant import Credential, Grant, RefreshedMeanwhile
from caracal.events.provider import Provider
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Log, Saved
from caracal.events.store.vault import Unreadable
from caracal.projections.memory import Row
from caracal.services.flights import Flights
from caracal.services.provider_client import Client, wanted
from caracal.services.provider_kind import (
    GRANT_REQUIRED,
    NOT_PROVISIONED,
    REFRESH_FAILED,
    NoCredential,
)
from caracal.services.sts.opened_secrets import OpenedSecrets
from caracal.services.sts.provider_guard import Circuits, Leases
from caracal.services.sts.view import StsView
from caracal.services.token_endpoint import Failed, Issued, Lives, Token, TokenEndpoint, sealed

logger = logging.getLogger(__name__)
Known = Callable[[], Awaitable[Client]]
_LEAST_SECONDS = 30
_SAVES, _PAUSE_SECONDS = 3, 0.025
_REACH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks a provider unless its circuit is open, and counts what comes of it."""

    endpoint: TokenEndpoint
    circuits: Circuits

    async def __call__(self, provider_id: str, client: Client, form: Mapping[str, str]) -> Issued:
        """Return what the provider issues.

        Raises:
            NoCredential: nothing.
        """
        await self.circuits.check(provider_id)
        try:
            issued = await self.endpoint.ask(client, form)
        except Failed as failure:
            logger.warning("provider %s: %s", provider_id, failure.reason)
            if not failure.ended:
                await self.circuits.failed(provider_id)
            raise
        await self.circuits.succeeded(provider_id)
        return issued


@dataclass(frozen=True, slots=True)
class UserTokens:
    """Access tokens of grants, refreshed by one process at a time."""

    view: StsView
    log: Log
    secrets: OpenedSecrets
    asking: Asking
    leases: Leases
    lives: Lives
    flights: Flights[Token] = field(default_factory=Flights)

    async def token(self, provider_id: str, client: Known, grant: Row) -> Token:
        """Return the access token of a grant that has one.

        Args:
            provider_id: of the provider that issued it.
            client: says how we are known to it; asked only for a refresh.
            grant: row.

        Raises:
            NoCredential: it has expired and cannot be refreshed, or the grant has ended.
            Unavailable: 503 ``state_stale``, the log cannot be read.
        """
        if is_fresh(grant):
            try:
                return await self._opened(grant)
            except Unreadable:  # a peer has refreshed it, and the view does not know yet
                await self.view.look_again()
                grant = await self._active(grant)
                if is_fresh(grant):
                    return await self._kept(grant)
        known = grant
        return await self.flights.join(known["id"], lambda: self._alone(provider_id, client, known))

    async def _alone(self, provider_id: str, client: Known, grant: Row) -> Token:
        async with self.leases.held(grant["id"]):
            await self.view.look_again()  # who held it before has refreshed, perhaps
            grant = await self._active(grant)
            if is_fresh(grant):
                return await self._kept(grant)
            return await self._refreshed(provider_id, client, grant)

    async def _refreshed(self, provider_id: str, client: Known, grant: Row) -> Token:
        if (ref := grant["refresh_token_ref"]) is None:
            raise NoCredential(REFRESH_FAILED, "the token has expired, and there is no other")
        try:
            kept = (await self.secrets.opened(grant["id"], ref)).decode()
        except (Unreadable, UnicodeDecodeError):
            raise NoCredential(REFRESH_FAILED, "the refresh token cannot be opened") from None
        form = {"grant_type": "refresh_token", "refresh_token": kept}
        ours = await client()
        try:
            issued = await self.asking(provider_id, ours, form)
        except Failed as failure:
            return await self._failed(grant, failure)
        return await self._issued(ours, grant, issued)

    async def _issued(self, ours: Client, grant: Row, issued: Issued) -> Token:
        token = self.lives.token(issued)
        credential = sealed(self.secrets.vault, issued, token.expires_at)
        try:
            peers = await self._saved(grant, lambda found: _refresh(found, grant, credential))
        except NoCredential as lost:
            # Revoked meanwhile: nobody knows these tokens, so nobody else ends them.
            if lost.status == GRANT_REQUIRED and ours.revocation_url is not None:
                await self.asking.endpoint.end(ours, ours.revocation_url, issued.by_kind)
            raise
        return token if peers is None else peers

    async def _failed(self, grant: Row, failure: Failed) -> Token:
        """Note for all replicas that the provider has ended the refresh token, if it has.

        Raises:
            NoCredential: the failure, unless a peer has kept a token meanwhile.
        """
        if not failure.ended:
            raise failure
        version = grant["token_version"]
        peers = await self._saved(
            grant, lambda found: found.expire_credential(token_version=version)
        )
        if peers is None:
            raise failure
        return peers

    async def _saved(self, grant: Row, decide: Callable[[Grant], None]) -> Token | None:
        """Save a decision; what a peer has kept meanwhile wins, and is returned."""
        for _ in range(_SAVES):
            try:
                saved = await self._save(grant, decide)
            except RefreshedMeanwhile:
                await self.view.look_again()
                return await self._kept(await self._active(grant))
            except NotFound:
                raise _gone() from None
            except (VersionConflict, Unavailable):
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                await self.view.following.reach(saved.position or 0, _REACH_SECONDS)
                return None
        raise NoCredential(REFRESH_FAILED, "what came of the refresh cannot be kept")

    async def _save(self, grant: Row, decide: Callable[[Grant], None]) -> Saved:
        found = await self.log.find(Grant, grant["id"])
        if found is None:
            raise _gone()
        with acting(zone_id=grant["zone_id"], actor="system", actor_name="provider refresh"):
            decide(found)
            return await self.log.save(found)

    async def _kept(self, grant: Row) -> Token:
        try:
            return await self._opened(grant)
        except Unreadable:
            raise NoCredential(REFRESH_FAILED, "the access token cannot be opened") from None

    async def _opened(self, grant: Row) -> Token:
        text = await self.secrets.opened(grant["id"], grant["access_token_ref"])
        return Token(text.decode(), grant["token_expires_at"])

    async def _active(self, grant: Row) -> Row:
        zone = await self.view.zones.load(grant["zone_id"])
        row = zone.grant(grant["id"])
        if row is None:
            raise _gone()
        if row["access_token_ref"] is None:
            raise NoCredential(NOT_PROVISIONED, "the grant has no tokens any more")
        return row


@dataclass(frozen=True, slots=True)
class _Kept:
    made_of: tuple[Any, ...]
    token: Token


class ServiceTokens:
    """Tokens of our own at a provider, in memory, one for each provider.

    One is used for as long as what it was asked with is still the provider's configuration.
    """

    def __init__(self, asking: Asking, lives: Lives) -> None:
        self._asking, self._lives = asking, lives
        self._kept: dict[str, _Kept] = {}
        self.flights: Flights[Token] = Flights()

    def applied(self, fact: Fact) -> None:
        """Forget the token of a provider that has ended; a listener of the tail."""
        if fact.name == Provider.Archived.TOPIC:
            self._kept.pop(fact.aggregate_id, None)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew."""
        self._kept.clear()

    async def token(self, provider: Row, client: Client) -> Token:
        """Return a token with more than 30 s to live.

        Raises:
            NoCredential: the provider gives none.
        """
        made_of = (client, provider["config"])
        kept = self._kept.get(provider["id"])
        if kept is not None and kept.made_of == made_of and _lasts(kept.token):
            return kept.token
        key = (provider["id"], provider["position"])
        return await self.flights.join(key, lambda: self._fetched(provider, client, made_of))

    async def _fetched(self, provider: Row, client: Client, made_of: tuple[Any, ...]) -> Token:
        form = {"grant_type": "client_credentials", **wanted(provider["config"])}
        token = self._lives.token(await self._asking(provider["id"], client, form))
        self._kept[provider["id"]] = _Kept(made_of, token)
        return token


def _refresh(found: Grant, grant: Row, credential: Credential) -> None:
    found.refresh_credential(credential, token_version=grant["token_version"])


def is_fresh(grant: Row) -> bool:
    """Say whether a grant's access token is known not to have expired."""
    ends: datetime | None = grant["token_expires_at"]
    return ends is not None and ends > clock.now()


def _lasts(token: Token) -> bool:
    ends = token.expires_at
    return ends is not None and ends > clock.now() + timedelta(seconds=_LEAST_SECONDS)


def _gone() -> NoCredential:
    return NoCredential(GRANT_REQUIRED, "the grant has ended")
