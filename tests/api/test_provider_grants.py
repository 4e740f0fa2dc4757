"""A user consents at a provider: from the request over the browser's return to the revocation."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from caracal import clock
from caracal.client import AdminClient
from caracal.events.base import Fall
from caracal.events.grant import Grant
from caracal.events.provider_authorization import LIFE
from caracal.services import token_endpoint
from caracal.services.api import provider_callback
from caracal.services.api.codes import TEXT_OF
from tests.api.consenting import HERE, USER, Case, Desk, desk
from tests.api.documented import check_documented
from tests.api.running import OPERATOR, Plane
from tests.api.test_providers import VAULT
from tests.making import in_zone
from tests.signing import ec_key, pem_of
from tests.sts.oauth_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    HOST,
    MARK,
    OAuthServer,
    answering,
    endless,
)

INVALID = (400, "authorization_state_invalid")
MISMATCH = (400, "authorization_issuer_mismatch")
FAILED = (409, "authorization_failed")


@pytest.fixture(scope="module")
async def module_desk(api: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk(api, tmp_path_factory.mktemp("oauth")) as made:
        yield made


@pytest.fixture
def at(module_desk: Desk) -> Desk:
    module_desk.server.forget()
    return module_desk


@pytest.fixture
def server(at: Desk) -> OAuthServer:
    return at.server


def told(answer: httpx.Response) -> tuple[int, str]:
    check_documented(answer)
    return answer.status_code, answer.json().get("error", "")


def changed(location: str, **query: str | None) -> str:
    """The same URL with other parameters; one given as None is left out."""
    parts = urlsplit(location)
    kept = {**dict(parse_qsl(parts.query)), **query}
    given = {name: value for name, value in kept.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(given)))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we log; the browser and the provider log what they like."""
    ours = (record for record in caplog.records if record.name.startswith(("caracal", "uvicorn")))
    return [record.getMessage() for record in ours]


async def grant_of(at: Desk, case: Case) -> Grant:
    found = await at.api.log.find(Grant, case.id)
    assert found is not None
    return found


async def secret(at: Desk, ref: str | None) -> str:
    assert ref is not None
    async with at.api.database() as db:
        return (await VAULT.read(db, ref)).decode()


async def vault_size(at: Desk) -> int:
    async with at.api.database() as db:
        cursor = await db.execute("SELECT count(*) FROM vault")
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])


# --- the way through ---------------------------------------------------------------------------


async def test_a_grant_before_anybody_is_asked(at: Desk) -> None:
    case = await at.granted(alone=True)
    assert case.grant == {
        "id": case.id,
        "zone_id": case.zone,
        "provider_id": case.provider["id"],
        "application_id": case.grant["application_id"],
        "user_id": USER,
        "resource_id": case.resource["id"],
        "scopes": ["read"],
        "status": "active",
        "credential_status": "none",
        "authorization_status": None,
        "authorization_error": None,
        "authorization_expires_at": None,
        "created_at": case.grant["created_at"],
    }
    assert await at.shown(case) == case.grant
    listed = (await at.api.call("GET", f"/zones/{case.zone}/grants")).json()
    assert [one["id"] for one in listed] == [case.id]


async def test_what_the_provider_is_asked(at: Desk, server: OAuthServer) -> None:
    case = await at.asked()
    url = urlsplit(case.url)
    query = {name: value for name, (value,) in parse_qs(url.query).items()}
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{server.issuer}/authorize"
    state, challenge = query.pop("state"), query.pop("code_challenge")
    path = f"/v1{case.path}/oauth/callback?provider={case.provider['id']}"
    assert query == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": f"{HERE}{path}",
        "scope": "mail.read offline",
        "code_challenge_method": "S256",
    }
    assert state.startswith(f"{case.id}.")
    assert (len(state.partition(".")[2]), len(challenge)) == (43, 43)
    other = parse_qs(urlsplit((await at.asked(case)).url).query)
    assert other["state"] != [state]
    assert other["code_challenge"] != [challenge]
    shown = await at.shown(case)
    assert shown["authorization_status"] == "pending"
    left = clock.parse(shown["authorization_expires_at"]) - clock.now()
    assert timedelta(minutes=9) < left <= LIFE


async def test_the_own_query_of_an_endpoint_stays(at: Desk, server: OAuthServer) -> None:
    endpoint = f"{server.issuer}/authorize?access_type=offline&prompt="
    case = await at.asked(await at.granted(authorization_endpoint=endpoint, audience="mail"))
    query = parse_qsl(urlsplit(case.url).query, keep_blank_values=True)
    assert query[:2] == [("access_type", "offline"), ("prompt", "")]
    assert dict(query)["audience"] == "mail"
    await at.back(await at.consent(case))
    assert (await at.shown(case))["credential_status"] == "stored"


async def test_consent_gives_tokens(at: Desk, server: OAuthServer) -> None:
    case = await at.connected()
    [call] = server.calls
    assert call["grant_type"] == "authorization_code"
    assert call["redirect_uri"].startswith(HERE)
    shown = await at.shown(case)
    assert (shown["credential_status"], shown["authorization_status"]) == ("stored", "connected")
    grant = await grant_of(at, case)
    assert await secret(at, grant.access_token_ref) == f"{MARK}-access-1"
    assert await secret(at, grant.refresh_token_ref) == f"{MARK}-refresh-1"
    assert grant.token_provider_id == case.provider["id"]
    assert grant.token_expires_at is not None
    assert clock.parse(grant.token_expires_at) - clock.now() <= timedelta(seconds=600)


async def test_a_life_is_capped(at: Desk, server: OAuthServer) -> None:
    for life in (10**9, None):
        server.members = {"expires_in": life}
        grant = await grant_of(at, await at.connected())
        assert grant.token_expires_at is not None
        left = clock.parse(grant.token_expires_at) - clock.now()
        assert timedelta(minutes=59) < left <= timedelta(hours=1)


async def test_asking_again_replaces_the_tokens(at: Desk) -> None:
    case = await at.connected()
    before, size = await grant_of(at, case), await vault_size(at)
    await at.connected(case)
    after = await grant_of(at, case)
    assert (before.token_version, after.token_version) == (1, 2)
    assert await vault_size(at) == size


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
async def test_how_we_are_known_at_the_provider(at: Desk, server: OAuthServer, method: str) -> None:
    key = ec_key()
    server.key = key.public_key()
    case = await at.granted(token_endpoint_auth_method=method)
    path = f"/zones/{case.zone}/providers/{case.provider['id']}"
    await at.api.call("PATCH", path, {"secret_config": {"private_key": pem_of(key)}})
    await at.connected(case)
    [call] = server.calls
    assert ("client_assertion" in call) == (method == "private_key_jwt")
    assert ("client_secret" in call) == (method == "client_secret_post")
    assert bool(call["client"]) == (method == "client_secret_basic")


async def test_the_trail_says_who_did_it(at: Desk) -> None:
    case = await at.connected(await at.granted(alone=True))
    rows = (await at.api.call("GET", f"/zones/{case.zone}/admin-audit?limit=200")).json()
    done = {row["action"].partition("/provider-grants")[2]: row for row in rows}
    for path in ("", "/oauth/authorize", "/oauth/callback"):
        assert done[path]["actor_name"] == "bootstrap", path
        assert done[path]["status_code"] in (200, 201)


# --- answers that give nothing -----------------------------------------------------------------


async def test_a_state_is_good_for_one_answer(at: Desk, server: OAuthServer) -> None:
    case = await at.asked()
    location = await at.consent(case)
    answers = await asyncio.gather(*(at.back(location) for _ in range(32)))
    assert sorted(told(one) for one in answers) == [(200, ""), *[INVALID] * 31]
    assert len(server.calls) == 1
    assert told(await at.back(location)) == INVALID


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "x"}, INVALID),
        ({"state": "."}, INVALID),
        ({"state": "019.aaaa"}, INVALID),
        ({"state": "a b/c.\u00e9"}, (400, "invalid_query")),
        ({"state": "\x00.x"}, (400, "invalid_query")),
        ({"provider": "another"}, INVALID),
        ({"state": ""}, (400, "invalid_query")),
        ({"state": None}, (400, "invalid_query")),
        ({"state": "a" * 257}, (400, "invalid_query")),
        ({"provider": None}, (400, "invalid_query")),
        ({"provider": "a/b"}, (400, "invalid_query")),
    ],
    ids=[
        *("word", "dot", "no grant", "no word", "NUL", "another", "empty", "none", "long"),
        *("no provider", "no id"),
    ],
)
async def test_what_is_no_answer_uses_nothing_up(
    at: Desk, server: OAuthServer, query: dict[str, Any], expected: tuple[int, str]
) -> None:
    case = await at.asked()
    location = await at.consent(case)
    answer = await at.back(changed(location, **query))
    assert told(answer) == expected
    assert MARK not in answer.text
    assert server.calls == []
    assert told(await at.back(location)) == (200, "")


async def test_a_parameter_that_is_there_twice(at: Desk) -> None:
    location = await at.consent(await at.asked())
    for more in ("&code=x", "&state=x", "&iss=x", "&other=1&other=2"):
        assert told(await at.back(location + more)) == (400, "invalid_query")
    assert told(await at.back(location + "&other=1")) == (200, "")  # RFC 6749, section 3.1


async def test_a_state_is_of_its_own_secret_alone(at: Desk) -> None:
    one, other = await at.asked(), await at.asked(await at.granted(alone=True))
    location = await at.consent(one)
    state = dict(parse_qsl(urlsplit(location).query))["state"]
    wrong = f"{state[:-1]}{'A' if state[-1] != 'A' else 'B'}"
    assert told(await at.back(changed(location, state=wrong))) == INVALID
    moved = f"{other.id}.{state.rpartition('.')[2]}"
    assert told(await at.back(changed(location, state=moved))) == INVALID
    away = location.replace(one.zone, other.zone)
    assert told(await at.back(away)) == INVALID
    assert told(await at.back(location.replace(one.zone, "nowhere"))) == (404, "zone_not_found")
    assert told(await at.back(location)) == (200, "")


@pytest.mark.parametrize(
    ("config", "iss", "expected"),
    [
        ({}, "own", (200, "")),
        ({}, None, (200, "")),
        ({}, "https://evil.example", MISMATCH),
        ({}, "", MISMATCH),
        ({"issuer": None}, "own", MISMATCH),
        ({"issuer": None}, None, (200, "")),
        ({"authorization_response_iss_parameter_supported": True}, None, MISMATCH),
        ({"authorization_response_iss_parameter_supported": True}, "own", (200, "")),
    ],
    ids=["own", "none", "evil", "empty", "not known", "neither", "left out", "promised"],
)
async def test_the_issuer_of_an_answer(
    at: Desk,
    server: OAuthServer,
    config: dict[str, Any],
    iss: str | None,
    expected: tuple[int, str],
) -> None:
    """RFC 9207, section 2.4; an answer of another issuer is no answer, and uses the state up."""
    case = await at.asked(await at.granted(**config))
    location = changed(await at.consent(case), iss=server.issuer if iss == "own" else iss)
    assert told(await at.back(location)) == expected
    assert len(server.calls) == (expected[0] == 200)
    if expected[0] != 200:
        assert told(await at.back(await at.consent(case))) == INVALID
        assert (await at.shown(case))["authorization_error"] == expected[1]


async def test_mix_up(at: Desk, server: OAuthServer) -> None:
    """A provider that hands its user on to an honest one gets nothing of what that one answers."""
    case = await at.granted(alone=True)
    evil = await at.api.provider(
        case.zone,
        kind="oauth2",
        client_id=CLIENT_ID,
        config_json=at.config(issuer="https://evil.example", token_endpoint=f"{server.url}/evil"),
        secret_config={"client_secret": "s"},
    )
    resource = f"/zones/{case.zone}/resources/{case.resource['id']}"
    await at.api.call("PATCH", resource, {"provider_id": evil["id"]})
    case = await at.asked(case)
    # It sends on its own state, with the redirect URI by which the honest one knows us.
    honest = changed(case.url, redirect_uri=_uri(case, case.provider["id"]))
    location = await at.consent(replace(case, url=honest))
    assert told(await at.back(location)) == INVALID
    # With its own redirect URI, if the honest one lets that pass, the issuer is another.
    assert told(await at.back(await at.consent(case))) == MISMATCH
    assert server.calls == []


def _uri(case: Case, provider_id: str) -> str:
    return f"{HERE}/v1{case.path}/oauth/callback?provider={provider_id}"


@pytest.mark.parametrize(
    ("consent", "expected"),
    [
        ({"error": "access_denied", "code": None}, (403, "authorization_denied")),
        ({"error": "access_denied"}, (403, "authorization_denied")),
        ({"error": "server_error", "code": None}, FAILED),
        ({"error": f"<script>{MARK}</script>", "error_description": MARK, "code": None}, FAILED),
        ({"error": "", "code": None}, FAILED),
        ({"code": None}, FAILED),
        ({"code": ""}, FAILED),
        ({"code": "of somebody else"}, FAILED),
        ({"code": "a" * 4097}, FAILED),
    ],
    ids=[
        *("denied", "denied with a code", "error", "script", "no error", "no code", "empty"),
        *("wrong", "long"),
    ],
)
async def test_consent_that_was_not_given(
    at: Desk, server: OAuthServer, consent: dict[str, Any], expected: tuple[int, str]
) -> None:
    server.consent = consent
    case = await at.asked()
    location = await at.consent(case)
    answer = await at.back(location, Accept="text/html,*/*;q=0.8")
    assert answer.status_code == expected[0]
    assert TEXT_OF[expected[1]] in answer.text
    assert MARK not in answer.text
    assert "<script" not in answer.text
    shown = await at.shown(case)
    assert (shown["authorization_status"], shown["authorization_error"]) == ("failed", expected[1])
    assert shown["credential_status"] == "none"
    assert told(await at.back(location)) == INVALID
    server.consent = {}
    await at.connected(case)


HOSTILE: dict[str, Any] = {
    "500": answering("{}", 500),
    "cut off": answering("", 400),
    "endless": endless,
    "huge": answering(b"[" * 70_000),
    "redirect": answering("", 307, Location="/elsewhere"),
    "no bearer": answering(f'{{"access_token": "{MARK}", "token_type": "DPoP"}}'),
    "no token": answering(f'{{"refresh_token": "{MARK}"}}'),
    "garbage": answering(MARK),
    "not for a header": answering(f'{{"access_token": "{MARK}\\r\\nX: y"}}'),
    "page": answering(f'{{"access_token": "{MARK}"}}', **{"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_provider_gives_nothing(
    at: Desk, server: OAuthServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    case = await at.asked()
    location = await at.consent(case)
    server.behaviour = HOSTILE[name]
    answer = await at.back(location)
    assert told(answer) == FAILED
    assert len(server.calls) == 1  # a code is never sent twice
    assert MARK not in answer.text + "".join(lines(caplog))
    shown = await at.shown(case)
    assert (shown["authorization_status"], shown["credential_status"]) == ("failed", "none")


async def test_a_slow_provider_is_given_up(
    at: Desk, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_endpoint, "CALL_SECONDS", 0.2)
    location = await at.consent(await at.asked())
    server.gate = asyncio.Event()
    assert told(await at.back(location)) == FAILED


async def test_no_code_goes_to_a_private_address(
    api: Plane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("private")
    async with desk(api, folder, ALLOW_PRIVATE_UPSTREAMS="false") as strict:
        location = await strict.consent(await strict.asked())
        assert told(await strict.back(location)) == FAILED
        assert strict.server.calls == []


# --- what ends meanwhile -----------------------------------------------------------------------


async def test_the_time_of_an_authorization_runs_out(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = await at.asked()
    location = await at.consent(case)
    late = clock.now() + LIFE
    monkeypatch.setattr(provider_callback.clock, "now", lambda: late)
    assert told(await at.back(location)) == INVALID
    assert (await at.shown(case))["authorization_status"] == "expired"
    monkeypatch.undo()
    assert told(await at.back(location)) == (200, "")


async def test_a_new_request_ends_the_one_before(at: Desk) -> None:
    case = await at.asked()
    first = await at.consent(case)
    second = await at.asked(case)
    assert told(await at.back(first)) == INVALID
    assert told(await at.back(await at.consent(second))) == (200, "")


@pytest.mark.parametrize("what", ["grant", "provider", "other provider", "token"])
async def test_what_ends_before_the_answer(at: Desk, server: OAuthServer, what: str) -> None:
    case, token = await at.granted(alone=True), await at.api.token("global")
    made = await at.api.call(
        "POST", f"{case.path}/oauth/authorize", {"grant_id": case.id}, headers=token
    )
    location = await at.consent(replace(case, url=made.json()["authorization_url"]))
    if what == "grant":
        await at.api.call("DELETE", f"/zones/{case.zone}/grants/{case.id}")
    elif what == "provider":
        await at.api.call("DELETE", f"/zones/{case.zone}/providers/{case.provider['id']}")
    elif what == "other provider":
        other = await at.api.provider(case.zone)
        location = changed(location, provider=other["id"])
    else:
        mine = (await at.api.call("GET", "/admin-tokens?limit=1")).json()
        await at.api.call("DELETE", f"/admin-tokens/{mine[0]['id']}")
    assert told(await at.back(location)) == INVALID
    assert server.calls == []


async def test_tokens_for_a_grant_revoked_meanwhile_are_ended(
    at: Desk, server: OAuthServer
) -> None:
    case = await at.asked()
    location = await at.consent(case)
    server.gate = asyncio.Event()
    coming = asyncio.create_task(at.back(location))
    while not server.calls:
        await asyncio.sleep(0.01)
    size = await vault_size(at)
    grant = await grant_of(at, case)
    with in_zone(case.zone):
        grant.revoke(Fall())
        await at.api.save(grant)
    server.gate.set()
    assert told(await coming) == INVALID
    kinds = [call["token_type_hint"] for call in server.revoked]
    assert kinds == ["refresh_token", "access_token"]
    assert await vault_size(at) == size
    assert (await at.shown(case))["credential_status"] == "none"


# --- the browser -------------------------------------------------------------------------------


async def test_the_page_runs_and_repeats_nothing(at: Desk) -> None:
    answer = await at.back(await at.consent(await at.asked()), Accept="text/html")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "You can close this window" in answer.text
    assert "set-cookie" not in answer.headers
    assert at.usual is not None
    hostile = f"{HERE}/v1{at.usual.path}/oauth/callback"
    hostile += "?state=<script>alert(1)</script>&provider=p&error=<script>&error_description=<b>"
    for accept in ("text/html", "application/json"):
        refused = await at.back(hostile, Accept=accept)
        assert refused.status_code == 400
        assert "alert" not in refused.text


RETURN = "https://app.example/connected"


@pytest.mark.parametrize("consent", [{}, {"error": "access_denied", "code": None}], ids=["y", "n"])
async def test_the_browser_returns_where_it_may(
    at: Desk, server: OAuthServer, consent: dict[str, Any]
) -> None:
    server.consent = consent
    case = await at.granted(allowed_return_urls=[RETURN])
    case = await at.asked(case, return_to=RETURN)
    answer = await at.back(await at.consent(case), Accept="text/html")
    assert (answer.status_code, answer.headers["Location"]) == (303, RETURN)
    assert (await at.shown(case))["credential_status"] == ("none" if consent else "stored")


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example/connected", f"{RETURN}/", f"{RETURN}?x=1", f"{RETURN}#x"),
        *("https://app.example.evil/connected", "https://APP.example/connected"),
    ],
)
async def test_the_browser_returns_nowhere_else(at: Desk, url: str) -> None:
    case = await at.granted(allowed_return_urls=[RETURN])
    body = {"grant_id": case.id, "return_to": url}
    answer = await at.api.call("POST", f"{case.path}/oauth/authorize", body)
    assert told(answer) == (400, "return_to_not_allowed")


async def test_a_return_that_is_not_allowed_any_more(at: Desk) -> None:
    case = await at.granted(allowed_return_urls=[RETURN])
    case = await at.asked(case, return_to=RETURN)
    path = f"/zones/{case.zone}/providers/{case.provider['id']}"
    await at.api.call("PATCH", path, {"config_json": {"allowed_return_urls": None}})
    assert told(await at.back(await at.consent(case))) == (200, "")


async def test_nobody_tries_states_at_will(
    api: Plane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("limited")
    async with desk(api, folder, ADMIN_AUTH_FAIL_LIMIT_PER_MIN="3") as limited:
        zone = await limited.api.zone()
        url = f"{HERE}/v1/zones/{zone}/provider-grants/oauth/callback?state=x.y&provider=p"
        answers = [told(await limited.back(url)) for _ in range(4)]
        assert answers == [INVALID] * 3 + [(429, "rate_limited")]
        assert (await limited.api.call("GET", "/zones")).status_code == 200  # no administrator


async def test_only_the_callback_is_open(at: Desk) -> None:
    case = await at.granted()
    base = f"{at.api.url}/v1{case.path}"
    for method, path in (
        ("POST", ""),
        ("GET", f"/{case.id}"),
        ("POST", "/oauth/authorize"),
        ("POST", "/oauth/callback"),
        ("POST", "/revoke"),
        ("GET", "/oauth/callback/"),
        ("GET", "/oauth%2Fcallback/x"),
    ):
        answer = await at.browser.request(method, f"{base}{path}", json={})
        assert answer.status_code == 401, path


async def test_nothing_secret_is_kept_or_logged(
    at: Desk, server: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    case = await at.asked()
    location = await at.consent(case)
    await at.back(location)
    state = dict(parse_qsl(urlsplit(location).query))["state"]
    server.behaviour = answering(f'{{"error": "{MARK}"}}', 401)
    await at.back(await at.consent(await at.asked(case)))
    texts = lines(caplog)
    async with at.api.database() as db:
        for statement in (
            "SELECT name || convert_from(state, 'UTF8') FROM log",
            "SELECT g::text FROM grants g",
            "SELECT a::text FROM admin_audit_events a",
        ):
            texts += [str(row) for row in await (await db.execute(statement)).fetchall()]
    assert any("grant.authorization_answered" in text for text in texts)
    verifier = server.calls[0]["code_verifier"]
    for secret_text in (MARK, state, state.rpartition(".")[2], verifier, CLIENT_SECRET):
        assert not [text for text in texts if secret_text in text]


# --- what refuses to ask -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"authorization_endpoint": None}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://a.example/#x"}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://a.example/?state=1"}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://a.example/?redirect_uri=x"}, "authorization_endpoint"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"allowed_token_hosts": ["other.example"]}, "allowed_token_hosts"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "private_key"),
    ],
    ids=["none", "fragment", "state", "redirect_uri", "no token endpoint", "host", "no key"],
)
async def test_a_provider_that_lacks_something(
    at: Desk, config: dict[str, Any], reason: str
) -> None:
    case = await at.granted(**config)
    answer = await at.api.call("POST", f"{case.path}/oauth/authorize", {"grant_id": case.id})
    assert told(answer) == (409, "provider_not_configured")
    assert reason in answer.json()["detail"]
    assert CLIENT_SECRET not in answer.text


async def test_without_an_address_of_ours_nobody_is_asked(api: Plane, at: Desk) -> None:
    case = await at.granted()
    answer = await api.call("POST", f"{case.path}/oauth/authorize", {"grant_id": case.id})
    assert told(answer) == (409, "callback_url_not_configured")


async def test_resources_whose_credential_is_nobodys_consent(at: Desk) -> None:
    zone = await at.api.zone()
    app = (await at.api.application(zone))["id"]
    service = {"kind": "oauth2", "config_json": {"grant_type": "client_credentials"}}
    kinds = ({"kind": "apikey"}, {"kind": "workload"}, {"kind": "none"}, service)
    named = [
        (await at.api.provider(zone, identifier=f"provider://p-{n}", **kind))["id"]
        for n, kind in enumerate(kinds)
    ]
    for provider_id in (None, *named):
        resource = await at.api.resource(zone, provider_id=provider_id)
        body = {"application_id": app, "resource_id": resource["id"], "scopes": ["read"]}
        answer = await at.api.call(
            "POST", f"/zones/{zone}/provider-grants", body | {"user_id": "a"}
        )
        assert told(answer) == (409, "provider_takes_no_consent")
        grant = await at.api.made(f"/zones/{zone}/grants", body | {"user_id": "a"})
        path = f"/zones/{zone}/provider-grants/oauth/authorize"
        answer = await at.api.call("POST", path, {"grant_id": grant["id"]})
        assert told(answer) == (409, "provider_takes_no_consent")


async def test_a_grant_of_no_user_waits_for_nobody(at: Desk) -> None:
    case = await at.granted()
    body = {name: case.grant[name] for name in ("application_id", "resource_id", "scopes")}
    own = await at.api.made(f"/zones/{case.zone}/grants", body)
    answer = await at.api.call("POST", f"{case.path}/oauth/authorize", {"grant_id": own["id"]})
    assert told(answer) == (409, "provider_takes_no_consent")


async def test_what_is_not_there(at: Desk) -> None:
    case = await at.granted(alone=True)
    body = {
        "application_id": case.grant["application_id"],
        "resource_id": case.resource["id"],
        "scopes": ["read"],
        "user_id": USER,
    }
    for change, expected in (
        ({"application_id": "x"}, (404, "application_not_found")),
        ({"resource_id": "x"}, (404, "resource_not_found")),
        ({"scopes": ["admin"]}, (403, "grant_scopes_exceed_resource")),
        ({"user_id": None}, (400, "invalid_body")),
    ):
        assert told(await at.api.call("POST", case.path, body | change)) == expected
    for path in ("/oauth/authorize", "/revoke"):
        answer = await at.api.call("POST", f"{case.path}{path}", {"grant_id": "x"})
        assert told(answer) == (404, "grant_not_found")
    assert told(await at.api.call("GET", f"{case.path}/x")) == (404, "grant_not_found")
    await at.api.call("DELETE", f"/zones/{case.zone}/providers/{case.provider['id']}")
    for path, asked in (("", body), ("/oauth/authorize", {"grant_id": case.id})):
        answer = await at.api.call("POST", f"{case.path}{path}", asked)
        assert told(answer) == (404, "provider_not_found")
    await at.api.call("DELETE", f"/zones/{case.zone}/grants/{case.id}")
    await at.api.call("DELETE", f"/zones/{case.zone}/resources/{case.resource['id']}")
    answer = await at.api.call("POST", f"{case.path}/oauth/authorize", {"grant_id": case.id})
    assert told(answer) == (404, "resource_not_found")


# --- the end -----------------------------------------------------------------------------------


async def revoke(at: Desk, case: Case) -> dict[str, Any]:
    answer = await at.api.call("POST", f"{case.path}/revoke", {"grant_id": case.id})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_revoking_ends_it_here_and_at_the_provider(at: Desk, server: OAuthServer) -> None:
    case, before = await at.connected(), await vault_size(at)
    assert await revoke(at, case) == {"id": case.id, "status": "revoked", "provider_revoked": True}
    sent = [(call["token"], call["token_type_hint"]) for call in server.revoked]
    assert sent == [(f"{MARK}-{kind}-1", f"{kind}_token") for kind in ("refresh", "access")]
    shown = await at.shown(case)
    assert (shown["status"], shown["credential_status"]) == ("revoked", "none")
    assert await vault_size(at) == before - 2
    assert (await revoke(at, case))["provider_revoked"] is None
    assert len(server.revoked) == 2
    answer = await at.api.call("POST", f"{case.path}/oauth/authorize", {"grant_id": case.id})
    assert told(answer) == (404, "grant_not_found")


@pytest.mark.parametrize("name", ["500", "endless", "redirect"])
async def test_a_provider_that_does_not_help_stops_nothing(
    at: Desk, server: OAuthServer, name: str
) -> None:
    case = await at.connected()
    server.behaviour = HOSTILE[name]
    assert (await revoke(at, case))["provider_revoked"] is False
    assert (await at.shown(case))["status"] == "revoked"
    assert len(server.revoked) == 2  # each token by itself


async def test_a_provider_without_an_endpoint_for_it(at: Desk, server: OAuthServer) -> None:
    case = await at.connected(await at.granted(revocation_endpoint=None))
    assert (await revoke(at, case))["provider_revoked"] is None
    elsewhere = await at.connected(
        await at.granted(revocation_endpoint="https://elsewhere.example/revoke")
    )
    assert (await revoke(at, elsewhere))["provider_revoked"] is False
    assert server.revoked == []


async def test_tokens_go_to_their_issuer_alone(at: Desk, server: OAuthServer) -> None:
    case = await at.connected(await at.granted(alone=True))
    other = await at.api.provider(case.zone, config_json=at.config())
    resource = f"/zones/{case.zone}/resources/{case.resource['id']}"
    await at.api.call("PATCH", resource, {"provider_id": other["id"]})
    await at.api.call("DELETE", f"/zones/{case.zone}/providers/{case.provider['id']}")
    assert (await revoke(at, case))["provider_revoked"] is None
    assert server.revoked == []


# --- the guide ---------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"


async def test_the_guide(at: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    zone = await at.api.zone()
    with AdminClient(api_url=at.api.url, admin_token=OPERATOR) as client:
        app = await at.api.application(zone)
        names: dict[str, Any] = {"client": client, "zone": {"id": zone}, "app": app}
        for number, block in enumerate(blocks):
            await asyncio.to_thread(exec, compile(here(at, block), str(PAGE), "exec"), names)
            if number == 0:
                await at.back(await at.browser_at(names["asked"]["authorization_url"]))
    told = capsys.readouterr().out.splitlines()
    assert told[1:] == ["connected stored", "revoked True"]


def here(at: Desk, block: str) -> str:
    """The same, with our provider in place of theirs."""
    for theirs, ours in (
        ("https://login.example", at.server.issuer),
        ("login.example", HOST),
        ("caracal-at-mail", CLIENT_ID),
        ("of caracal at mail", CLIENT_SECRET),
    ):
        block = block.replace(theirs, ours)
    return block
