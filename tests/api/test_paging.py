"""Lists: newest first, keyset pages, Link (RFC 8288)."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.errors import BadInput
from caracal.services.api.paging import decode_cursor, encode_cursor
from tests.api.running import Plane
from tests.making import new_grant, new_session

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def next_of(answer: Any) -> str | None:
    link = answer.headers.get("link")
    if link is None:
        return None
    assert link.startswith("</v1/")
    assert link.endswith('>; rel="next"')
    return str(link[len("</v1") : link.index(">")])


async def filled(api: Plane, plural: str, number: int) -> tuple[str, list[str]]:
    """A zone with things of one kind; their ids, oldest first."""
    zone = await api.zone()
    if plural in ("applications", "resources"):
        made = [
            await api.made(f"/zones/{zone}/{plural}", body)
            for body in (
                {"name": "a", "identifier": f"r{n}", "scopes": ["read"]} for n in range(number)
            )
        ]
        return zone, [row["id"] for row in made]
    app, resource = await api.application(zone), await api.resource(zone)
    things: list[Any] = [
        new_session(app["id"], zone_id=zone)
        if plural == "sessions"
        else new_grant(app["id"], resource["id"], zone_id=zone)
        for _ in range(number)
    ]
    await api.save(*things)
    return zone, [thing.aggregate_id for thing in things]


@pytest.mark.parametrize("plural", ["applications", "resources", "grants", "sessions"])
async def test_pages_hold_everything_once(api: Plane, plural: str) -> None:
    zone, ids = await filled(api, plural, 6)
    for limit in (1, 2, 3, 5, 6, 7):
        path: str | None = f"/zones/{zone}/{plural}?limit={limit}"
        found, pages = [], 0
        while path is not None:
            answer = await api.call("GET", path)
            rows, path = answer.json(), next_of(answer)
            assert len(rows) == limit or path is None
            found += [row["id"] for row in rows]
            pages += 1
        assert found == ids[::-1]
        assert pages == -(-len(ids) // limit)  # the last page has no next


async def test_the_link_keeps_the_other_parameters(api: Plane) -> None:
    zone, _ = await filled(api, "sessions", 3)
    path = f"/zones/{zone}/sessions?status=active&limit=1&subject=ada"
    link = next_of(await api.call("GET", path))
    assert link is not None
    assert link.startswith(f"/zones/{zone}/sessions?status=active&subject=ada&limit=1&cursor=")
    assert len((await api.call("GET", link)).json()) == 1


async def test_zones_are_paged(api: Plane) -> None:
    made = [await api.zone() for _ in range(3)]
    path: str | None = "/zones?limit=2"
    first = await api.call("GET", "/zones?limit=2")
    assert [row["id"] for row in first.json()] == made[:0:-1]
    path = next_of(first)
    assert path is not None
    assert (await api.call("GET", path)).json()[0]["id"] == made[0]


async def test_what_is_made_meanwhile_moves_no_page(api: Plane) -> None:
    zone, ids = await filled(api, "applications", 4)
    first = await api.call("GET", f"/zones/{zone}/applications?limit=2")
    await api.application(zone)
    await api.call("DELETE", f"/zones/{zone}/applications/{ids[2]}")
    second = await api.call("GET", next_of(first) or "")
    assert [row["id"] for row in second.json()] == ids[1::-1]


def as_cursor(value: object) -> str:
    return urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


BAD_CURSORS = {
    "empty": "",
    "not base64url": "a b",
    "padded": "e30=",
    "not JSON": "e3s",
    "no object": as_cursor([1]),
    "no id": as_cursor({"ts": "2026-05-11T20:00:00.123456Z"}),
    "no time": as_cursor({"ts": "yesterday", "id": "a"}),
    "time without offset": as_cursor({"ts": "2026-05-11T20:00:00", "id": "a"}),
    "time out of range": as_cursor({"ts": "0001-01-01T00:00:00+23:00", "id": "a"}),
    "number as time": as_cursor({"ts": 1, "id": "a"}),
    "number as id": as_cursor({"ts": "2026-05-11T20:00:00Z", "id": 1}),
    "foreign id": as_cursor({"ts": "2026-05-11T20:00:00Z", "id": "a b"}),
    "too long": as_cursor({"ts": "2026-05-11T20:00:00Z", "id": "a", "x": "a" * 512}),
}


@pytest.mark.parametrize("cursor", BAD_CURSORS.values(), ids=BAD_CURSORS)
async def test_bad_cursors(api: Plane, cursor: str) -> None:
    answer = await api.call("GET", "/zones", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_cursor")


async def test_bad_limits(api: Plane) -> None:
    zone = await api.zone()
    for path, most in (("/zones", 500), (f"/zones/{zone}/sessions", 1000)):
        for limit in (0, -1, most + 1, "x", "", "1.5", 10**30):
            answer = await api.call("GET", f"{path}?limit={limit}")
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query"), limit
        assert (await api.call("GET", f"{path}?limit={most}")).status_code == 200


def test_the_cursor_of_the_contract() -> None:
    text = "eyJ0cyI6IjIwMjYtMDUtMTFUMjA6MDA6MDAuMTIzNDU2WiIsImlkIjoiMDE5OCJ9"
    moment = datetime(2026, 5, 11, 20, 0, 0, 123456, UTC)
    assert encode_cursor(moment, "0198") == text
    assert decode_cursor(text) == (moment, "0198")


@given(
    st.integers(0, 7_000_000_000_000_000).map(lambda n: EPOCH + timedelta(microseconds=n)),
    st.from_regex(r"[A-Za-z0-9_.\-:]{1,128}", fullmatch=True),
)
def test_cursors_come_back(moment: datetime, row_id: str) -> None:
    assert decode_cursor(encode_cursor(moment, row_id)) == (moment, row_id)


@given(st.text(max_size=600) | st.binary(max_size=100).map(lambda b: urlsafe_b64encode(b).decode()))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with suppress(BadInput):
        moment, row_id = decode_cursor(text)
        assert moment.tzinfo is UTC
        assert row_id
