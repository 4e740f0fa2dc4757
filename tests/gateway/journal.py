"""Every write of the Gateway to a socket, in order, and when it learnt of a revocation."""

from __future__ import annotations

from asyncio import selector_events
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from caracal.events.base import Fact
from tests.gateway.scene import Scene

LAST_WORD = b"0\r\nx-caracal-revoked: true\r\n\r\n"


class Journal:
    """What was written since the last :meth:`clear`; ``mark`` stands where the map changed."""

    def __init__(self, scene: Scene) -> None:
        self._gateway = urlsplit(scene.url).port
        self._upstream = urlsplit(scene.sts.upstream).port
        self.entries: list[tuple[str, bytes]] = []

    def clear(self) -> None:
        self.entries = []

    def wrote(self, transport: Any, data: bytes) -> None:
        if (transport.get_extra_info("sockname") or (0, 0))[1] == self._gateway:
            self.entries += [("client", bytes(data))] if data else []
        elif (transport.get_extra_info("peername") or (0, 0))[1] == self._upstream:
            self.entries.append(("upstream", bytes(data)))

    def heard(self, fact: Fact) -> None:
        if fact.name == "session.revoked":
            self.entries.append(("mark", fact.aggregate_id.encode()))

    def after_mark(self) -> list[tuple[str, bytes]]:
        """Return what was written after the Gateway knew."""
        kinds = [kind for kind, _ in self.entries]
        return self.entries[kinds.index("mark") + 1 :]


@contextmanager
def journal_of(scene: Scene, patch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """Keep a journal; the upstreams and the STS of the scene live in the same process."""
    journal = Journal(scene)
    transport = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write

    def writing(self: Any, data: bytes) -> None:
        journal.wrote(self, data)
        write(self, data)

    patch.setattr(transport, "write", writing)
    listeners = scene.gateway.view.following.listeners
    listeners.append(journal.heard)  # after the Gateway's own
    try:
        yield journal
    finally:
        listeners.remove(journal.heard)
        patch.undo()
