"""WebSocket connections on the server's side: uvicorn's protocol, without paths in the log."""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)


class QuietWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket; a query may hold what no log should."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _log
