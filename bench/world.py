"""What the product is asked about: a zone with an application, a resource, a policy in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from bench.wire import request

POLICY = (Path(__file__).parent / "template.rego").read_text()
RESOURCE = "resource://bench"
_UNLIMITED = {"window_seconds": 60, "max_requests": 1_000_000_000}
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True, slots=True)
class World:
    """Ids and secrets of what was made, and the requests of the rows."""

    urls: Mapping[str, str]
    zone_id: str
    application_id: str
    resource_id: str
    secret: str

    def address(self, service: str) -> tuple[str, int]:
        """Return host and port of a service."""
        parts = urlsplit(self.urls[f"{service}_url"])
        return str(parts.hostname), int(parts.port or 80)

    def ambient(self, scope: str = "read", **anchors: str) -> str:
        """Return a fresh ambient token; ``anchors`` are members of the request."""
        return self._token({"scope": scope, **anchors})

    def ambient_request(self) -> str:
        """Return the request for an ambient token."""
        return self._asking({})

    def mandate(self, token: str) -> str:
        """Return a mandate of one call for an ambient token."""
        return self._token(_subject(token))

    def exchange(self, token: str, **also: str) -> str:
        """Return the request that exchanges an ambient token for a mandate of one call."""
        return self._asking(_subject(token) | also)

    def governed(self, token: str) -> str:
        """Return a call of the resource through the Gateway."""
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Caracal-Resource": RESOURCE,
            "X-Caracal-Scope": "read",
        }
        return self._text("gateway", "GET", "/answer", headers)

    def control(self, method: str, path: str, body: str = "") -> str:
        """Return a call of the control plane, below the zone."""
        headers = {
            "Authorization": f"Bearer {self.urls['admin_token']}",
            "Content-Type": "application/json",
        }
        return self._text("api", method, f"/v1/zones/{self.zone_id}{path}", headers, body)

    def policy_set(self, api: httpx.Client) -> tuple[str, str]:
        """Return the path of the zone's policy set, and its active version."""
        sets = f"/v1/zones/{self.zone_id}/policy-sets"
        [one] = api.get(sets).raise_for_status().json()
        return f"{sets}/{one['id']}", str(one["active_version_id"])

    def coordinated(self, token: str, method: str, path: str, body: str = "") -> str:
        """Return a call of the Coordinator, below the zone."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return self._text("coordinator", method, f"/zones/{self.zone_id}{path}", headers, body)

    def granted(self) -> str:
        """Grant the resource to the application; return the grant's id."""
        with admin(self.urls) as api:
            return str(
                made(
                    api,
                    f"/v1/zones/{self.zone_id}/grants",
                    application_id=self.application_id,
                    resource_id=self.resource_id,
                    scopes=["read"],
                )["id"]
            )

    def _token(self, also: Mapping[str, str]) -> str:
        form = {**self._credentials(), **also}
        answer = httpx.post(f"{self.urls['sts_url']}/oauth/2/token", data=form, timeout=10)
        return str(_checked(answer)["access_token"])

    def _asking(self, also: Mapping[str, str]) -> str:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        form = urlencode({**self._credentials(), **also})
        return self._text("sts", "POST", "/oauth/2/token", headers, form)

    def _credentials(self) -> dict[str, str]:
        return {
            "grant_type": _EXCHANGE,
            "zone_id": self.zone_id,
            "application_id": self.application_id,
            "client_secret": self.secret,
            "resource": RESOURCE,
            "scope": "read",
        }

    def _text(
        self, service: str, method: str, path: str, headers: Mapping[str, str], body: str = ""
    ) -> str:
        host, port = self.address(service)
        raw = request(method, path, f"{host}:{port}", headers, body.encode())
        return raw.decode("latin-1")


def _subject(token: str) -> dict[str, str]:
    return {"subject_token": token, "subject_token_type": _ACCESS_TOKEN}


def admin(urls: Mapping[str, str]) -> httpx.Client:
    """Return a client of the control plane."""
    headers = {"Authorization": f"Bearer {urls['admin_token']}"}
    return httpx.Client(base_url=urls["api_url"], headers=headers, timeout=10)


def make_world(urls: Mapping[str, str], upstream_port: int) -> World:
    """Make all of it through the control plane."""
    with admin(urls) as api:
        zone = f"/v1/zones/{made(api, '/v1/zones', name='Bench')['id']}"
        application = made(api, f"{zone}/applications", name="bench", credential_type="token")
        resource = made(
            api,
            f"{zone}/resources",
            identifier=RESOURCE,
            scopes=["read", "write", "rare", "agent:lifecycle"],
            upstream_url=f"http://127.0.0.1:{upstream_port}",
            rate_limit=_UNLIMITED,
        )
        _activate(api, zone)
    return World(
        urls=urls,
        zone_id=zone.rpartition("/")[2],
        application_id=application["id"],
        resource_id=resource["id"],
        secret=application["client_secret"],
    )


def _activate(api: httpx.Client, zone: str) -> None:
    policy_set = f"{zone}/policy-sets/{made(api, f'{zone}/policy-sets', name='bench')['id']}"
    version_id = version_of(api, policy_set, "template", POLICY)
    made(api, f"{policy_set}/activate", version_id=version_id)


def version_of(api: httpx.Client, policy_set: str, name: str, content: str) -> str:
    """Add a policy, and a version of the set that holds it alone; return that one's id."""
    zone = policy_set.partition("/policy-sets/")[0]
    policy = made(api, f"{zone}/policies", name=name, content=content)
    manifest = [{"policy_version_id": policy["version"]["id"]}]
    return str(made(api, f"{policy_set}/versions", manifest=manifest)["id"])


def made(api: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """Return what the control plane answers to a POST."""
    return _checked(api.post(path, json=body))


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code >= 300:
        raise RuntimeError(f"{answer.request.url.path}: {answer.status_code} {answer.text}")
    body: dict[str, Any] = answer.json()
    return body
