"""``/openapi.json``, and ``/docs`` for people. Our own page and nothing from elsewhere."""

from __future__ import annotations

from importlib import resources

import orjson
from fastapi import APIRouter, Request, Response

from caracal.errors import NotFound

router = APIRouter(tags=["docs"], include_in_schema=False)

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_folder = resources.files(__package__).joinpath("docs")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Send the OpenAPI document, written once: anyone may ask for it, as often as he likes."""
    state = request.app.state
    if not hasattr(state, "openapi_json"):
        state.openapi_json = orjson.dumps(request.app.openapi())
    return Response(state.openapi_json, media_type="application/json")


@router.get("/docs")
async def page() -> Response:
    """Show the page."""
    return _file("index.html")


@router.get("/docs/{name}")
async def part(name: str) -> Response:
    """Send a part of the page."""
    if name not in _FILES:
        raise NotFound("not_found", "there is no such route")
    return _file(name)


def _file(name: str) -> Response:
    content = _folder.joinpath(name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
    return Response(content, headers=headers, media_type=_FILES[name])
