"""The two clients: one plane of namespaces, two drivers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from typing import NotRequired, TypedDict

import httpx

from caracal.client.admin_audit import AdminAudit
from caracal.client.admin_token import AdminTokens
from caracal.client.agent import Agents
from caracal.client.application import Applications
from caracal.client.asynchronous import Async
from caracal.client.audit import Audit
from caracal.client.call import Call, api
from caracal.client.closing import AsyncClosing, Closing
from caracal.client.core import Core
from caracal.client.delegation import Delegations
from caracal.client.grant import Grants
from caracal.client.method import D, Namespace, one
from caracal.client.options import Options
from caracal.client.policy import Policies
from caracal.client.policy_set import PolicySets
from caracal.client.policy_template import PolicyTemplates
from caracal.client.provider import Providers
from caracal.client.provider_grant import ProviderGrants
from caracal.client.resource import Resources
from caracal.client.session import Sessions
from caracal.client.step_up_challenge import StepUpChallenges
from caracal.client.sync import Sync
from caracal.client.trusted_issuer import TrustedIssuers
from caracal.client.zone import Zones


class LocalBootstrapResult(TypedDict):
    """What a local zone is made of; ``app_client_secret`` is None when it was made before."""

    zone_id: str
    app_id: str
    application_id: str
    app_client_id: str
    app_client_secret: str | None
    resource: str
    scope: str
    rotated: bool
    signing_key_resealed: NotRequired[bool]


class Plane(Namespace[D]):
    """What both clients offer."""

    def __init__(self, driver: D) -> None:
        super().__init__(driver)
        self.zones = Zones(driver)
        self.applications = Applications(driver)
        self.resources = Resources(driver)
        self.providers = Providers(driver)
        self.trusted_issuers = TrustedIssuers(driver)
        self.policies = Policies(driver)
        self.policy_templates = PolicyTemplates(driver)
        self.policy_sets = PolicySets(driver)
        self.grants = Grants(driver)
        self.provider_grants = ProviderGrants(driver)
        self.sessions = Sessions(driver)
        self.audit = Audit(driver)
        self.step_up_challenges = StepUpChallenges(driver)
        self.admin_tokens = AdminTokens(driver)
        self.admin_audit = AdminAudit(driver)
        self.agents = Agents(driver)
        self.delegations = Delegations(driver)

    @one
    def bootstrap(self, force: bool = False) -> Call[LocalBootstrapResult]:
        """Make (or find) the local zone with application, resource and policy.

        For development only: the API needs ``CARACAL_LOCAL_BOOTSTRAP_ENABLED=true``.
        ``force`` gives the application a new secret.
        """
        return api("POST", "local", "bootstrap", body={"force": force})

    @property
    def last_position(self) -> int | None:
        """Return the log position of the last answer that named one."""
        return self._driver.core.last_position

    @property
    def last_request_id(self) -> str | None:
        """Return the id of the last answered request: what the audit trail knows it by."""
        return self._driver.core.last_request_id

    def __repr__(self) -> str:
        options = self._driver.core.options
        assert isinstance(options, Options)
        return (
            f"{type(self).__name__}"
            f"(api_url={options.api_url!r}, coordinator_url={options.coordinator_url!r})"
        )


class AdminClient(Plane[Sync], Closing):
    """Client of the control plane and of the Coordinator.

    >>> from caracal.client import AdminClient
    >>> client = AdminClient(api_url="http://localhost:3000", admin_token="cat_...")
    >>> client.zones.list()

    It may be shared by threads. Used as a context manager it closes itself.

    Args:
        api_url: base of the control plane; a trailing ``/`` is removed.
        admin_token: bearer of its calls; see ``discover_admin_token``.
        coordinator_url: base of ``agents`` and ``delegations``.
        coordinator_token: bearer of Coordinator calls, the operator token or a mandate; the
            admin token is never sent there.
        http_client: an HTTP client to use in place of an own one; it stays yours to close.
        timeout_ms: limit of each attempt, in milliseconds.
        retries: how many attempts may follow the first one.
        retry_methods: HTTP methods that are tried again, all by default. A repeated POST may
            create twice when only the answer was lost.
        cancel: once set, every call ends with ``AdminCancelledError``, waiting ones included.

    Raises:
        ValueError: a URL, a token or a number that cannot work.
        AdminApiError: by every method, the server refused (``errors`` of the package).
        AdminTransportError: by every method, no answer came.
        AdminCancelledError: by every method, ``cancel`` was set.
    """

    def __init__(
        self,
        *,
        api_url: str,
        admin_token: str,
        coordinator_url: str | None = None,
        coordinator_token: str | None = None,
        http_client: httpx.Client | None = None,
        timeout_ms: int = 30_000,
        retries: int = 3,
        retry_methods: Collection[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        options = Options(
            api_url,
            admin_token,
            coordinator_url,
            coordinator_token,
            timeout_ms,
            retries,
            retry_methods,
        )
        super().__init__(Sync(Core(options), http_client, cancel))

    def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        self._driver.close()


class AsyncAdminClient(Plane[Async], AsyncClosing):
    """``AdminClient`` with coroutines: the same namespaces, methods and arguments.

    >>> async with AsyncAdminClient(api_url=url, admin_token=token) as client:
    ...     await client.zones.list()
    ...     async for session in client.sessions.iter(zone_id): ...
    """

    def __init__(
        self,
        *,
        api_url: str,
        admin_token: str,
        coordinator_url: str | None = None,
        coordinator_token: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        timeout_ms: int = 30_000,
        retries: int = 3,
        retry_methods: Collection[str] | None = None,
        cancel: asyncio.Event | None = None,
    ) -> None:
        options = Options(
            api_url,
            admin_token,
            coordinator_url,
            coordinator_token,
            timeout_ms,
            retries,
            retry_methods,
        )
        super().__init__(Async(Core(options), http_client, cancel))

    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        await self._driver.close()
