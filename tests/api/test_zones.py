from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from redis.asyncio import Redis

from caracal.events.store.vault import Vault
from caracal.mandate import SigningKey, public_key, sign, verify
from caracal.projections.query import select
from tests.api.running import OPERATOR, Plane

VAULT = Vault((bytes.fromhex("12" * 32),))


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    made = await api.made("/zones", {"name": "My  Zone!", "org_id": "acme", "dcr_enabled": True})
    assert re.fullmatch(r"my-zone(-\d+)?", made["slug"])
    assert made == {
        "id": made["id"],
        "org_id": "acme",
        "name": "My  Zone!",
        "slug": made["slug"],
        "dcr_enabled": True,
        "pkce_required": True,
        "login_flow": "default",
        "gateway_only": False,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert (await api.call("GET", f"/zones/{made['id']}")).json() == made
    changes = {"pkce_required": False, "gateway_only": True}
    changed = (await api.call("PATCH", f"/zones/{made['id']}", changes)).json()
    assert changed == made | changes | {"updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]


async def test_a_zone_has_a_signing_key_that_signs(api: Plane) -> None:
    zone = await api.zone()
    async with api.database() as db:
        (row,) = await select(db, "SELECT * FROM signing_keys WHERE zone_id = %s", [zone])
        pem = await VAULT.read(db, row["private_key_ref"])
    assert (row["version"], row["alg"], row["public_jwk"]["kid"]) == (1, "ES256", row["id"])
    kid, key = public_key(row["public_jwk"])
    token = sign({"sub": "ada"}, SigningKey.from_pem(row["id"], pem))
    assert verify(token, {kid: key}) == {"sub": "ada"}


async def test_slugs_are_derived_and_numbered(api: Plane) -> None:
    names = ["Same Name", "same name", "SAME--NAME"]
    slugs = [(await api.made("/zones", {"name": name}))["slug"] for name in names]
    assert slugs == ["same-name", "same-name-2", "same-name-3"]
    (unnamed,) = [(await api.made("/zones", {"name": "日本"}))["slug"]]
    assert re.fullmatch(r"zone(-\d+)?", unnamed)


async def test_slugs_are_unique_among_what_is_not_archived(api: Plane) -> None:
    first = await api.zone(slug="taken")
    other = await api.zone(slug="mine")
    for method, path in (("POST", "/zones"), ("PATCH", f"/zones/{other}")):
        answer = await api.call(method, path, {"name": "x", "slug": "taken"})
        assert (answer.status_code, answer.json()["error"]) == (409, "zone_slug_conflict")
    await api.call("DELETE", f"/zones/{first}")
    assert (await api.call("PATCH", f"/zones/{other}", {"slug": "taken"})).status_code == 200
    await api.zone(slug="mine")


@pytest.mark.parametrize("start", ["/v1%2fzones/", "/v1/zones%2F", "/v1%2Fzones%2f"])
async def test_encoded_slashes_lead_past_no_check(api: Plane, start: str) -> None:
    zone = await api.zone()
    for path in (f"{start}{zone}", f"{start}{zone}/applications", f"{start}{zone}%2fgrants"):
        answer = await api.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_many_writers_and_one_slug(api: Plane) -> None:
    bodies = [{"name": "x", "slug": "contended"}] * 32
    answers = await asyncio.gather(*(api.call("POST", "/zones", body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 31


async def test_many_writers_and_one_name(api: Plane) -> None:
    calls = (api.made("/zones", {"name": "Popular"}) for _ in range(32))
    slugs = {made["slug"] for made in await asyncio.gather(*calls)}
    assert slugs == {"popular", *(f"popular-{n}" for n in range(2, 33))}


@pytest.mark.parametrize("kind", ["resource", "provider"])
async def test_many_writers_of_one_identifier(api: Plane, kind: str) -> None:
    path = f"/zones/{await api.zone()}/{kind}s"
    body = {"identifier": "contended", "scopes": ["a"], "kind": "oauth2", "config_json": {"a": 1}}
    answers = await asyncio.gather(*(api.call("POST", path, body) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 31
    codes = {a.json()["error"] for a in answers if a.status_code == 409}
    assert codes == {f"{kind}_identifier_conflict"}


async def test_many_writers_of_one_thing(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone)
    path = f"/zones/{zone}/applications/{app['id']}"
    calls = (api.call("PATCH", path, {"name": f"name-{n}"}) for n in range(32))
    answers = await asyncio.gather(*calls)
    done = [answer for answer in answers if answer.status_code == 200]
    refused = {a.json()["error"] for a in answers if a.status_code != 200}
    assert done
    assert refused <= {"concurrent_update"}
    last = max(done, key=lambda answer: int(answer.headers["caracal-position"]))
    assert (await api.call("GET", path)).json() == last.json()


async def test_many_deletes_of_one_thing(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone)
    path = f"/zones/{zone}/applications/{app['id']}"
    answers = await asyncio.gather(*(api.call("DELETE", path) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [204] + [404] * 15


THINGS: list[tuple[str, dict[str, Any]]] = [
    ("applications", {"name": "a"}),
    ("resources", {"identifier": "a", "scopes": ["a"]}),
    ("providers", {"identifier": "a", "kind": "oauth2"}),
]


@pytest.mark.parametrize(("plural", "body"), THINGS)
async def test_what_is_archived_is_invisible(api: Plane, plural: str, body: dict[str, Any]) -> None:
    zone = await api.zone()
    path = f"/zones/{zone}/{plural}"
    thing = f"{path}/{(await api.made(path, body))['id']}"
    answer = await api.call("DELETE", thing)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.call("GET", path)).json() == []
    for method in ("GET", "PATCH", "DELETE"):
        answer = await api.call(method, thing, {"name": "b"} if method == "PATCH" else None)
        code = f"{plural[:-1]}_not_found"
        assert (answer.status_code, answer.json()["error"]) == (404, code)


async def test_an_archived_zone_hides_all_in_it(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone)
    assert (await api.call("DELETE", f"/zones/{zone}")).status_code == 204
    listed = (await api.call("GET", "/zones?limit=500")).json()
    assert zone not in [row["id"] for row in listed]
    for method, path in (
        ("GET", f"/zones/{zone}"),
        ("PATCH", f"/zones/{zone}"),
        ("DELETE", f"/zones/{zone}"),
        ("GET", f"/zones/{zone}/applications"),
        ("GET", f"/zones/{zone}/applications/{app['id']}"),
        ("POST", f"/zones/{zone}/resources"),
        ("GET", f"/zones/{zone}/grants"),
        ("GET", f"/zones/{zone}/sessions"),
    ):
        answer = await api.call(method, path, {"name": "x"} if method == "PATCH" else None)
        assert (answer.status_code, answer.json()["error"]) == (404, "zone_not_found"), path


async def test_a_write_is_seen_by_the_next_read(api: Plane) -> None:
    async def writes(n: int) -> None:
        zone = await api.zone(slug=f"reader-{n}")
        for step in range(5):
            body = {"name": f"{n}-{step}"}
            answer = await api.call("PATCH", f"/zones/{zone}", body)
            assert "caracal-consistency" not in answer.headers
            seen = {"Caracal-Min-Position": answer.headers["caracal-position"]}
            for headers in ({}, seen):
                read = await api.call("GET", f"/zones/{zone}", headers=headers)
                assert read.json() == answer.json()

    await asyncio.gather(*(writes(n) for n in range(8)))


async def test_no_secret_leaves(api: Plane) -> None:
    zone = await api.zone()
    generated = (await api.application(zone, credential_type="token"))["client_secret"]
    chosen = "a-chosen-secret-of-the-caller"
    app = await api.application(zone, credential_type="password", client_secret=chosen)
    path = f"/zones/{zone}/applications"
    await api.call("PATCH", f"{path}/{app['id']}", {"client_secret": f"{chosen}-2"})
    await api.call("PATCH", f"{path}/{app['id']}", {"client_secret": chosen, "name": 1})
    async with api.database() as db:
        log = await select(db, "SELECT state FROM log", [])
        keys = await select(db, "SELECT * FROM signing_keys WHERE zone_id = %s", [zone])
        pem = await VAULT.read(db, keys[0]["private_key_ref"])
        rows = await select(db, "SELECT a::text AS row FROM applications a", [])
        vault = await select(db, "SELECT ciphertext FROM vault", [])
    answers = [(await api.call("GET", where)).content for where in (path, "/zones?limit=500")]
    stored = [bytes(row["state"]) for row in log] + [bytes(row["ciphertext"]) for row in vault]
    stored += [row["row"].encode() for row in rows]
    async with Redis.from_url(api.redis_url) as redis:
        topics = list(await redis.keys("caracal.*"))
        assert b"caracal.applications.events" in topics
        sent = [repr(await redis.xrange(topic)).encode() for topic in topics]
    secrets = [generated.encode(), chosen.encode(), OPERATOR.encode(), pem.split(b"\n")[1]]
    for secret in secrets:
        assert not [text for text in (*stored, *answers, *sent) if secret in text], secret


async def test_a_refused_body_does_not_repeat_its_secret(api: Plane) -> None:
    zone = await api.zone()
    body = {"name": 1, "client_secret": "hush-hush", "jwks": {"keys": [{"d": "hush-hush"}]}}
    answer = await api.call("POST", f"/zones/{zone}/applications", body)
    assert answer.status_code == 400
    assert "hush" not in answer.text
