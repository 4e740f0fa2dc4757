"""Keys of trusted issuers, from a real provider over TLS: found, kept, renewed, and not trusted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson
import pytest
from aiohttp import web

from caracal.errors import Unavailable
from caracal.key_sets import FORCED_EVERY, LIFE
from caracal.projections.memory import Row
from caracal.services.sts import issuer_keys
from caracal.services.sts.guarded_fetch import CONNECTIONS, MAX_BYTES
from caracal.services.sts.issuer_keys import STALE_SECONDS, IssuerKeys
from caracal.services.upstream_guard import UpstreamGuard
from tests.signing import ec_key, public_jwk, rsa_key
from tests.sts.oauth_server import answering, breaking_off, cut, endless
from tests.sts.oidc_provider import WELL_KNOWN, Issuer, OidcProvider, trusted

PRIVATE = "https://10.0.0.1/keys"


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    async with OidcProvider(tmp_path_factory.mktemp("oidc")).serving() as made:
        yield made


@dataclass
class Shelf:
    """The keys of one issuer, and a clock to turn."""

    issuer: Issuer
    keys: IssuerKeys
    now: float = 1000.0

    def rules(self, **members: Any) -> Row:
        return {"zone_id": "one", "issuer": self.issuer.url, "jwks_uri": None, **members}

    async def has(self, kid: str = "one", **members: Any) -> bool:
        return await self.keys.find(self.rules(**members), kid) is not None


class SlowFetch:
    """Documents of hosts that do not answer, but for one; as many at once as there are."""

    def __init__(self) -> None:
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def get(self, uri: str) -> bytes:
        async with asyncio.timeout(0.5), self._connections:
            if uri.startswith("https://slow"):
                await asyncio.Event().wait()
            await asyncio.sleep(0.3)
            return orjson.dumps({"keys": [public_jwk(ec_key(), kid="one", use="sig")]})

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def shelf(provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    trusted(monkeypatch, provider)
    made: list[Shelf] = []
    keys = IssuerKeys(UpstreamGuard("loopback"), clock=lambda: made[0].now)
    made.append(Shelf(provider.issuer(), keys))
    yield made[0]
    await keys.close()


async def test_keys_are_found_by_discovery_once(shelf: Shelf) -> None:
    assert await shelf.has()
    found = await shelf.keys.find(shelf.rules(), "one")
    assert found is not None
    assert found.may_verify("ES256")
    assert not found.may_verify("RS256")
    assert shelf.issuer.calls == [WELL_KNOWN, "/keys"]


async def test_keys_are_found_where_the_rules_say(shelf: Shelf) -> None:
    shelf.issuer.metadata = {"issuer": "https://another.example"}  # it is not even asked
    assert await shelf.has(jwks_uri=shelf.issuer.jwks_uri)
    assert shelf.issuer.calls == ["/keys"]


async def test_a_new_key_is_found_at_once_but_nobody_can_make_us_ask_for_ever(
    shelf: Shelf,
) -> None:
    assert await shelf.has()
    shelf.issuer.keys["two"] = ec_key()
    assert await shelf.has("two")
    assert shelf.issuer.fetched() == 2
    for number in range(20):
        assert not await shelf.has(f"made up {number}")
    assert shelf.issuer.fetched() == 2
    shelf.now += FORCED_EVERY
    assert not await shelf.has("made up")
    assert shelf.issuer.fetched() == 3


async def test_a_key_that_was_taken_back_serves_no_longer_than_its_five_minutes(
    shelf: Shelf,
) -> None:
    assert await shelf.has()
    shelf.issuer.keys = {"two": ec_key()}
    assert await shelf.has("one")
    shelf.now += LIFE
    assert not await shelf.has("one")  # nobody is served the old ones while the new ones come
    assert await shelf.has("two")


async def test_keys_serve_on_for_a_while_when_the_issuer_fails(shelf: Shelf) -> None:
    assert await shelf.has()
    shelf.issuer.behaviour = answering("down", 500)
    shelf.now += LIFE + STALE_SECONDS - 1
    assert await shelf.has()
    shelf.now += 2
    with pytest.raises(Unavailable, match="issuer_unavailable"):
        await shelf.has()
    shelf.issuer.behaviour = None
    shelf.now += 2
    assert await shelf.has()


async def test_many_who_wait_are_one_fetch(shelf: Shelf) -> None:
    shelf.issuer.gate = asyncio.Event()
    waiting = [asyncio.create_task(shelf.has()) for _ in range(32)]
    async with asyncio.timeout(15):
        while not shelf.issuer.fetched():
            await asyncio.sleep(0.005)
    shelf.issuer.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert shelf.issuer.calls == [WELL_KNOWN, "/keys"]


async def test_nobody_waits_for_a_slow_issuer_for_long(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "PATIENCE_SECONDS", 0.05)
    shelf.issuer.gate = asyncio.Event()
    with pytest.raises(Unavailable, match="issuer_unavailable"):
        await shelf.has()
    shelf.issuer.gate.set()
    monkeypatch.setattr(issuer_keys, "PATIENCE_SECONDS", 60.0)
    assert await shelf.has()


def redirecting(to: str) -> Callable[[web.Request], Any]:
    return answering("", 302, Location=to)


HOSTILE = {
    "huge": answering(b'{"keys":[' + b" " * MAX_BYTES + b"]}"),
    "endless": endless,
    "cut": cut,
    "broken off": breaking_off,
    "redirect": redirecting("/keys"),
    "redirect to a private address": redirecting(PRIVATE),
    "an error": answering("{}", 500),
    "not found": answering('{"keys":[]}', 404),
    "compressed": answering(b"\x1f\x8b\x08\x00", 200, **{"Content-Encoding": "gzip"}),
    "no JSON": answering("<html>"),
    "a list": answering("[]"),
    "no keys": answering('{"keys":[]}'),
    "keys of an object": answering('{"keys":{}}'),
    "keys of nothing": answering('{"keys":[null,1,"a",{}]}'),
    "deep": answering(b"[" * 30_000),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_key_sets_that_are_not_taken(shelf: Shelf, name: str) -> None:
    shelf.issuer.behaviour = HOSTILE[name]
    with pytest.raises(Unavailable, match="issuer_unavailable") as raised:
        await shelf.has()
    assert raised.value.description == "the issuer's keys cannot be had now"
    assert shelf.keys.failures_total == shelf.keys.fetches_total >= 1


async def test_keys_are_not_followed_to_another_place(shelf: Shelf, provider: OidcProvider) -> None:
    other = provider.issuer()
    shelf.issuer.behaviour = redirecting(other.jwks_uri)
    with pytest.raises(Unavailable):
        await shelf.has()
    assert other.calls == []


METADATA: dict[str, Callable[[Issuer], dict[str, Any]]] = {
    "another issuer": lambda issuer: {"issuer": "https://another.example"},
    "a slash more": lambda issuer: {"issuer": f"{issuer.url}/"},
    "in capitals": lambda issuer: {"issuer": issuer.url.upper()},
    "issuer of a list": lambda issuer: {"issuer": [issuer.url]},
    "no issuer": lambda issuer: {"issuer": None},
    "no jwks_uri": lambda issuer: {"jwks_uri": None},
    "jwks_uri of a list": lambda issuer: {"jwks_uri": [issuer.jwks_uri]},
    "keys in the clear": lambda issuer: {"jwks_uri": issuer.jwks_uri.replace("https", "http")},
    "keys in a file": lambda issuer: {"jwks_uri": "file:///etc/passwd"},
    "keys at a private address": lambda issuer: {"jwks_uri": PRIVATE},
    "keys at the link's address": lambda issuer: {"jwks_uri": "https://169.254.169.254/latest"},
    "keys by user information": lambda issuer: {"jwks_uri": issuer.jwks_uri.replace("//", "//a@")},
    "keys nowhere": lambda issuer: {"jwks_uri": ""},
    "keys at no URL": lambda issuer: {"jwks_uri": "https://["},
}


@pytest.mark.parametrize("name", METADATA)
async def test_metadata_that_is_not_taken(shelf: Shelf, name: str) -> None:
    shelf.issuer.metadata = METADATA[name](shelf.issuer)
    with pytest.raises(Unavailable, match="issuer_unavailable"):
        await shelf.has()
    assert shelf.issuer.fetched() == 0


async def test_only_public_addresses_are_asked_in_production(
    provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted(monkeypatch, provider)
    keys, issuer = IssuerKeys(UpstreamGuard("false")), provider.issuer()
    for uri in (None, issuer.jwks_uri):
        with pytest.raises(Unavailable):
            await keys.find({"zone_id": "one", "issuer": issuer.url, "jwks_uri": uri}, "one")
    assert issuer.calls == []
    await keys.close()


async def test_a_certificate_that_is_not_trusted_is_nobodys(
    provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    keys, issuer = IssuerKeys(UpstreamGuard("loopback")), provider.issuer()
    with pytest.raises(Unavailable):
        await keys.find({"zone_id": "one", "issuer": issuer.url, "jwks_uri": None}, "one")
    assert issuer.calls == []
    await keys.close()


async def test_keys_that_are_not_taken_are_passed_over(shelf: Shelf) -> None:
    right, other = public_jwk(ec_key(), kid="right"), public_jwk(ec_key())
    shelf.issuer.published = [
        right,
        public_jwk(rsa_key(1024), kid="short"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"},
        public_jwk(ec_key(), kid="private") | {"d": "AQAB"},
        public_jwk(ec_key(), kid="for encryption", use="enc"),
        other,  # of no name
        public_jwk(ec_key(), kid="twice"),
        public_jwk(ec_key(), kid="twice"),
        other | {"kid": 7},
    ]
    assert await shelf.has("right")
    for kid in ("short", "symmetric", "private", "for encryption", "", "twice", "7"):
        assert not await shelf.has(kid)


async def test_the_rules_and_the_issuer_do_not_share_what_they_name(shelf: Shelf) -> None:
    """Who sets ``jwks_uri`` to another's metadata gets no keys of discovery by it."""
    assert await shelf.has()
    with pytest.raises(Unavailable):
        await shelf.has(jwks_uri=shelf.issuer.url + WELL_KNOWN)


async def test_slow_issuers_of_one_zone_hold_up_no_other_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = IssuerKeys(UpstreamGuard())
    await keys._fetch.close()
    monkeypatch.setattr(keys, "_fetch", SlowFetch())

    def rules(zone_id: str, uri: str) -> Row:
        return {"zone_id": zone_id, "issuer": uri, "jwks_uri": uri}

    async def flood() -> None:
        for number in count():
            uri = f"https://slow{number}.example"
            tasks.append(asyncio.create_task(keys.find(rules("one", uri), "one")))
            await asyncio.sleep(0.005)

    tasks: list[asyncio.Task[Any]] = []
    tasks.append(asyncio.create_task(flood()))
    await asyncio.sleep(1)
    try:
        assert await keys.find(rules("two", "https://quick.example"), "one") is not None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keys.close()
