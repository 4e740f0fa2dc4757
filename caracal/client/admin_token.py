"""``client.admin_tokens``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from caracal.client.call import Call, Listing, api, listing, nothing, page
from caracal.client.method import D, Namespace, many, one

Capability = Literal["read", "write", "approve"]


class AdminToken(TypedDict):
    """An admin token; its text, ``token``, is there once: when it was made."""

    id: str
    name: str
    scope: Literal["global", "zone"]
    zone_id: str | None
    capability: Capability
    created_by: str
    created_at: str
    last_used_at: str | None
    revoked_at: str | None
    token: NotRequired[str]


class AdminTokenInput(TypedDict):
    """A new token; ``zone_id`` goes with scope ``zone``."""

    name: str
    scope: Literal["global", "zone"]
    zone_id: NotRequired[str | None]
    capability: NotRequired[Capability | None]


class AdminTokens(Namespace[D]):
    """Admin tokens; a global token is needed.

    >>> made = client.admin_tokens.create({"name": "ci", "scope": "global"})
    >>> made["token"]
    """

    @many
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Listing[AdminToken]:
        """List tokens, without their texts."""
        return listing(api("GET", "admin-tokens", query=page(limit, cursor)), limit)

    list_page, iter = list.by_page(), list.each()

    @one
    def create(self, input: AdminTokenInput) -> Call[AdminToken]:
        """Make a token; its text is answered here and never again."""
        return api("POST", "admin-tokens", body=input)

    @one
    def revoke(self, id: str) -> Call[None]:
        """Revoke a token: every replica refuses it at once."""
        return nothing(api("DELETE", "admin-tokens", id))
