"""What a client was made with."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from caracal.client.call import Base
from caracal.client.dpop import Prover
from caracal.client.errors import COORDINATOR_TOKEN_NOT_CONFIGURED, COORDINATOR_URL_NOT_CONFIGURED
from caracal.client.link import origin, printable
from caracal.errors import CaracalError

_TOKEN = re.compile(r"[!-~]+", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What a client was made with; checked once.

    Raises:
        ValueError: a URL, a token or a number that cannot work.
    """

    api_url: str
    admin_token: str = field(repr=False)
    coordinator_url: str | None = None
    coordinator_token: str | None = field(default=None, repr=False)
    timeout_ms: int = 30_000
    retries: int = 3
    retry_methods: Collection[str] | None = None

    def __post_init__(self) -> None:
        check_url("api_url", self.api_url)
        _check_token("admin_token", self.admin_token)
        if self.coordinator_url:
            check_url("coordinator_url", self.coordinator_url)
        if self.coordinator_token:
            _check_token("coordinator_token", self.coordinator_token)
        if self.timeout_ms <= 0 or self.retries < 0:
            raise ValueError("timeout_ms must be positive and retries not negative")

    def at(self, base: Base) -> tuple[str, str]:
        """Return URL and token of a base.

        Raises:
            CaracalError: the Coordinator's are not configured.
        """
        if base == "api":
            return self.api_url.removesuffix("/"), self.admin_token
        if not self.coordinator_url:
            raise CaracalError(COORDINATOR_URL_NOT_CONFIGURED, "the client has no coordinator_url")
        if not self.coordinator_token:
            raise CaracalError(
                COORDINATOR_TOKEN_NOT_CONFIGURED, "the client has no coordinator_token"
            )
        return self.coordinator_url.removesuffix("/"), self.coordinator_token

    @property
    def prover(self) -> None:
        """Return None: admin tokens are bound to no key."""

    def htu(self, url: str) -> str:
        """Return the URL."""
        return url

    def retries_of(self, method: str) -> int:
        """Return how often a request of this method may be sent again."""
        listed = self.retry_methods is None or method in {
            name.upper() for name in self.retry_methods
        }
        return self.retries if listed else 0


@dataclass(frozen=True)
class Endpoint:
    """One server, as the agents' side calls it: every call is for it.

    Raises:
        ValueError: a URL or a number that cannot work.
    """

    name: str
    url: str
    token: str | None = field(default=None, repr=False)
    timeout_ms: int = 30_000
    retries: int = 3
    prover: Prover = field(default_factory=Prover)
    public_url: str | None = None
    """What the server calls itself, if that is not ``url``."""

    def __post_init__(self) -> None:
        check_url(self.name, self.url)
        if self.timeout_ms <= 0 or self.retries < 0:
            raise ValueError("timeout_ms must be positive and retries not negative")

    def at(self, base: Base) -> tuple[str, str | None]:
        """Return URL and bearer."""
        return self.url.removesuffix("/"), self.token

    def htu(self, url: str) -> str:
        """Return a URL as the server itself calls it."""
        base = self.url.removesuffix("/")
        return (self.public_url or base).removesuffix("/") + url.removeprefix(base)

    def retries_of(self, method: str) -> int:
        """Return how often a request may be sent again."""
        return self.retries


def check_url(name: str, url: str) -> None:
    """Check that ``url`` can be a base.

    Raises:
        ValueError: no http or https URL, or one with user, query or fragment.
    """
    try:
        scheme, host, _ = origin(url)
        sound = scheme in ("http", "https") and bool(host)
    except ValueError:
        sound = False
    if not sound or not printable(url) or any(mark in url for mark in "@?#"):
        raise ValueError(f"{name} must be an http or https URL without user, query and fragment")


def _check_token(name: str, token: object) -> None:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):  # None: nothing was discovered
        raise ValueError(f"{name} must be printable ASCII without spaces")
