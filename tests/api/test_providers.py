from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from caracal.events.guards import Secret
from caracal.events.provider import Provider
from caracal.events.store.vault import Unreadable, Vault
from caracal.mandate import SigningKey
from caracal.projections.query import select
from caracal.services.api.provider_kinds import KINDS
from tests.api.running import Plane
from tests.making import in_zone, sealed_config

VAULT = Vault((bytes.fromhex("12" * 32),))
KEY = SigningKey.generate("k").pem().decode()
TYPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({"allowed_upstream_hosts": ["api.example", "10.0.0.1"]}, {}),
    "caracal_mandate": ({"header_name": "X-Mandate", "auth_scheme": ""}, {}),
    "oauth2_authorization_code": (
        {
            "authorization_endpoint": "https://idp.example/authorize",
            "token_endpoint": "https://idp.example:8443/token",
            "revocation_endpoint": "https://idp.example/revoke",
            "token_endpoint_auth_method": "private_key_jwt",
            "assertion_key_id": "k1",
            "assertion_audience": "https://idp.example",
            "issuer": "https://idp.example",
            "authorization_response_iss_parameter_supported": True,
            "allowed_return_urls": ["https://app.example/connected"],
            "allowed_token_hosts": ["idp.example"],
            "allowed_upstream_hosts": ["api.example"],
            "scopes": ["repo", "user:email"],
            "audience": "https://api.example",
            "header_name": "Authorization",
            "auth_scheme": "token",
        },
        {"client_secret": "hush hush, é", "private_key": KEY},
    ),
    "oauth2_client_credentials": (
        {"token_endpoint": "https://idp.example/token", "token_endpoint_auth_method": "none"},
        {"client_secret": "hush"},
    ),
    "api_key": ({"header_name": "X-API-Key", "auth_scheme": "Key"}, {"api_key": "hush hush"}),
    "bearer_token": ({}, {"bearer_token": "hush"}),
}
OPEN = ("oauth2", "oidc", "apikey", "workload")


async def stored(api: Plane, provider: dict[str, Any]) -> dict[str, Any] | None:
    """The provider's secrets, as the vault has them."""
    async with api.database() as db:
        (row,) = await select(db, "SELECT * FROM providers WHERE id = %s", [provider["id"]])
        if (ref := row["secret_config_ref"]) is None:
            return None
        return dict(orjson.loads(await VAULT.read(db, ref)))


async def vault_refs(api: Plane) -> set[str]:
    async with api.database() as db:
        return {row["ref"] for row in await select(db, "SELECT ref FROM vault", [])}


async def patched(api: Plane, provider: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    path = f"/zones/{provider['zone_id']}/providers/{provider['id']}"
    answer = await api.call("PATCH", path, body)
    assert answer.status_code == 200, answer.text
    assert (await api.call("GET", path)).json() == answer.json()
    return dict(answer.json())


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    zone = await api.zone()
    path = f"/zones/{zone}/providers"
    made = await api.made(path, {"identifier": "github", "kind": "oauth2"})
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "github",
        "identifier": "github",
        "kind": "oauth2",
        "owner_type": "customer",
        "client_id": None,
        "config_json": {},
        "secret_config_keys": [],
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert (await api.call("GET", f"{path}/{made['id']}")).json() == made
    assert (await api.call("GET", path)).json() == [made]
    changed = await patched(api, made, {"name": "GitHub", "owner_type": "caracal", "kind": "oidc"})
    assert changed == made | {
        "name": "GitHub",
        "owner_type": "caracal",
        "kind": "oidc",
        "updated_at": changed["updated_at"],
    }


async def test_what_is_secret_is_sealed(api: Plane) -> None:
    zone = await api.zone()
    config = {
        "issuer": "https://a.example",
        "token_url": "https://a.example/token",
        "allowed_token_hosts": ["a.example"],
        "Client_Secret": {"deep": ["hush"]},
        "x-api-key": "from config",
        "scope": "from config",
        "nothing": None,
    }
    secret = {"x-api-key": "from secret", "scope": ["all"], "zeta": 1.5, "alpha": None}
    made = await api.provider(zone, client_id="c", config_json=config, secret_config=secret)
    public = {name: config[name] for name in ("issuer", "token_url", "allowed_token_hosts")}
    assert made["config_json"] == public
    assert made["secret_config_keys"] == ["Client_Secret", "scope", "x-api-key", "zeta"]
    assert await stored(api, made) == {
        "Client_Secret": {"deep": ["hush"]},
        "x-api-key": "from secret",
        "scope": ["all"],
        "zeta": 1.5,
    }


async def test_a_sealed_value_opens_only_under_its_ref(api: Plane) -> None:
    made = await api.provider(await api.zone(), secret_config={"token": "hush"})
    async with api.database() as db:
        (provider,) = await select(db, "SELECT * FROM providers WHERE id = %s", [made["id"]])
        ref = provider["secret_config_ref"]
        (row,) = await select(db, "SELECT * FROM vault WHERE ref = %s", [ref])
    sealed = row["key_id"], bytes(row["nonce"]), bytes(row["ciphertext"])
    assert VAULT.open(ref, *sealed) == b'{"token":"hush"}'
    with pytest.raises(Unreadable):
        VAULT.open(f"{ref}0", *sealed)


async def test_a_patch_merges_both_parts(api: Plane) -> None:
    made = await api.provider(
        await api.zone(),
        config_json={"a": 1, "b": {"c": 1}},
        secret_config={"token": "one", "api_key": "two"},
    )
    changed = await patched(api, made, {"config_json": {"b": {"d": 2}, "a": None, "e": False}})
    assert changed["config_json"] == {"b": {"d": 2}, "e": False}
    assert await stored(api, made) == {"token": "one", "api_key": "two"}
    changed = await patched(
        api, made, {"config_json": {"api_key": "new", "f": 1}, "secret_config": {"e": "hidden"}}
    )
    assert changed["config_json"] == {"b": {"d": 2}, "f": 1}
    assert changed["secret_config_keys"] == ["api_key", "e", "token"]
    assert await stored(api, made) == {"token": "one", "api_key": "new", "e": "hidden"}
    changed = await patched(api, made, {"config_json": {"e": "hidden still", "token": None}})
    assert changed["secret_config_keys"] == ["api_key", "e"]
    assert await stored(api, made) == {"api_key": "new", "e": "hidden still"}
    changed = await patched(api, made, {"secret_config": {"api_key": None, "e": None}})
    assert changed["secret_config_keys"] == []
    assert await stored(api, made) is None


async def test_nothing_changed_is_nothing_stored(api: Plane) -> None:
    config = {"a": 1, "b": True}
    made = await api.provider(await api.zone(), config_json=config, secret_config={"token": "x"})
    path = f"/zones/{made['zone_id']}/providers/{made['id']}"
    for body in (
        {"name": made["name"], "config_json": config, "client_id": None},
        {"config_json": {}, "secret_config": {}},
        {"config_json": {"gone": None}, "secret_config": {"gone": None, "api_key": None}},
    ):
        answer = await api.call("PATCH", path, body)
        assert (answer.status_code, answer.json()) == (200, made)
        assert "caracal-position" not in answer.headers
    changed = await patched(api, made, {"config_json": {"a": True, "b": 1}})
    assert orjson.dumps(changed["config_json"]) == b'{"a":true,"b":1}'


async def test_the_vault_keeps_only_what_is_in_use(api: Plane) -> None:
    zone, before = await api.zone(), await vault_refs(api)
    made = await api.provider(zone, secret_config={"token": "one"})
    (first,) = await vault_refs(api) - before
    await patched(api, made, {"secret_config": {"token": "two"}})
    (second,) = await vault_refs(api) - before
    assert first != second
    await api.call("DELETE", f"/zones/{zone}/providers/{made['id']}")
    assert await vault_refs(api) == before


async def test_many_writers_of_one_providers_secrets(api: Plane) -> None:
    made = await api.provider(await api.zone(), secret_config={"token": "x"})
    path = f"/zones/{made['zone_id']}/providers/{made['id']}"
    before = await vault_refs(api)
    bodies = [{"secret_config": {f"key{n}": n}} for n in range(32)]
    answers = await asyncio.gather(*(api.call("PATCH", path, body) for body in bodies))
    done = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert {a.json()["error"] for a in answers if a.status_code != 200} <= {"concurrent_update"}
    assert done
    assert await stored(api, made) == {"token": "x", **{f"key{n}": n for n in done}}
    assert len(await vault_refs(api) - before) == 1


async def test_identifiers_are_unique_among_what_is_not_archived(api: Plane) -> None:
    zone = await api.zone()
    one = await api.provider(zone, identifier="a")
    other = await api.provider(zone, identifier="b")
    await api.provider(await api.zone(), identifier="a")  # another zone is another matter
    path = f"/zones/{zone}/providers"
    for method, where in (("POST", path), ("PATCH", f"{path}/{other['id']}")):
        answer = await api.call(method, where, {"identifier": "a", "kind": "oidc"})
        assert (answer.status_code, answer.json()["error"]) == (409, "provider_identifier_conflict")
    assert (await api.call("DELETE", f"{path}/{one['id']}")).status_code == 204
    await patched(api, other, {"identifier": "a"})
    await api.provider(zone, identifier="b")


@pytest.mark.parametrize("kind", OPEN)
async def test_the_kinds_of_the_seeds_take_what_they_are_given(api: Plane, kind: str) -> None:
    config = {"anything": [{"at": {"all": 1}}], "token_endpoint": "http://a.example", "scopes": 1}
    secret = {"whatever": None, "it": {"is": "hush"}}
    body = {"identifier": f"any thing {kind}", "kind": kind}
    made = await api.provider(await api.zone(), **body, config_json=config, secret_config=secret)
    assert made["config_json"] == config
    assert await stored(api, made) == {"it": {"is": "hush"}}


def test_every_typed_kind_is_tried() -> None:
    assert TYPED.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", TYPED)
async def test_a_typed_kind_takes_its_keys(api: Plane, kind: str) -> None:
    public, secret = TYPED[kind]
    given: dict[str, Any] = {"identifier": f"provider://{kind.replace('_', '-')}", "kind": kind}
    made = await api.provider(await api.zone(), **given, config_json={**public, **secret})
    assert made["config_json"] == public
    assert made["secret_config_keys"] == sorted(secret)
    assert await stored(api, made) == (secret or None)


def issues(answer: Any) -> dict[str, str]:
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), answer.text
    assert "hush" not in answer.text
    return {".".join(issue["path"]): issue["message"] for issue in answer.json()["issues"]}


@pytest.mark.parametrize("kind", TYPED)
async def test_a_typed_kind_takes_no_others(api: Plane, kind: str) -> None:
    zone = await api.zone()
    body = {
        "identifier": "provider://a",
        "kind": kind,
        "config_json": {"other": 1, "realm": "https://a.example"},
        "secret_config": {"password": "hush", "header_name": "X"},
    }
    found = issues(await api.call("POST", f"/zones/{zone}/providers", body))
    names = {"config_json": ("other", "realm"), "secret_config": ("password", "header_name")}
    assert found.keys() == {f"{member}.{name}" for member in names for name in names[member]}
    for where, message in found.items():
        part = KINDS[kind].public if where.startswith("config") else KINDS[kind].secret
        taken = ", ".join(sorted(part.model_fields)) or "nothing"
        assert message == f"no key of kind {kind}, which takes {taken} here"


NO_ENDPOINT = (
    *("http://a.example", "ftp://a.example", "https://", "https://user:hush@a.example", "", 1),
    *(
        "https://a b",
        "javascript:alert(1)",
        "//a.example",
        [],
        {},
        "https://a.example/" + "a" * 2048,
    ),
)
NO_HOSTS = (
    *([], "a.example", ["A.example"], ["https://a.example"], ["a.example:443"], ["*"], [""], [1]),
    *(["a.example/"], ["a" * 254], ["a"] * 33, {}),
)
WRONG: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("oauth2_authorization_code", "authorization_endpoint", NO_ENDPOINT),
    ("oauth2_authorization_code", "revocation_endpoint", NO_ENDPOINT),
    ("oauth2_client_credentials", "token_endpoint", NO_ENDPOINT),
    ("oauth2_authorization_code", "issuer", NO_ENDPOINT),
    ("oauth2_authorization_code", "allowed_return_urls", ([""], ["http://a"], "https://a", [1])),
    ("oauth2_client_credentials", "token_endpoint_auth_method", ("other", 1, [], "")),
    ("oauth2_client_credentials", "assertion_key_id", ("", 1, [])),
    ("oauth2_client_credentials", "assertion_audience", ("", 1, [])),
    ("oauth2_client_credentials", "private_key", ("", 1, "hush", KEY[:-40], "a" * 8193)),
    ("oauth2_client_credentials", "allowed_token_hosts", NO_HOSTS),
    ("oauth2_client_credentials", "scopes", ("a", ["a b"], [""], [1], ["a"] * 65, {})),
    ("oauth2_client_credentials", "audience", ("", 1, [], "a" * 1025)),
    ("none", "allowed_upstream_hosts", NO_HOSTS),
    ("api_key", "header_name", ("", "a b", "a:", "é", "a\r\nb", "a\n", 1, "a" * 129)),
    ("api_key", "auth_scheme", ("a b", "a\n", 1, "a" * 65)),
    ("api_key", "api_key", ("", " a", "a ", "a\r\nb", "a\n", "é", 1, ["hush"], "a" * 4097)),
    ("bearer_token", "bearer_token", ("", " a", "a\x7f", "a\n", 1, {"hush": "hush"})),
    ("oauth2_client_credentials", "client_secret", ("", 1, ["hush"], "a" * 1025)),
)


@pytest.mark.parametrize(("kind", "name", "values"), WRONG, ids=[f"{w[0]} {w[1]}" for w in WRONG])
async def test_a_typed_kind_checks_its_values(
    api: Plane, kind: str, name: str, values: tuple[Any, ...]
) -> None:
    public, secret = TYPED[kind]
    made = await api.provider(
        await api.zone(),
        identifier="provider://a",
        kind=kind,
        config_json=public,
        secret_config=secret,
    )
    path = f"/zones/{made['zone_id']}/providers"
    for value in values:
        body = {"identifier": "provider://b", "kind": kind, "config_json": {name: value}}
        for method, where in (("POST", path), ("PATCH", f"{path}/{made['id']}")):
            found = issues(await api.call(method, where, body))
            assert {where.split(".")[1] for where in found} == {name}, value
    assert (await api.call("GET", path)).json() == [made]


@pytest.mark.parametrize(
    "identifier",
    [
        *("a", "provider://", "provider://A", "provider://-a", "provider://a-", "provider://a--b"),
        *("provider://a_b", "provider://a/b", "resource://a", "provider://a\n", "xprovider://a"),
    ],
)
async def test_a_typed_kind_has_an_identifier_of_its_form(api: Plane, identifier: str) -> None:
    zone = await api.zone()
    typed = await api.provider(zone, identifier="provider://a-1", kind="none")
    untyped = await api.provider(zone, identifier=identifier)
    path = f"/zones/{zone}/providers"
    for method, where, body in (
        ("POST", path, {"identifier": identifier, "kind": "none"}),
        ("PATCH", f"{path}/{typed['id']}", {"identifier": identifier}),
        ("PATCH", f"{path}/{untyped['id']}", {"kind": "none"}),
    ):
        assert issues(await api.call(method, where, body)).keys() == {"identifier"}


async def test_a_new_kind_wants_the_stored_secrets_in_its_form(api: Plane) -> None:
    zone = await api.zone()
    made = await api.provider(zone, kind="apikey", secret_config={"api_key": ["hush"]})
    path = f"/zones/{zone}/providers/{made['id']}"
    typed = {"identifier": "provider://a", "kind": "api_key"}
    found = issues(await api.call("PATCH", path, typed))
    assert found.keys() == {"secret_config.api_key"}
    assert await stored(api, made) == {"api_key": ["hush"]}
    changed = await patched(api, made, {**typed, "secret_config": {"api_key": "hush"}})
    assert (changed["kind"], await stored(api, made)) == ("api_key", {"api_key": "hush"})
    back = await patched(api, made, {"kind": "apikey"})
    assert (back["secret_config_keys"], await stored(api, made)) == (
        ["api_key"],
        {"api_key": "hush"},
    )


async def test_a_configuration_does_not_grow_without_end(api: Plane) -> None:
    made = await api.provider(await api.zone(), config_json={"a": 1}, secret_config={"token": "x"})
    path = f"/zones/{made['zone_id']}/providers/{made['id']}"
    for member, name in (("config_json", "part"), ("secret_config", "part_token")):
        for number in itertools.count():
            body = {member: {f"{name}{number}": "a" * 6000}}
            answer = await api.call("PATCH", path, body)
            if answer.status_code != 200:
                break
        assert number == 2
        assert issues(answer) == {member: "must be at most 16384 bytes of JSON"}


async def test_secrets_that_do_not_open(api: Plane) -> None:
    """As after a lost ``ZONE_KEK``: nothing of them is kept, but the provider is not stuck."""
    zone = await api.zone()
    made = await api.provider(zone, secret_config={"token": "x", "api_key": "y"})
    path = f"/zones/{zone}/providers/{made['id']}"
    with in_zone(zone):
        provider = await api.log.find(Provider, made["id"])
        assert provider is not None
        sealed = sealed_config("api_key", "token", ref="lost")
        assert isinstance(sealed.value, Secret)
        provider.change({}, sealed)
        await api.save(provider)
    for body in ({"secret_config": {"token": "z"}}, {"kind": "workload"}):
        answer = await api.call("PATCH", path, body)
        assert (answer.status_code, answer.json()["error"]) == (409, "provider_secret_unreadable")
    assert (await api.call("PATCH", path, {"name": "n"})).status_code == 200
    await patched(api, made, {"secret_config": {"token": "z", "api_key": None}})
    assert await stored(api, made) == {"token": "z"}


async def test_answers_drop_secret_names_once_more(api: Plane) -> None:
    """Whatever an older release may have stored in the public part."""
    zone = await api.zone()
    made = await api.provider(zone, config_json={"a": 1})
    with in_zone(zone):
        provider = await api.log.find(Provider, made["id"])
        assert provider is not None
        provider.change({"config": {"a": 1, "client_secret": "hush", "token_url": 2}})
        await api.save(provider)
    path = f"/zones/{zone}/providers"
    read = [await api.call("GET", f"{path}/{made['id']}"), await api.call("GET", path)]
    read.append(await api.call("PATCH", f"{path}/{made['id']}", {"name": "n"}))
    for answer in read:
        assert answer.status_code == 200
        assert "hush" not in answer.text
        assert re.search(r'"config_json":{"a":1,"token_url":2}', answer.text)


async def test_it_cannot_hide_below_the_first_level(api: Plane) -> None:
    zone = await api.zone()
    body = {
        "identifier": "a",
        "kind": "oauth2",
        "config_json": {"oauth": [{"client_secret": "hush"}]},
    }
    found = issues(await api.call("POST", f"/zones/{zone}/providers", body))
    assert found == {
        "config_json": "oauth.0.client_secret looks like a secret; "
        "it is sealed only in secret_config"
    }


def test_the_documentation_names_the_kinds() -> None:
    text = (Path(__file__).parents[2] / "docs/providers.md").read_text()
    text = text.partition("\n## Kinds\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|$", text, re.MULTILINE)
    told = {kind: tuple(re.findall(r"`(\w+)`", part) for part in parts) for kind, *parts in rows}
    assert told == {
        name: (sorted(kind.public.model_fields), sorted(kind.secret.model_fields))
        for name, kind in KINDS.items()
    }
