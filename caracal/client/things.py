"""What the things of a zone have in common: ``/v1/zones/{zone_id}/<plural>[/{id}]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from caracal.client.call import Call, Listing, Query, api, listing, nothing, page
from caracal.client.method import D, Namespace, many, one

Item = TypeVar("Item")
"""What a list shows."""
Whole = TypeVar("Whole")
"""What ``get`` shows."""
Input = TypeVar("Input", bound=Mapping[str, Any])
Patch = TypeVar("Patch", bound=Mapping[str, Any])


class ZoneScoped(Namespace[D], Generic[D]):
    """Things below a zone; ``_plural`` is their segment of the path."""

    _plural: ClassVar[str]

    def _call(
        self,
        method: str,
        zone_id: str,
        *rest: str,
        query: Query = (),
        body: Mapping[str, Any] | None = None,
    ) -> Call[Any]:
        return api(method, "zones", zone_id, self._plural, *rest, query=query, body=body)


class Readable(ZoneScoped[D], Generic[D, Item, Whole]):
    """Things with ``list`` and ``get``."""

    @many
    def list(
        self, zone_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[Item]:
        """List the zone's things, newest first: all of them, or a page of ``limit``."""
        return listing(self._call("GET", zone_id, query=page(limit, cursor)), limit)

    list_page, iter = list.by_page(), list.each()

    @one
    def get(self, zone_id: str, id: str) -> Call[Whole]:
        """Show one; ``AdminApiError`` 404 when the zone has none of that id."""
        return self._call("GET", zone_id, id)


class Archivable(Readable[D, Item, Whole], Generic[D, Item, Whole]):
    """Things that can also be archived."""

    @one
    def delete(self, zone_id: str, id: str) -> Call[None]:
        """Archive one: it is gone for every reader, and what depends on it ends."""
        return nothing(self._call("DELETE", zone_id, id))


class Editable(Archivable[D, Item, Item], Generic[D, Item, Input, Patch]):
    """Things that can also be created and changed."""

    @one
    def create(self, zone_id: str, input: Input) -> Call[Item]:
        """Create one; members that are None are left to the server."""
        return self._call("POST", zone_id, body=input)

    @one
    def patch(self, zone_id: str, id: str, input: Patch) -> Call[Item]:
        """Change the members given; ``NULL`` clears one, None leaves it as it is."""
        return self._call("PATCH", zone_id, id, body=input)
