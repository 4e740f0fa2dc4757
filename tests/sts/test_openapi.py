"""The document tells of all routes and fields, and of no others."""

from __future__ import annotations

import inspect
import re

import httpx
import pytest

from caracal.services.sts import app, token_request
from caracal.services.sts.openapi import document
from tests.sts.world import World

PATHS = document()["paths"]
ROUTES = [(path, method) for path, item in PATHS.items() for method in item]
FORM = "application/x-www-form-urlencoded"


def test_it_has_the_routes_of_the_service() -> None:
    table = re.findall(r'"(/[^"]+)": \("(GET|POST)", ', inspect.getsource(app))
    assert sorted(ROUTES) == sorted((path, method.lower()) for path, method in table)


def test_it_has_the_fields_that_are_read() -> None:
    names = set(re.findall(r'fields\.get\("(\w+)"', inspect.getsource(token_request)))
    names |= {"resource", "subject_token_type", "actor_token_type"}
    schema = PATHS["/oauth/2/token"]["post"]["requestBody"]["content"][FORM]["schema"]
    assert set(schema["properties"]) == names


@pytest.mark.parametrize(("path", "method"), ROUTES)
async def test_they_are_there(world: World, path: str, method: str) -> None:
    async def send(verb: str) -> httpx.Response:
        return await world.http.request(verb, world.url + re.sub(r"\{.*?\}", "a", path))

    assert (await send(method)).json().get("error") != "not_found"
    other = await send("POST" if method == "get" else "GET")
    assert (other.status_code, other.json()["error"]) == (405, "method_not_allowed")
    assert other.headers["allow"] == ("GET, HEAD" if method == "get" else "POST")


async def test_anyone_gets_it(world: World) -> None:
    answer = await world.http.get(f"{world.url}/openapi.json")
    assert (answer.status_code, answer.json()) == (200, document())
    assert answer.headers["x-content-type-options"] == "nosniff"
