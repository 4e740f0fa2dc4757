"""The two doors that the demo knocks at with plain REST: the control plane and the STS."""

from __future__ import annotations

from typing import Any, Self

import httpx

from caracal.demo.screen import StepFailed

Json = dict[str, Any]


class ControlPlane:
    """Speaks for an operator, with the admin token."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=10)
        self.request_id = ""
        """The id of the last request, under which its facts are found in the audit trail."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._http.aclose()

    async def post(self, path: str, **body: Any) -> Json:
        """Make something; return the answer."""
        answer: Json = (await self._ask("POST", path, json=body)).json()
        return answer

    async def delete(self, path: str) -> None:
        """End something."""
        await self._ask("DELETE", path)

    async def get(self, path: str) -> Any:
        """Return what is at ``path``; None where there is nothing (yet)."""
        response = await self._http.get(path)
        return None if response.status_code == 404 else _checked(response).json()

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        response = _checked(await self._http.request(method, path, **content))
        self.request_id = response.headers["X-Request-Id"]
        return response


async def ambient_token(sts: str, application: Json, resource: str, scope: str) -> Json:
    """Exchange the application's secret for an ambient token (RFC 8693); return the answer."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "zone_id": application["zone_id"],
        "application_id": application["id"],
        "client_secret": application["client_secret"],
        "resource": resource,
        "scope": scope,
    }
    async with httpx.AsyncClient(timeout=10) as http:
        answer: Json = _checked(await http.post(f"{sts}/oauth/2/token", data=form)).json()
        return answer


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    asked = f"{response.request.method} {response.request.url}"
    raise StepFailed(f"{asked} answered {response.status_code} {response.text[:300]}")
