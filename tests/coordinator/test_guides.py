"""``docs/coordinator.md`` and ``docs/tokens.md``: the commands work, and nothing is left out."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import fields
from pathlib import Path

from caracal.services.coordinator.app import document
from caracal.services.sts.token_request import TokenRequest
from tests.coordinator.running import Crew

DOCS = Path(__file__).parents[2] / "docs"
LIMIT = 30.0  # s, for the commands to run
_OTHER_NAMES = {"resources": "resource", "scopes": "scope"}


async def test_the_commands(crew: Crew) -> None:
    blocks = [
        block
        for page in ("tokens.md", "coordinator.md")
        for block in re.findall(r"^```sh\n(.*?)^```", _read(page), re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) == 2
    script = "\necho\n".join(blocks).replace("resource://docs", crew.tenant.resource.identifier)
    given = {
        "STS_URL": crew.settings.sts_url,
        "COORDINATOR_URL": crew.url,
        "ZONE": crew.zone,
        "APPLICATION": crew.application_id,
        "SECRET": crew.tenant.secret,
    }
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_exec(
        "sh", "-ec", script, env={**os.environ, **given}, stdout=pipe, stderr=pipe
    )
    async with asyncio.timeout(LIMIT):
        out, err = await shell.communicate()
    assert (shell.returncode, err) == (0, b"")
    mandate, agent = map(json.loads, out.splitlines())
    assert (mandate["scope"], mandate["expires_in"]) == ("read", 900)
    assert (agent["application_id"], agent["status"]) == (crew.application_id, "active")


def test_every_field_of_an_exchange() -> None:
    names = {_OTHER_NAMES.get(each.name, each.name) for each in fields(TokenRequest)}
    text = _read("tokens.md")
    assert [
        name for name in (*names, "grant_type", "subject_token_type") if f"`{name}`" not in text
    ] == []


def test_every_route() -> None:
    flat = re.sub(r"\{[^}]*\}", "{}", _read("coordinator.md"))
    paths = {re.sub(r"\{[^}]*\}", "{}", path) for path in document()["paths"]}
    assert len(paths) > 20
    assert sorted(path for path in paths if not _is_told(path, flat)) == []


def _is_told(path: str, text: str) -> bool:
    """Whether a path stands there whole, or its end as what follows upon ``…`` or a word."""
    ends = [path[at:] for at, letter in enumerate(path) if letter == "/"]
    return any(f"{before}{end}" in text for end in ends for before in (" ", "`", "…")) or any(
        f"{before}{end[1:]}" in text for end in ends for before in ("and ", ", ") if "{}" in end
    )


def _read(page: str) -> str:
    return (DOCS / page).read_text()
