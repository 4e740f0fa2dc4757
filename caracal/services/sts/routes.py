"""Which handler answers which request; raw ASGI, for this is the hot path."""

from __future__ import annotations

import re
from collections.abc import Mapping

from caracal.errors import MethodNotAllowed, NotFound
from caracal.services.consistency import lagging, min_position
from caracal.services.http import ROUTE, App, Receive, Scope, Send
from caracal.services.sts.view import StsView

_PARAMETER = re.compile(r"/(zones|step-up)/([^/]+)")
_NAMES = {"zones": "zone_id", "step-up": "challenge_id"}
_WAIT_SECONDS = 2.0

Route = tuple[str, App]
"""Method and handler."""


class Routes:
    """Routes by path, given at the start.

    ``/zones/{zone_id}`` and ``/step-up/{challenge_id}`` in a path are parameters, and are written
    just so in the table.
    """

    def __init__(self, view: StsView) -> None:
        self._view = view
        self.table: Mapping[str, Route] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on to the handler, once the view has the position that the caller wants to see.

        Raises:
            NotFound: 404, unknown route.
            MethodNotAllowed: 405.
            BadInput: 400, ``Caracal-Min-Position`` is no number.
            Unavailable: 503 ``projection_lagging``.
        """
        path = scope["path"]
        scope["path_params"] = {}
        route = None if "{" in path else self.table.get(path)
        if route is None and (found := _PARAMETER.search(path)) is not None:
            name = _NAMES[found[1]]
            scope["path_params"] = {name: found[2]}
            path = f"{path[: found.start(2)]}{{{name}}}{path[found.end(2) :]}"
            route = self.table.get(path)
        if route is None:
            raise NotFound("not_found", "there is no such route")
        scope["state"][ROUTE] = path
        method, handler = route
        if scope["method"] != method:
            allow = "GET, HEAD" if method == "GET" else method
            said = f"the route has {method} only"
            raise MethodNotAllowed("method_not_allowed", said, allow=allow)
        await self._reach(scope)
        await handler(scope, receive, send)

    async def _reach(self, scope: Scope) -> None:
        position = min_position(scope)
        if position is not None and not await self._view.following.reach(position, _WAIT_SECONDS):
            raise lagging()
