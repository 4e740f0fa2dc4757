"""Clients close themselves when they are used as context managers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self


class Closing:
    """Closes itself at the end of a ``with``."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClosing:
    """Closes itself at the end of an ``async with``."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client was given."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
