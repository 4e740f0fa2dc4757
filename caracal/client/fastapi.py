"""A FastAPI dependency for resource servers; the only module here that needs FastAPI.

>>> @app.get("/files")
... async def files(mandate: Annotated[Mandate, Depends(mandate_with(verifier, "read"))]): ...
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException
from fastapi.requests import HTTPConnection

from caracal.client.guard import refusal_headers, verified
from caracal.client.verify import Mandate, Verifier
from caracal.errors import CaracalError

Dependency = Callable[[HTTPConnection], Coroutine[Any, Any, Mandate]]


def mandate_with(verifier: Verifier, *required_scopes: str) -> Dependency:
    """Return a dependency that gives the verified mandate of a request with these scopes.

    Refusals are ``HTTPException`` 401, 403 or 503, whose ``detail`` has ``error`` and
    ``error_description``.
    """

    async def dependency(connection: HTTPConnection) -> Mandate:
        try:
            return await verified(verifier, connection.scope, *required_scopes)
        except CaracalError as error:
            detail = {"error": error.code, "error_description": error.description}
            raise HTTPException(error.status, detail, refusal_headers(error)) from None

    return dependency
