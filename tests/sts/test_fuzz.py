"""Whatever bytes come to the doors of the STS, an answer goes back, and nothing spoilt is granted.

``CARACAL_FUZZ_CASES`` says how many cases each test draws.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, urlsplit

import httptools
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caracal.ids import new_id
from caracal.mandate import peek
from caracal.services.sts.client_assertion import ASSERTION_TYPE
from caracal.services.sts.token_request import MAX_BODY
from tests.signing import ec_key, public_jwk
from tests.sts.test_client_assertion import assertion
from tests.sts.world import World, new_tenant, new_world

CASES = int(os.environ.get("CARACAL_FUZZ_CASES", "40"))
FORM = b"application/x-www-form-urlencoded"
NEEDED = {"error", "error_description", "requestId"}
POSTS = ("/oauth/2/token", "/oauth/2/introspect", "/oauth/2/revoke")
FIELDS = (
    *("grant_type", "zone_id", "application_id", "client_secret", "client_assertion"),
    *("client_assertion_type", "resource", "scope", "subject_token", "subject_token_type"),
    *("actor_token", "actor_token_type", "session_id", "agent_session_id", "delegation_edge_id"),
    *("challenge_id", "challenge_response", "call_context", "dpop_jkt", "ttl_seconds"),
    *("token", "token_type_hint", "audience", ""),
)
KEY = ec_key()

drawn = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Answer:
    """What came back on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(orjson.loads(self.body)["error"]) if self.status >= 400 else ""


class _Reader:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body, self.whole = b"", False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


async def on_wire(world: World, *pieces: bytes) -> Answer:
    """Send these bytes; what no client library would write, too."""
    url = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    found = _Reader()
    parser = httptools.HttpResponseParser(found)
    try:
        async with asyncio.timeout(10):
            writer.write(b"".join(pieces))
            while not found.whole and (data := await reader.read(65536)):
                parser.feed_data(data)
    except ConnectionError:
        assert found.whole, "it was cut without an answer"
    finally:
        writer.close()
    assert found.whole, "it ended without an answer"
    return Answer(parser.get_status_code(), found.headers, found.body)


def request(path: str, body: bytes, content_type: bytes = FORM, *lines: bytes) -> bytes:
    head = [
        b"POST %b HTTP/1.1" % path.encode(),
        b"Host: sts",
        b"Content-Type: " + content_type,
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join((*head, b"", body))


def check(answer: Answer) -> Answer:
    """Check that it is an answer as the contract has them."""
    assert answer.status < 500, answer
    assert b"Traceback" not in answer.body
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]
    if answer.status >= 400:
        body = orjson.loads(answer.body)
        assert answer.headers["content-type"] == "application/json"
        assert body.keys() == NEEDED
        assert body["requestId"] == answer.headers["x-request-id"]
        assert body["error"].isidentifier()
        assert all(type(value) is str and value for value in body.values())
        authenticate = "www-authenticate" in answer.headers
        assert authenticate == (answer.status == 401)
        assert ("retry-after" in answer.headers) == (answer.status == 429)
    return answer


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    """With a worker, for what is drawn may open sessions; no zone is the only one."""
    more = {"STEP_UP_RATE_LIMIT_PER_MIN": "0"}
    async with new_world(module_database_url, module_redis_url, worker=True, **more) as made:
        await new_tenant(made.log)
        yield made


@pytest.fixture(scope="module")
async def app_id(world: World) -> str:
    """An application that signs its assertions."""
    keys = {"keys": [public_jwk(KEY, kid="ec")]}
    made = await world.tenant.add_application(jwks=keys)
    await world.exchange()  # the STS knows it
    return made.aggregate_id


def right(world: World) -> dict[str, bytes]:
    """The fields of an exchange that is granted."""
    form = world.tenant.form(subject_token=world.tenant.token())
    return {name: value.encode() for name, value in form.items()}


# --- what is drawn --------------------------------------------------------------------------

ODD = [
    *(b"", b"\x00", b"%", b"%%", b"%0", b"%zz", b"%u0041", b"%00", b"%0d%0a", b"+", b"&", b"="),
    *(b"%ff", b"%c0%80", b"%ed%a0%80", b"%f4%90%80%80", b"%e2%80%ae", b"%ef%bb%bf", b"\xff"),
    *(b"a=b", b";", b"%3b", b"..", b"%2e%2e%2f", b"null", b"[]", b"{}", b"-1", b"1e9", b"0x10"),
    *(b"9" * 40, b"urn:ietf:params:oauth:grant-type:token-exchange", b"a.b.c", b"' OR 1=1 --"),
    *(b"A" * 5000, "\u0131".encode(), "\uff11".encode(), b"%c3%a9%e2%80%ae%f0%9d%9f%99"),
]
texts = st.one_of(
    st.sampled_from(ODD),
    st.binary(max_size=12),
    st.text(max_size=12).map(
        lambda text: quote_from_bytes(text.encode("utf-8", "replace")).encode()
    ),
)
names = st.one_of(st.sampled_from(FIELDS).map(str.encode), texts)
pairs = st.lists(st.tuples(names, texts), max_size=8)


def written(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"&".join(name + b"=" + value for name, value in pairs)


def plain(fields: dict[str, bytes]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), quote_from_bytes(value).encode()) for name, value in fields.items()]


@st.composite
def spoilt(draw: st.DrawFn, fields: list[tuple[bytes, bytes]]) -> bytes:
    """A right form with some fields replaced, doubled, left out, or others added."""
    made = list(fields)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(made)))
        what = draw(st.sampled_from(["replace", "double", "drop", "add", "rename"]))
        if what == "add" or at == len(made):
            made.insert(at, (draw(names), draw(texts)))
        elif what == "double":
            made.insert(draw(st.integers(0, len(made))), made[at])
        elif what == "drop":
            del made[at]
        else:
            name, value = made[at]
            made[at] = (draw(names), value) if what == "rename" else (name, draw(texts))
    return written(made)


# --- forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
@drawn
@given(data=st.data())
async def test_any_form_gets_an_answer(world: World, path: str, data: st.DataObject) -> None:
    body = written(data.draw(pairs))
    answer = check(await on_wire(world, request(path, body)))
    assert answer.status in (400, 401)


@drawn
@given(data=st.data())
async def test_a_spoilt_form_is_granted_only_if_it_still_says_the_same(
    world: World, data: st.DataObject
) -> None:
    fields = plain(right(world))
    body = data.draw(spoilt(fields))
    answer = check(await on_wire(world, request(POSTS[0], body)))
    if answer.status != 200:
        return
    parts = [part.partition(b"=") for part in body.split(b"&")]
    said = [name for name, _, _ in parts]
    for name, value in fields:
        if name == b"resource":
            assert (name, value) in {(given, text) for given, _, text in parts}
        elif name != b"subject_token":
            assert [text.strip(b"+") for given, _, text in parts if given == name] == [value]
    assert all(said.count(name) == 1 for name in said if name != b"resource")
    granted = orjson.loads(answer.body)
    assert granted["target_resources"] == [world.tenant.resource.identifier]
    claims = peek(granted["access_token"]).claims
    assert (claims["zone_id"], claims["client_id"]) == (world.tenant.id, world.tenant.app_id)


@pytest.mark.parametrize("path", POSTS[1:])
@drawn
@given(data=st.data())
async def test_of_a_spoilt_question_nothing_is_told(
    world: World, path: str, data: st.DataObject
) -> None:
    """The token is one of nobody: whatever it becomes, it is not active and nothing ends."""
    form = world.tenant.form(resource=None, token=new_id())
    fields = plain({name: value.encode() for name, value in form.items()})
    answer = check(await on_wire(world, request(path, data.draw(spoilt(fields)))))
    if answer.status == 200:
        assert answer.body == (b"" if path == POSTS[2] else b'{"active":false}')
        assert "caracal-position" not in answer.headers


SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "no type": lambda body: request(POSTS[0], body, b""),
    "JSON": lambda body: request(POSTS[0], body, b"application/json"),
    "multipart": lambda body: request(POSTS[0], body, b"multipart/form-data; boundary=x"),
    "text": lambda body: request(POSTS[0], body, b"text/plain"),
    "almost": lambda body: request(POSTS[0], body, FORM + b"-x"),
    "two types": lambda body: request(POSTS[0], body, b"text/plain", b"Content-Type: " + FORM),
    "UTF-16": lambda body: request(POSTS[0], body.decode().encode("utf-16")),
    "UTF-8 with a mark": lambda body: request(POSTS[0], b"\xef\xbb\xbf" + body),
    "raw UTF-8": lambda body: request(POSTS[0], body + "&scope=é".encode()),
    "gzip": lambda body: request(
        POSTS[0], b"\x1f\x8b\x08\x00" + body, FORM, b"Content-Encoding: gzip"
    ),
    "semicolons": lambda body: request(POSTS[0], body.replace(b"&", b";")),
    "line breaks": lambda body: request(POSTS[0], body.replace(b"&", b"\r\n")),
    "ends in &": lambda body: request(POSTS[0], body + b"&"),
    "begins with &": lambda body: request(POSTS[0], b"&" + body),
    "cut": lambda body: request(POSTS[0], body[:-1] + b"%"),
    "many fields": lambda body: request(
        POSTS[0], body + b"".join(b"&f%d=" % number for number in range(5000)) + b"&f0="
    ),
    "one field often": lambda body: request(POSTS[0], body + b"&x=" * 9000),
    "many resources": lambda body: request(
        POSTS[0], body + b"".join(b"&resource=r%d" % number for number in range(2000))
    ),
    "one resource often": lambda body: request(
        POSTS[0], body.replace(b"resource=", b"r=") + b"&resource=" * 5000
    ),
    "too large": lambda body: request(POSTS[0], body + b"&x=" + b"y" * MAX_BODY),
    "fields in the query": lambda body: request(f"{POSTS[0]}?{body.decode()}", b""),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_right_request_in_a_wrong_shape(world: World, shape: str) -> None:
    body = written(plain(right(world)))
    answer = check(await on_wire(world, SHAPES[shape](body)))
    assert answer.status in (400, 401, 413, 415)


CHUNKED = b"POST /oauth/2/token HTTP/1.1\r\nHost: sts\r\nContent-Type: %b\r\n" % FORM


async def test_chunks_without_a_length(world: World) -> None:
    body = written(plain(right(world)))
    head = CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n"
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    assert check(await on_wire(world, head, chunks, b"0\r\n\r\n")).status == 200
    # A trailer is no field; a body over the limit is one however it is cut.
    assert check(await on_wire(world, head, chunks, b"0\r\nscope: x\r\n\r\n")).status == 200
    many = b"%x\r\n%b\r\n" % (4096, b"x" * 4096) * 17
    assert check(await on_wire(world, head, many, b"0\r\n\r\n")).code == "payload_too_large"


FRAMINGS = {
    "both": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\na=b&c=",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length in hex": b"Content-Length: 0x10\r\n\r\n" + b"a" * 16,
    "a huge length": b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "another coding": b"Transfer-Encoding: gzip, chunked, x\r\n\r\n0\r\n\r\n",
    "NUL": b"Content-Length: 3\r\nX: \x00\r\n\r\na=b",
    "a space in a name": b"Bad Header: x\r\nContent-Length: 3\r\n\r\na=b",
    "no name": b": x\r\nContent-Length: 3\r\n\r\na=b",
    "a long line": b"X: " + b"y" * 20_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_bad_framing_is_refused(world: World, framing: str) -> None:
    answer = check(await on_wire(world, CHUNKED, FRAMINGS[framing]))
    assert answer.status in (400, 413, 431)
    assert (await world.at_once(client_secret="wrong")).status_code == 401  # it serves on


async def test_a_body_that_goes_wrong_ends_the_connection(world: World) -> None:
    """The request is under way; the cut says enough, and nothing was read as a form."""
    body = written(plain(right(world)))
    chunk = b"%x\r\n%b\r\nzz\r\n" % (len(body), body)
    with pytest.raises(AssertionError, match="without an answer"):
        await on_wire(world, CHUNKED, b"Transfer-Encoding: chunked\r\n\r\n", chunk)


# --- tokens ---------------------------------------------------------------------------------


@st.composite
def spoilt_token(draw: st.DrawFn, token: str) -> str:
    """A token with a character replaced, taken out, or put in, anywhere."""
    at = draw(st.integers(0, len(token) - 1))
    other = draw(st.sampled_from("AZaz09-_.=+/ \n\x00é~"))
    what = draw(st.sampled_from(["replace", "drop", "insert", "cut", "swap"]))
    made = {
        "replace": token[:at] + other + token[at + 1 :],
        "drop": token[:at] + token[at + 1 :],
        "insert": token[:at] + other + token[at:],
        "cut": token[:at],
        "swap": token[at:] + token[:at],
    }[what]
    return made if made != token else token + "A"


@pytest.mark.parametrize("field", ["subject_token", "actor_token", "client_assertion"])
@drawn
@given(data=st.data())
async def test_no_token_works_that_was_touched(
    world: World, app_id: str, field: str, data: st.DataObject
) -> None:
    fields = right(world)
    if field == "client_assertion":
        token = assertion(app_id, KEY)
        own = world.tenant.token(client_id=app_id, sub=app_id)
        del fields["client_secret"]
        fields |= {"application_id": app_id.encode(), "subject_token": own.encode()}
        fields |= {"client_assertion_type": ASSERTION_TYPE.encode()}
    else:
        token = world.tenant.token(sub="ada", sub_type="user")
    touched = data.draw(spoilt_token(token))
    if field == "actor_token" and not touched:  # none is none
        return
    fields[field] = touched.encode()
    answer = check(await on_wire(world, request(POSTS[0], written(plain(fields)))))
    if field == "subject_token" and not touched:
        assert "use" in peek(orjson.loads(answer.body)["access_token"]).claims
        return
    assert answer.status == 401


@drawn
@given(data=st.data())
async def test_no_touched_token_is_active_and_none_ends_anything(
    world: World, data: st.DataObject
) -> None:
    token = world.tenant.token()
    form = world.tenant.form(resource=None, token=data.draw(spoilt_token(token)))
    body = written(plain({name: value.encode() for name, value in form.items()}))
    for path, told in ((POSTS[1], b'{"active":false}'), (POSTS[2], b"")):
        answer = check(await on_wire(world, request(path, body)))
        assert (answer.status, answer.body) in ((200, told), (400, answer.body))


# --- reads ----------------------------------------------------------------------------------

segments = st.one_of(
    st.sampled_from([b"..", b".", b"%2f", b"%00", b"%ff", b"%", b"{zone_id}", b"%7Bzone_id%7D"]),
    st.binary(min_size=1, max_size=12).map(lambda raw: quote_from_bytes(raw).encode()),
    st.sampled_from([b"a" * 4000, b"\xc3\xa9", b"a;b", b"a,b", b"a:b@c", b"//", b"?", b"%3f"]),
)
READS = (
    b"/.well-known/jwks.json?zone_id=%b",
    b"/.well-known/jwks.json?%b",
    b"/zones/%b/.well-known/jwks.json",
    b"/.well-known/oauth-authorization-server/zones/%b",
    b"/step-up/%b",
    b"/%b",
)


@pytest.mark.parametrize("path", READS, ids=bytes.decode)
@drawn
@given(data=st.data())
async def test_any_read_gets_an_answer(world: World, path: bytes, data: st.DataObject) -> None:
    target = path % data.draw(segments)
    answer = await on_wire(world, b"GET %b HTTP/1.1\r\nHost: sts\r\n\r\n" % target)
    assert check(answer).status in (400, 404)


HEADERS = (
    *(b"DPoP", b"X-Request-Id", b"Caracal-Min-Position", b"traceparent", b"Authorization"),
    *(b"X-Caracal-Gateway-Timestamp", b"X-Caracal-Gateway-Request", b"Forwarded", b"Expect"),
    *(b"X-Caracal-Gateway-Signature", b"X-Forwarded-For", b"Content-Encoding", b"Cookie"),
)
values = st.one_of(
    st.sampled_from(
        [b"", b"0", b"-1", b"9" * 30, b"a.b.c", b"\xff\xfe", b"1e3", b"\xc3\xa9", b"\t"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.encode),
)


@drawn
@given(given_=st.lists(st.tuples(st.sampled_from(HEADERS), values), min_size=1, max_size=4))
async def test_headers_of_any_kind(world: World, given_: list[tuple[bytes, bytes]]) -> None:
    """They may change the refusal; a request without a secret stays refused."""
    fields = right(world)
    del fields["client_secret"]
    lines = [name + b": " + value for name, value in given_]
    sent = request(POSTS[0], written(plain(fields)), FORM, *lines)
    answer = await on_wire(world, sent)
    if answer.status == 503:
        assert answer.code == "projection_lagging"
        return
    assert check(answer).status in (400, 401, 417, 429)
