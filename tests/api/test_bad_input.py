"""Every field of every route, badly: never a 5xx, always the error body, and nothing changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jose import jwk

from tests.api.running import Plane
from tests.api.test_applications import EC_KEY

NO_OBJECT = "a JSON object is needed, with Content-Type application/json"
NO_TEXT = (1, True, None, [], {}, "", "\x00", "a\ud800")
NO_BOOL = (1, 0, "true", None, [], {})
NO_ID = (1, None, [], {}, "", "a b", "a/b", "a\x00", "é", "a" * 129, "a\n")
NO_URL = (
    *(1, [], {}, "", "a.example", "/path", "ftp://a.example", "javascript:alert(1)", "http://"),
    *("http://user@a.example", "http://u:p@a.example", "http://a.example:99999", "http://a b"),
    *("http://a.example:x", "http:///path", "http://a\x00", "http://[::1", "http://é.example"),
    *("http://a.example/" + "a" * 2048, "http://a.example\\@b.example", "http://a.example:0"),
)
NO_RATE = (
    *(1, "1/s", [], {}, {"window_seconds": 1}, {"window_seconds": 0, "max_requests": 1}),
    *({"window_seconds": 1, "max_requests": 0}, {"window_seconds": 1.5, "max_requests": 1}),
    *({"window_seconds": "1", "max_requests": 1}, {"window_seconds": True, "max_requests": 1}),
    *({"window_seconds": 86_401, "max_requests": 1}, {"window_seconds": 1, "max_requests": 10**30}),
)
NO_SCOPES = (1, "read", None, {}, [], [""], [1], [None], ["a b"], ["a" * 201], ["a\x00"], ["é"])


def rsa(bits: int) -> dict[str, Any]:
    key = generate_rsa(65537, bits).public_key()
    return {name: str(value) for name, value in jwk.construct(key, "RS256").to_dict().items()}


def p384() -> dict[str, Any]:
    key = generate_private_key(SECP384R1()).public_key()
    return {name: str(value) for name, value in jwk.construct(key, "ES384").to_dict().items()}


NO_KEYS = (
    *(1, "keys", [], {}, {"keys": {}}, {"keys": []}, {"keys": [1]}, {"keys": [{}]}),
    {"keys": [EC_KEY] * 17},
    {"keys": [EC_KEY | {"x5c": ["a" * 16_384]}]},
    {"keys": [EC_KEY | {"kid": 1}]},
    {"keys": [EC_KEY | {"kid": "\x00"}]},
    {"keys": [EC_KEY | {"kid": "\ud800"}]},
    {"keys": [EC_KEY | {"x": EC_KEY["y"]}]},  # not on the curve
    {"keys": [EC_KEY | {"x": "AA"}]},
    {"keys": [EC_KEY | {"x": "é"}]},
    {"keys": [EC_KEY | {"crv": "P-384"}]},
    {"keys": [p384()]},
    {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
    {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": EC_KEY["x"]}]},
    {"keys": [rsa(1024)]},
    {"keys": [rsa(2048) | {"e": "Ag"}]},
    {"keys": [rsa(2048) | {"n": "AA"}]},
    *({"keys": [EC_KEY | {name: "AQAB"}]} for name in ("d", "k")),
    *({"keys": [rsa(2048) | {name: "AQAB"}]} for name in ("d", "p", "q", "dp", "dq", "qi", "oth")),
)
NO_CONFIG = (
    *(1, True, None, "{}", [], [["a", "b"]]),
    *({"a": "\x00"}, {"a\x00": 1}, {"a": "\ud800"}, {"\ud800": 1}, {"a" * 129: 1}),
    *({"a": float("nan")}, {"a": [float("-inf")]}, {"a": 10**30}, {"a": -(2**63) - 1}),
    *({"a": "a" * 16_384}, {f"{n}": "a" * 50 for n in range(400)}),
    *(
        json.loads('{"a":' + left * 9 + "1" + right * 9 + "}")
        for left, right in ("[]", ('{"a":', "}"))
    ),
)
NO_TRAITS = (1, "a", None, {}, [1], [None], [["a"]])
NO_NAMES = (1, "a", None, {}, [""], [1], [None], [["a"]], ["a\x00"], ["\ud800"])
NO_SECONDS = (None, True, "600", 600.5, 0, -1, 59, [], {}, 10**30)
NO_CONSENT = (1, "sometimes", None, [], {})


@dataclass(frozen=True)
class Route:
    """A collection, a body that is right, and what is wrong in each of its fields."""

    collection: str
    body: dict[str, Any]
    wrong: dict[str, tuple[Any, ...]]
    code: str = "invalid_body"
    nullable: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = field(default=())  # null on POST is the default
    patched: bool = True
    fixed: tuple[str, ...] = ("registration_method",)


ROUTES = (
    Route(
        "/zones",
        {"name": "zone"},
        {
            "name": (*NO_TEXT, "a" * 257),
            "slug": (*NO_TEXT, "No", "a b", "a_b", "a" * 129, "a\n"),
            "org_id": (*NO_TEXT, "a" * 257),
            "login_flow": (*NO_TEXT, "a" * 257),
            "dcr_enabled": NO_BOOL,
            "pkce_required": NO_BOOL,
            "gateway_only": NO_BOOL,
        },
        code="invalid_zone",
        defaulted=("slug",),
    ),
    Route(
        "/zones/{zone}/applications",
        {"name": "app"},
        {
            "name": (*NO_TEXT, "a" * 257),
            "registration_method": (1, None, "other", []),
            "credential_type": (1, None, "other", []),
            "client_secret": (*NO_TEXT, "a" * 1025),
            "jwks": NO_KEYS,
            "jwks_uri": (*NO_URL, "http://a.example"),
            "traits": NO_TRAITS,
            "consent": NO_CONSENT,
        },
        nullable=("jwks", "jwks_uri"),
        defaulted=("client_secret",),
    ),
    Route(
        "/zones/{zone}/resources",
        {"identifier": "resource://{new}", "scopes": ["read"]},
        {
            "identifier": (*NO_TEXT, "a" * 513),
            "scopes": (*NO_SCOPES, ["a"] * 257),
            "name": (*NO_TEXT, "a" * 513),
            "upstream_url": NO_URL,
            "prefix_match": NO_BOOL,
            "prefix": NO_BOOL,
            "provider_id": NO_ID,
            "credential_provider_id": NO_ID,
            "gateway_application_id": NO_ID,
            "protocol": (1, None, "ftp", []),
            "rate_limit": NO_RATE,
        },
        nullable=(
            *("upstream_url", "provider_id", "credential_provider_id"),
            *("gateway_application_id", "rate_limit"),
        ),
        defaulted=("name",),
    ),
    Route(
        "/zones/{zone}/providers",
        {"identifier": "provider://{new}", "kind": "oauth2"},
        {
            "identifier": (*NO_TEXT, "a" * 257),
            "kind": (1, None, "other", "OAuth2", [], {}),
            "name": (*NO_TEXT, "a" * 257),
            "owner_type": (*NO_TEXT, "a" * 257),
            "client_id": (*NO_TEXT, "a" * 1025),
            "config_json": (
                *NO_CONFIG,
                {"a": {"b": [{"client_secret": "x"}]}},
                {"a": [{"Token": 1}]},
            ),
            "secret_config": NO_CONFIG,
        },
        nullable=("client_id",),
        defaulted=("name", "secret_config"),
    ),
    Route(
        "/zones/{zone}/trusted-issuers",
        {"issuer": "https://login.example/{new}", "audiences": ["client"]},
        {
            "issuer": (*NO_URL, "http://a.example", "https://a.example?a", "https://a.example#a"),
            "audiences": (*NO_NAMES, [], ["a"] * 2, ["a" * 257]),
            "name": (*NO_TEXT, "a" * 257),
            "algorithms": (*NO_NAMES, [], ["HS256"], ["none"], ["ES384"], ["ES256"] * 2),
            "jwks_uri": (*NO_URL, "http://a.example"),
            "subject_claim": (*NO_TEXT, "a" * 129),
            "required_claims": (
                *(1, True, None, "{}", [], {"": 1}, {"a" * 129: 1}, {"a\x00": 1}, {"\ud800": 1}),
                *({"a": None}, {"a": 1.5}, {"a": ["b"]}, {"a": {}}, {"a": ""}, {"a": 10**30}),
                {f"{number}": 1 for number in range(17)},
            ),
            "mapped_claims": (*NO_NAMES, ["a"] * 2, ["a" * 129], [f"{n}" for n in range(33)]),
            "application_ids": (*NO_NAMES, ["a b"], ["a"] * 2, [f"{n}" for n in range(65)]),
            "max_age_seconds": (*NO_SECONDS, 86_401),
            "session_seconds": (*NO_SECONDS, 3601),
            "single_use": NO_BOOL,
        },
        nullable=("jwks_uri",),
        defaulted=("name",),
        fixed=("issuer", "subject_claim"),
    ),
    Route(
        "/zones/{zone}/grants",
        {"application_id": "{application}", "resource_id": "{resource}", "scopes": ["read"]},
        {
            "application_id": NO_ID,
            "resource_id": NO_ID,
            "scopes": (*NO_SCOPES, ["READ"], ["read"] * 65),
            "user_id": (*NO_TEXT, "a" * 257),
        },
        defaulted=("user_id",),
        patched=False,
    ),
)


def bad_fields(*, patch: bool) -> list[Any]:
    """Every field of the routes with its bad values; null only where it is one."""
    cases = []
    for route in ROUTES:
        null_is_good = route.nullable + (() if patch else route.defaulted)
        for name, values in route.wrong.items():
            wrong = [value for value in values if value is not None or name not in null_is_good]
            if not patch or (route.patched and name not in route.fixed):
                cases.append(pytest.param(route, name, wrong, id=f"{route.collection} {name}"))
    return cases


@pytest.fixture(scope="module")
async def places(api: Plane) -> dict[str, str]:
    """A zone with one thing of each kind."""
    zone = await api.zone()
    app, resource = await api.application(zone), await api.resource(zone)
    provider = (await api.provider(zone))["id"]
    issuer = {"issuer": "https://login.example", "audiences": ["client"]}
    trusted = await api.made(f"/zones/{zone}/trusted-issuers", issuer)
    made = {"application": app["id"], "resource": resource["id"], "provider": provider}
    made["trusted-issuer"] = trusted["id"]
    return {"zone": zone, "new": "new", **made}


def filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: filled(part, places) for name, part in value.items()}
    return value.format(**places) if isinstance(value, str) else value


def check(answer: Any, status: int, code: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code), answer.text
    assert body["requestId"] == answer.headers["x-request-id"]
    assert body["error_description"]
    assert "Traceback" not in answer.text
    assert "caracal-position" not in answer.headers


async def send(api: Plane, method: str, path: str, body: Any) -> Any:
    # Python's own JSON: it writes lone surrogates as escapes, as an attacker would.
    headers = {"Content-Type": "application/json"}
    return await api.call(method, path, content=json.dumps(body), headers=headers)


@pytest.mark.parametrize(("route", "name", "wrong"), bad_fields(patch=False))
async def test_created_with_a_bad_field(
    api: Plane, places: dict[str, str], route: Route, name: str, wrong: list[Any]
) -> None:
    path, body = filled(route.collection, places), filled(route.body, places)
    for value in wrong:
        answer = await send(api, "POST", path, body | {name: value})
        check(answer, 400, route.code)
        assert answer.json()["issues"], value
        assert answer.json()["issues"][0]["message"]


@pytest.mark.parametrize(("route", "name", "wrong"), bad_fields(patch=True))
async def test_patched_with_a_bad_field(
    api: Plane, places: dict[str, str], route: Route, name: str, wrong: list[Any]
) -> None:
    kind = route.collection.rpartition("/")[2].removesuffix("s")
    path = f"{filled(route.collection, places)}/{places[kind]}"
    for value in wrong:
        check(await send(api, "PATCH", path, {name: value}), 400, route.code)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.collection)
async def test_bodies_that_are_none(api: Plane, places: dict[str, str], route: Route) -> None:
    path = filled(route.collection, places)
    headers = {"Content-Type": "application/json"}
    for content in (b"", b"{", b"[]", b"1", b'"a"', b"null", b"\xff", b'{"name": "a",}'):
        answer = await api.call("POST", path, content=content, headers=headers)
        check(answer, 400, route.code)
    deep = b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    check(await api.call("POST", path, content=deep, headers=headers), 400, route.code)
    required = {"/zones": "name"}.get(route.collection, next(iter(route.body)))
    check(await api.call("POST", path, {"other": 1}), 400, route.code)
    issue = (await api.call("POST", path, {"other": 1})).json()["issues"][0]
    assert issue["path"] == [required]
    large = b'{"name": "' + b"a" * 2**20 + b'"}'
    check(await api.call("POST", path, content=large, headers=headers), 413, "payload_too_large")


@pytest.mark.parametrize("route", [r for r in ROUTES if r.patched], ids=lambda r: r.collection)
async def test_nothing_to_change(api: Plane, places: dict[str, str], route: Route) -> None:
    kind = route.collection.rpartition("/")[2].removesuffix("s")
    path = f"{filled(route.collection, places)}/{places[kind]}"
    for body in ({}, {"unknown": 1}, {"id": "other"}):
        check(await api.call("PATCH", path, body), 400, "no_fields")


async def test_keys_in_both_forms(api: Plane, places: dict[str, str]) -> None:
    path = filled("/zones/{zone}/applications", places)
    both = {"jwks": {"keys": [EC_KEY]}, "jwks_uri": "https://a.example"}
    answer = await api.call("POST", path, {"name": "a", **both})
    check(answer, 400, "invalid_body")
    told = {"path": [], "message": "jwks and jwks_uri exclude each other"}
    assert answer.json()["issues"] == [told]
    one = f"{path}/{places['application']}"
    check(await api.call("PATCH", one, both), 400, "invalid_body")


async def test_good_keys(api: Plane, places: dict[str, str]) -> None:
    for key in (EC_KEY, rsa(2048), rsa(2048) | {"use": "sig", "kid": "é", "alg": "RS256"}):
        jwks = {"keys": [key]}
        assert (await api.application(places["zone"], jwks=jwks))["jwks"] == jwks


KINDS = ("application", "resource", "provider", "grant")


@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_and_foreign_ids(api: Plane, kind: str) -> None:
    zone, other = await api.zone(), await api.zone()
    app, resource = await api.application(other), await api.resource(other)
    scopes = {"application_id": app["id"], "resource_id": resource["id"], "scopes": ["read"]}
    grant = await api.made(f"/zones/{other}/grants", scopes)
    provider = await api.provider(other)
    things = {"application": app, "resource": resource, "provider": provider, "grant": grant}
    foreign = things[kind]
    methods = ("GET", "DELETE") if kind == "grant" else ("GET", "PATCH", "DELETE")
    ids = (foreign["id"], "unknown", zone, foreign["id"].upper(), "a" * 128)
    for method in methods:
        body = {"name": "stolen"} if method == "PATCH" else None
        for thing_id in ids:
            path = f"/zones/{zone}/{kind}s/{thing_id}"
            check(await api.call(method, path, body), 404, f"{kind}_not_found")
    seen = await api.call("GET", f"/zones/{other}/{kind}s/{foreign['id']}")
    assert seen.json() == foreign


@pytest.mark.parametrize("kind", KINDS)
async def test_malformed_ids_in_paths(api: Plane, places: dict[str, str], kind: str) -> None:
    for bad in ("a%20b", "a%00", "%C3%A9", "a" * 129, "a%0A", "a;b", "'"):
        path = f"/zones/{places['zone']}/{kind}s/{bad}"
        check(await api.call("GET", path), 400, "invalid_params")
        check(await api.call("DELETE", path), 400, "invalid_params")
        check(await api.call("GET", f"/zones/{bad}/{kind}s"), 400, "invalid_params")


@pytest.mark.parametrize("plural", [*(f"{kind}s" for kind in KINDS), "sessions"])
async def test_unknown_zones_come_before_the_body(api: Plane, plural: str) -> None:
    for zone in ("unknown", "a" * 128):
        path = f"/zones/{zone}/{plural}"
        check(await api.call("GET", f"{path}?limit=0"), 404, "zone_not_found")
        check(await api.call("POST", path, {"bad": 1}), 404, "zone_not_found")
        check(await api.call("GET", f"{path}/any"), 404, "zone_not_found")


PATHS = (
    ("GET", "/zones/{zone}"),
    ("PATCH", "/zones/{zone}"),
    ("DELETE", "/zones/{zone}"),
    *((method, f"/zones/{{zone}}/{kind}s") for kind in KINDS for method in ("GET", "POST")),
    *((m, f"/zones/{{zone}}/{kind}s/any") for kind in KINDS for m in ("GET", "PATCH", "DELETE")),
    ("GET", "/zones/{zone}/sessions"),
    ("GET", "/zones/{zone}/dcr-status"),
    ("POST", "/zones/{zone}/applications/dcr"),
    ("POST", "/zones/{zone}/signing-key/rotate"),
    ("GET", "/zones/{zone}/step-up-challenges"),
    ("GET", "/zones/{zone}/step-up-challenges/any"),
    ("POST", "/zones/{zone}/step-up-challenges/any/satisfy"),
)


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_wrong_tokens(api: Plane, places: dict[str, str], method: str, path: str) -> None:
    where = filled(path, places)
    tokens = ("", "Bearer", "Bearer wrong", "bearer operator-token", "Basic b3A6b3A=")
    for token in (*tokens, "Bearer " + "a" * 4097, "Bearer \xff"):
        headers = {"Authorization": token.encode("latin-1")}
        answer = await api.call(method, where, {"bad": 1}, headers=headers)
        check(answer, 401, "invalid_admin_token")


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_zone_tokens_stay_in_their_zone(
    api: Plane, places: dict[str, str], zone_tokens: dict[str, Any], method: str, path: str
) -> None:
    where = filled(path, places)
    for token in (zone_tokens["of another zone"], zone_tokens["of no zone that is"]):
        answer = await api.call(method, where, {"bad": 1}, headers=token)
        check(answer, 403, "admin_token_zone_mismatch")
    if method != "GET":
        answer = await api.call(method, where, {"bad": 1}, headers=zone_tokens["reading"])
        check(answer, 403, "admin_token_capability")


@pytest.fixture(scope="module")
async def zone_tokens(api: Plane, places: dict[str, str]) -> dict[str, dict[str, str]]:
    gone = await api.zone()
    of_gone = await api.token("zone", gone)
    await api.call("DELETE", f"/zones/{gone}")
    return {
        "own": await api.token("zone", places["zone"]),
        "reading": await api.token("zone", places["zone"], "read"),
        "of another zone": await api.token("zone", await api.zone()),
        "of no zone that is": of_gone,
    }


async def test_a_zone_token_in_its_zone(
    api: Plane, places: dict[str, str], zone_tokens: dict[str, Any]
) -> None:
    own, reading = zone_tokens["own"], zone_tokens["reading"]
    path = f"/zones/{places['zone']}"
    for token in (own, reading):
        for plural in ("", "/applications", "/resources", "/grants", "/sessions"):
            answer = await api.call("GET", path + plural, headers=token)
            assert answer.status_code == 200
    answer = await api.call("POST", f"{path}/applications", {"name": "a"}, headers=own)
    assert answer.status_code == 201
    for method in ("GET", "POST"):
        answer = await api.call(method, "/zones", {"name": "a"}, headers=own)
        check(answer, 403, "admin_token_zone_mismatch")
    for escaped in ("/zones/" + "".join(f"%{ord(c):02X}" for c in places["zone"]), f"{path}/"):
        answer = await api.call("GET", f"{escaped}", headers=zone_tokens["of another zone"])
        assert answer.status_code in (403, 404)


async def test_other_methods_and_routes(api: Plane, places: dict[str, str]) -> None:
    zone = places["zone"]
    for path, methods in (
        (f"/zones/{zone}/applications", "GET, HEAD, POST"),
        (f"/zones/{zone}/applications/a", "DELETE, GET, HEAD, PATCH"),
        (f"/zones/{zone}/policy-sets/a/activate", "POST"),
        (f"/zones/{zone}/sessions", "GET, HEAD"),
        (f"/zones/{zone}/signing-key/rotate", "POST"),
        (f"/zones/{zone}/applications/dcr", "DELETE, GET, HEAD, PATCH, POST"),
        (f"/zones/{zone}/step-up-challenges", "GET, HEAD"),
        ("/zones", "GET, HEAD, POST"),
    ):
        answer = await api.call("PUT", path)
        check(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == methods
    for path in ("/nothing", f"/zones/{zone}/nothing", f"/zones/{zone}/applications/"):
        check(await api.call("GET", path), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"name=x", "application/x-www-form-urlencoded", NO_OBJECT),
        (b'{"name": "x"}', "text/plain", NO_OBJECT),
        (b"", "application/json", NO_OBJECT),
        (b"[]", "application/json", NO_OBJECT),
        (b'{"name": x}', "application/json", "not JSON, seen at character 9"),
    ],
)
async def test_a_body_that_is_no_object_is_told_what_to_be(
    api: Plane, body: bytes, kind: str, told: str
) -> None:
    headers = {"content-type": kind}
    answer = await api.client.post("/v1/zones", content=body, headers=headers)
    check(answer, 400, "invalid_zone")
    assert answer.json()["error_description"] == f"body: {told}"
    assert answer.json()["issues"] == [{"path": [], "message": told}]


async def test_a_validators_own_words(api: Plane, places: dict[str, str]) -> None:
    body = {"identifier": "a", "scopes": ["b"], "upstream_url": "localhost:9000"}
    answer = await api.call("POST", f"/zones/{places['zone']}/resources", body)
    check(answer, 400, "invalid_body")
    assert answer.json()["error_description"].startswith("upstream_url: must have a host")


async def test_head_is_get_without_a_body(api: Plane, places: dict[str, str]) -> None:
    path = f"/zones/{places['zone']}"
    asked, got = await api.call("HEAD", path), await api.call("GET", path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]
    absent = await api.call("HEAD", "/zones/unknown")
    assert (absent.status_code, absent.content) == (404, b"")
