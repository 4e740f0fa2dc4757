"""``/docs`` is our own page: nothing from elsewhere, nothing inline, nothing as markup."""

from __future__ import annotations

import re
from importlib import resources

import httpx
import pytest

from tests.api.running import Plane

FILES = {"": "text/html", "/index.html": "text/html", "/docs.css": "text/css"}
FILES |= {"/docs.js": "text/javascript"}


@pytest.mark.parametrize(("name", "kind"), FILES.items())
async def test_it_is_served_without_a_token(api: Plane, name: str, kind: str) -> None:
    async with httpx.AsyncClient(base_url=api.url) as anonymous:
        answer = await anonymous.get(f"/docs{name}")
        asked = await anonymous.head(f"/docs{name}")
    assert (answer.status_code, asked.status_code) == (200, 200)
    assert answer.headers["content-type"].startswith(kind)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["other.js", "..%2fdocs_page.py", "%2e%2e%2fapp.py", "docs.js%00"])
async def test_nothing_else_is(api: Plane, name: str) -> None:
    answer = await api.client.get(f"/docs/{name}")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


def test_its_files_ask_nothing_of_others() -> None:
    folder = resources.files("caracal.services.api") / "docs"
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert texts.keys() == {"index.html", "docs.css", "docs.js"}
    assert not [name for name, text in texts.items() if re.search(r"https?://|@import|url\(", text)]
    assert not re.search(r"\son\w+=|<style|<script>|style=", texts["index.html"])
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|eval\(|document\.write", texts["docs.js"]
    )
    assert "localStorage" not in texts["docs.js"]  # the token stays in memory
