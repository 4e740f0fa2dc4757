"""Every way to spoil a token, on every path of the STS that takes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from caracal import clock
from caracal.events.topics import AUDIT
from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services.sts.client_assertion import ASSERTION_TYPE
from tests.making import new_session
from tests.signing import ec_key, public_jwk
from tests.sts import spoiling
from tests.sts.spoiling import FOREIGN, Spoiling, Token, claims, header, negated, once_more
from tests.sts.test_client_assertion import claims as assertion_claims
from tests.sts.world import ISSUER, Tenant, World, new_tenant

ENDPOINT = f"{ISSUER}/oauth/2/token"
CLIENT_KEY = ec_key()
Spoilings = dict[str, Spoiling]
ON_ALL: dict[str, Spoilings] = {
    "algorithm": spoiling.ALGORITHMS,
    "critical": spoiling.CRITICAL,
    "signature": spoiling.SIGNATURES,
    "spelling": spoiling.SPELLINGS,
    "payload": spoiling.PAYLOADS,
}
IN_FORM = ON_ALL | {
    "kid": spoiling.KIDS,
    "key it brings": spoiling.BROUGHT,
    "around it": spoiling.AROUND,
}
NOW = int(clock.now().timestamp())
OLD, SOON = NOW - 3600, NOW + 3600


class Path(ABC):
    """A place where a token is taken.

    Attributes:
        spoilt: what must not work there, by kind.
    """

    spoilt: dict[str, Spoilings]

    @abstractmethod
    async def right(self, world: World) -> Token:
        """A token that works, once."""

    @abstractmethod
    async def send(self, world: World, token: str) -> httpx.Response: ...

    @abstractmethod
    async def check_taken(self, answer: httpx.Response) -> None: ...

    @abstractmethod
    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None: ...


def of_zone(tenant: Tenant, **members: Any) -> Token:
    """An ambient token, made of its parts."""
    key = load_pem_private_key(tenant.key.pem(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    head = {"alg": "ES256", "typ": "JWT", "kid": tenant.key.kid}
    return Token(key, head, tenant.claims(**members))


TIMES: Spoilings = {
    "expired": claims(exp=OLD),
    "no exp": claims(exp=None),
    "exp of text": claims(exp=str(SOON)),
    "exp of true": claims(exp=True),
    "exp of a list": claims(exp=[SOON]),
    "not yet": claims(nbf=SOON),
    "not yet, as text": claims(nbf="later"),
}
ANCHORS: Spoilings = {
    "anchors of text": claims(anchors="all"),
    "anchors of an object": claims(anchors={"a": 1}),
    "anchors in anchors": claims(anchors=[["a"]]),
    "anchors of numbers": claims(anchors=[7]),
    "path of text": claims(delegation_path="edge"),
    "chain of text": claims(delegation_chain=["edge"]),
    "chain of a list": claims(delegation_chain=[{"app": "a", "session": ["s"]}]),
    "agent of a list": claims(agent_session_id=["a"]),
    "edge of an object": claims(delegation_edge_id={"id": "a"}),
}
OF_ZONE: Spoilings = {
    "other zone": claims(zone_id="other"),
    "zone of a list": lambda token: token.text(claims={"zone_id": [token.claims["zone_id"]]}),
    "no zone": claims(zone_id=None),
    "other iss": claims(iss=f"{ISSUER}/"),
    "iss of a list": claims(iss=[ISSUER]),
    "no iss": claims(iss=None),
    "a second zone": once_more(b'"zone_id":"other"'),
    "a second iss": once_more(b'"iss":"https://other.example"'),
}
OF_AMBIENT: Spoilings = {
    "iat in the future": claims(iat=SOON, exp=SOON + 60),
    "per call": claims(use="per_call"),
    "no use": claims(use=None),
    "use of a list": claims(use=["ambient"]),
    "a second use": once_more(b'"use":"per_call"'),
    "other aud": claims(aud=["resource://one"]),
    "more aud": claims(aud=[ISSUER, "resource://one"]),
    "aud of text": claims(aud=ISSUER),
    "sub of a number": claims(sub=7),
    "sub of an object": claims(sub={"id": "a"}),
    "empty sub": claims(sub=""),
    "client of a list": claims(client_id=["a"]),
    "no client": claims(client_id=None),
    "no root": claims(root_sid=None),
    "no type": claims(sub_type=None),
}


MANDATES = {"times": TIMES, "anchors": ANCHORS, "zone": OF_ZONE}


@dataclass
class Exchanged(Path):
    """``subject_token`` and ``actor_token``."""

    field: str
    status: str
    spoilt = IN_FORM | MANDATES | {"ambient": OF_AMBIENT}

    async def right(self, world: World) -> Token:
        return of_zone(world.tenant, sub="ada", sub_type="user")

    async def send(self, world: World, token: str) -> httpx.Response:
        return await post(world, **{"subject_token": world.tenant.token(), self.field: token})

    async def check_taken(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text

    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None:
        assert told(answer) == (401, "invalid_token")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert await trail(world, answer) == [self.status]


class Introspected(Path):
    """``token`` of introspection; of what it does not take it tells nothing."""

    spoilt = IN_FORM | MANDATES
    what = "introspect"

    async def right(self, world: World) -> Token:
        return of_zone(world.tenant)

    async def send(self, world: World, token: str) -> httpx.Response:
        form = world.tenant.form(resource=None, token=token)
        return await world.http.post(f"{world.url}/oauth/2/{self.what}", data=form)

    async def check_taken(self, answer: httpx.Response) -> None:
        assert answer.json()["active"] is True

    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None:
        assert (answer.status_code, answer.json()) == (200, {"active": False})


class Revoked(Introspected):
    """``token`` of revocation; what it does not take needs no end (RFC 7009, section 2.2)."""

    spoilt = IN_FORM | {"zone": OF_ZONE}
    what = "revoke"

    async def right(self, world: World) -> Token:
        session = new_session(world.tenant.app_id, zone_id=world.tenant.id)
        await world.tenant.save(session)
        return of_zone(world.tenant, sid=session.aggregate_id)

    async def check_taken(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200
        assert "caracal-position" in answer.headers

    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None:
        assert (answer.status_code, answer.content) == (200, b"")
        assert "caracal-position" not in answer.headers


OF_ASSERTION: Spoilings = {
    "far": claims(exp=NOW + 900),
    "iat in the future": claims(iat=SOON),
    "iat of text": claims(iat="now"),
    "other iss": claims(iss="other"),
    "other sub": claims(sub="other"),
    "iss of a list": lambda token: token.text(claims={"iss": [token.claims["iss"]]}),
    "other aud": claims(aud="https://other.example"),
    "more aud": claims(aud=[ISSUER, "https://other.example"]),
    "no aud": claims(aud=None),
    "aud of an object": claims(aud={ISSUER: 1}),
    "no jti": claims(jti=None),
    "jti of a number": claims(jti=1),
    "long jti": claims(jti="j" * 257),
    "a proof's type": header(typ="dpop+jwt"),
    "a token's type": header(typ="at+jwt"),
    "type of a list": header(typ=["JWT"]),
    "a second iss": once_more(b'"iss":"other"'),
}


class Asserted(Path):
    """``client_assertion``."""

    spoilt = IN_FORM | {"times": TIMES, "assertion": OF_ASSERTION}
    app_id = ""

    async def right(self, world: World) -> Token:
        if not self.app_id:
            keys = {"keys": [public_jwk(CLIENT_KEY, kid="own")]}
            self.app_id = (await world.tenant.add_application(jwks=keys)).aggregate_id
        return Token(CLIENT_KEY, {"alg": "ES256", "kid": "own"}, assertion_claims(self.app_id))

    async def send(self, world: World, token: str) -> httpx.Response:
        return await post(
            world,
            application_id=self.app_id,
            client_secret=None,
            client_assertion=token,
            client_assertion_type=ASSERTION_TYPE,
            subject_token=world.tenant.token(client_id=self.app_id, sub=self.app_id),
        )

    async def check_taken(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text

    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None:
        assert told(answer) == (401, "access_denied")
        assert answer.json()["error_description"] == "invalid client credentials"
        assert await trail(world, answer) == ["client_auth_failed"]


OF_PROOF: Spoilings = {
    "no key": header(jwk=None),
    "a key of another type": header(jwk="key"),
    "another key": lambda token: token.text(FOREIGN),
    "its kid alone": header(jwk=None, kid="own"),
    "a private key": lambda token: token.text(header={"jwk": {**token.header["jwk"], "d": "AA"}}),
    "a shared key": header(jwk={"kty": "oct", "k": "AA"}),
    "a key of another curve": header(jwk={"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
    "a point beside the curve": header(
        jwk={"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}
    ),
    "a key for encryption": lambda token: token.text(
        header={"jwk": {**token.header["jwk"], "use": "enc"}}
    ),
    "a key elsewhere": header(jwk=None, jku="https://127.0.0.1:9/keys"),
    "no type": header(typ=None),
    "another type": header(typ="JWT"),
    "other method": claims(htm="GET"),
    "method of a list": claims(htm=["POST"]),
    "no method": claims(htm=None),
    "other URI": claims(htu=f"{ISSUER}/oauth/2/introspect"),
    "URI of a list": claims(htu=[ENDPOINT]),
    "URI with a user": claims(htu=ENDPOINT.replace("://", "://u@")),
    "URI of no port": claims(htu=ENDPOINT.replace("example", "example:99999")),
    "no URI": claims(htu=None),
    "old": claims(iat=OLD),
    "in the future": claims(iat=SOON),
    "iat of text": claims(iat=str(NOW)),
    "no iat": claims(iat=None),
    "no jti": claims(jti=None),
    "jti of a list": claims(jti=["a"]),
    "a second method": once_more(b'"htm":"GET"'),
}


class Proven(Path):
    """The ``DPoP`` header."""

    spoilt = ON_ALL | {"proof": OF_PROOF}

    async def right(self, world: World) -> Token:
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(CLIENT_KEY)}
        now = clock.now().timestamp()
        said = {"jti": new_id(), "htm": "POST", "htu": ENDPOINT, "iat": now}
        return Token(CLIENT_KEY, head, said)

    async def send(self, world: World, token: str) -> httpx.Response:
        return await post(world, {"DPoP": token}, subject_token=world.tenant.token())

    async def check_taken(self, answer: httpx.Response) -> None:
        assert answer.json()["token_type"] == "DPoP"

    async def check_refused(self, world: World, answer: httpx.Response, name: str) -> None:
        if answer.status_code == 431:  # the server takes no such headers
            assert name == "very long"
            return
        assert told(answer) == (400, "invalid_dpop_proof")
        assert await trail(world, answer) == ["client_auth_failed"]


PATHS: dict[str, Path] = {
    "subject_token": Exchanged("subject_token", "subject_token_invalid"),
    "actor_token": Exchanged("actor_token", "actor_token_invalid"),
    "introspect": Introspected(),
    "revoke": Revoked(),
    "client_assertion": Asserted(),
    "DPoP": Proven(),
}


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


async def trail(world: World, answer: httpx.Response) -> list[str]:
    """What the evidence says; of a request that was refused there is nothing else."""
    entries = [
        orjson.loads(fields[b"data"]) for _, fields in await world.redis.xrevrange(AUDIT, count=4)
    ]
    events = [event for event in entries if event["request_id"] == answer.json()["requestId"]]
    assert {event["decision"] for event in events} <= {"deny"}
    return [event["evaluation_status"] for event in events]


async def post(
    world: World, headers: dict[str, str] | None = None, **members: Any
) -> httpx.Response:
    """Exchange, in the state that the STS has already."""
    form = world.tenant.form(**members)
    return await world.http.post(f"{world.url}/oauth/2/token", data=form, headers=headers)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_right_token_is_taken(world: World, path: Path) -> None:
    token = await path.right(world)
    await path.check_taken(await path.send(world, token.text()))


def rows() -> Iterator[Any]:
    for where, path in PATHS.items():
        for kind in path.spoilt:
            yield pytest.param(path, kind, id=f"{where}: {kind}")


@pytest.mark.parametrize(("path", "kind"), list(rows()))
async def test_a_spoilt_token_is_not(world: World, path: Path, kind: str) -> None:
    token, taken = await path.right(world), {}
    for name, spoil in path.spoilt[kind].items():
        text = spoil(token)
        answer = await path.send(world, text)
        try:
            await path.check_refused(world, answer, name)
            check_silent(answer, text)
        except AssertionError as error:
            taken[name] = str(error)
    assert not taken


def check_silent(answer: httpx.Response, text: str) -> None:
    assert "access_token" not in answer.text
    assert text not in answer.text or len(text) < 8
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("where", ["client_assertion", "DPoP"])
@pytest.mark.parametrize("other", [False, True], ids=["as it was", "under its other signature"])
async def test_what_is_good_once_is_not_taken_twice(world: World, where: str, other: bool) -> None:
    path = PATHS[where]
    token = await path.right(world)
    text = token.text()
    await path.check_taken(await path.send(world, text))
    again = spoiling.signature(negated)(token) if other else text
    await path.check_refused(world, await path.send(world, again), "again")


@pytest.mark.parametrize("where", ["subject_token", "actor_token", "introspect", "revoke"])
async def test_keys_that_are_not_the_zones(world: World, where: str) -> None:
    """Of another zone, by its own key id and by ours; of a key that was retired."""
    path, other = PATHS[where], await new_tenant(world.log)
    mine, theirs = of_zone(world.tenant, sub="ada"), of_zone(other, sub="ada")
    for text in (
        theirs.text(),
        theirs.text(claims={"zone_id": world.tenant.id, "client_id": world.tenant.app_id}),
        mine.text(theirs.key),
        mine.text(header={"kid": other.key.kid}),
        mine.text(theirs.key, header={"kid": other.key.kid}),
    ):
        await path.check_refused(world, await path.send(world, text), "other zone")


@pytest.mark.parametrize("where", ["subject_token", "actor_token", "introspect", "revoke"])
async def test_a_key_that_was_retired(world: World, where: str) -> None:
    path, tenant = PATHS[where], await new_tenant(world.log)
    old = of_zone(tenant, sub="ada").text()
    for _ in range(2):
        key = SigningKey.generate(new_id())
        await tenant.rotate(key.kid, key.public_jwk(), key.pem())
    tenant.key = key  # signs whatever else the request needs
    elsewhere = World(world.url, world.settings, world.http, world.redis, world.log, tenant)
    await elsewhere.exchange(client_secret="wrong")  # the STS has seen it
    await path.check_refused(elsewhere, await path.send(elsewhere, old), "retired")


async def test_nothing_of_it_got_into_the_trail(world: World) -> None:
    """After all of the above: no token, no proof, no secret."""
    data = b"".join(fields[b"data"] for _, fields in await world.redis.xrange(AUDIT))
    assert b"eyJ" not in data
    assert world.tenant.secret.encode() not in data
