from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import pytest

from caracal import secret_hash
from caracal.events.application import Application
from caracal.events.store.vault import Vault
from caracal.ids import new_id
from tests.api.running import Plane
from tests.making import in_zone, new_policy, new_policy_set

VAULT = Vault((bytes.fromhex("12" * 32),))
EC_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "kid": "1",
}


async def stored_secret(api: Plane, application_id: str) -> str | None:
    """What the vault holds for an application."""
    app = await api.log.find(Application, application_id)
    assert app is not None
    if app.client_secret_ref is None:
        return None
    async with api.database() as db:
        return (await VAULT.read(db, app.client_secret_ref)).decode()


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    zone = await api.zone()
    made = await api.application(zone)
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "app",
        "registration_method": "managed",
        "credential_type": "public",
        "jwks": None,
        "jwks_uri": None,
        "traits": [],
        "consent": "implicit",
        "created_at": made["created_at"],
        "expires_at": None,
    }
    path = f"/zones/{zone}/applications"
    assert (await api.call("GET", f"{path}/{made['id']}")).json() == made
    assert (await api.call("GET", path)).json() == [made]


@pytest.mark.parametrize("kind", ["token", "password"])
async def test_a_secret_made_here_is_told_once(api: Plane, kind: str) -> None:
    zone = await api.zone()
    made = await api.application(zone, credential_type=kind)
    secret = made.pop("client_secret")
    assert re.fullmatch(r"cs_[A-Za-z0-9_-]{43}", secret)
    assert await stored_secret(api, made["id"]) == f"sha256${sha256(secret.encode()).hexdigest()}"
    assert (await api.call("GET", f"/zones/{zone}/applications/{made['id']}")).json() == made


async def test_a_chosen_secret_is_never_told(api: Plane) -> None:
    zone = await api.zone()
    made = await api.application(zone, credential_type="password", client_secret="chosen")
    assert "client_secret" not in made
    stored = await stored_secret(api, made["id"])
    assert stored is not None
    assert re.fullmatch(r"argon2id\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", stored)
    assert secret_hash.verify(stored, "chosen")


@pytest.mark.parametrize("kind", ["public", "public-key", "url"])
async def test_other_kinds_get_no_secret(api: Plane, kind: str) -> None:
    made = await api.application(await api.zone(), credential_type=kind)
    assert "client_secret" not in made
    assert await stored_secret(api, made["id"]) is None


async def test_a_new_secret_replaces_the_old_one_and_archiving_erases_it(api: Plane) -> None:
    zone = await api.zone()
    made = await api.application(zone, credential_type="token")
    path = f"/zones/{zone}/applications/{made['id']}"
    app = await api.log.find(Application, made["id"])
    changed = await api.call("PATCH", path, {"client_secret": "other"})
    assert "client_secret" not in changed.json()
    stored = await stored_secret(api, made["id"])
    assert stored is not None
    assert secret_hash.verify(stored, "other")
    assert (await api.call("DELETE", path)).status_code == 204
    assert app is not None
    later = await api.log.find(Application, made["id"])
    assert later is not None
    refs = [app.client_secret_ref, later.client_secret_ref]
    async with api.database() as db:
        cursor = await db.execute("SELECT count(*) FROM vault WHERE ref = ANY(%s)", (refs,))
        assert await cursor.fetchone() == (0,)


async def test_patch_answers_the_whole_and_clears_by_null(api: Plane) -> None:
    zone = await api.zone()
    made = await api.application(zone, jwks={"keys": [EC_KEY]}, credential_type="public-key")
    path = f"/zones/{zone}/applications/{made['id']}"
    assert made["jwks"] == {"keys": [EC_KEY]}
    changed = (await api.call("PATCH", path, {"name": "other", "consent": True})).json()
    assert changed == made | {"name": "other", "consent": "required"}
    moved = (await api.call("PATCH", path, {"jwks_uri": "https://a.example/jwks"})).json()
    assert (moved["jwks"], moved["jwks_uri"]) == (None, "https://a.example/jwks")
    assert (await api.call("PATCH", path, {"jwks_uri": None})).json()["jwks_uri"] is None
    assert (await api.call("GET", path)).json()["consent"] == "required"


async def test_a_change_that_changes_nothing_writes_nothing(api: Plane) -> None:
    zone = await api.zone()
    made = await api.application(zone)
    path = f"/zones/{zone}/applications/{made['id']}"
    answer = await api.call("PATCH", path, {"name": "app", "traits": []})
    assert (answer.status_code, answer.json()) == (200, made)
    assert "caracal-position" not in answer.headers


@pytest.mark.parametrize(("given", "kept"), [(False, "implicit"), (True, "required")])
async def test_consent_as_boolean(api: Plane, given: bool, kept: str) -> None:
    assert (await api.application(await api.zone(), consent=given))["consent"] == kept


async def test_control_traits_are_given_by_global_tokens_only(api: Plane) -> None:
    zone = await api.zone()
    path, of_zone = f"/zones/{zone}/applications", await api.token("zone", zone)
    body = {"name": "app", "traits": ["control:admin"]}
    refused = await api.call("POST", path, body, headers=of_zone)
    assert (refused.status_code, refused.json()["error"]) == (403, "trait_forbidden")
    made = await api.made(path, body)
    for traits in (["control:admin"], ["control:other"]):
        patched = await api.call(
            "PATCH", f"{path}/{made['id']}", {"traits": traits}, headers=of_zone
        )
        assert patched.json()["error"] == "trait_forbidden"


TRAITS = {
    "trait_count_exceeded": [f"t{n}" for n in range(33)],
    "trait_invalid": ["no spaces"],
    "trait_duplicate": ["a", "b", "a"],
}


@pytest.mark.parametrize("code", TRAITS)
async def test_traits_against_the_rules(api: Plane, code: str) -> None:
    zone = await api.zone()
    path = f"/zones/{zone}/applications"
    made = await api.application(zone)
    for method, where in (("POST", path), ("PATCH", f"{path}/{made['id']}")):
        answer = await api.call(method, where, {"name": "app", "traits": TRAITS[code]})
        assert (answer.status_code, answer.json()["error"]) == (403, code)


@pytest.mark.parametrize("place", ["active", "shadow"])
async def test_what_an_active_policy_names_is_not_made_public(api: Plane, place: str) -> None:
    zone = await api.zone()
    made = await api.application(zone, credential_type="token")
    path = f"/zones/{zone}/applications/{made['id']}"
    policy, other = new_policy(zone), new_policy(zone, name="other", versions=1)
    with in_zone(zone):
        policy.add_version(new_id(), content=f"# {made['id']}", schema_version="2026-03-16")
    manifests = [[policy.versions[0].id], [other.versions[0].id]]
    policy_set = new_policy_set(zone, manifests=manifests)
    await api.save(policy, other, policy_set)
    to_public = {"credential_type": "public"}
    naming, plain = policy_set.versions
    with in_zone(zone):
        chosen: Any = (naming, plain) if place == "active" else (plain, naming)
        policy_set.activate(*chosen, policies=(), replacing=None)
    await api.save(policy_set)
    refused = await api.call("PATCH", path, to_public)
    assert (refused.status_code, refused.json()["error"]) == (
        409,
        "app_referenced_by_active_policy",
    )
    assert (await api.call("PATCH", path, {"credential_type": "url"})).status_code == 200
    with in_zone(zone):
        policy_set.activate(plain, policies=(), replacing=None)
    await api.save(policy_set)
    assert (await api.call("PATCH", path, to_public)).status_code == 200
