"""What policy is told of a call, and what it must never be told less of."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import unquote

import orjson
import pytest

from caracal.services.gateway.call_context import UNREADABLE, call_context, is_plain


def told(body: bytes) -> object:
    return orjson.loads(call_context("POST", "/mcp", body, mcp=True))["mcp"]


def test_a_tool_call_is_told_by_name_and_names_of_arguments() -> None:
    body = b'{"id":1,"method":"tools/call","params":{"name":"get","arguments":{"id":1}}}'
    digest = sha256(b'{"id":1}').hexdigest()
    assert told(body) == {
        "method": "tools/call",
        "name": "get",
        "arguments_sha256": digest,
        "argument_keys": ["id"],
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"method":"tools/call","params":{"name":"danger","name":"safe"}}',
        b'{"method":"tools/call","params":{"name":"safe","Name":"danger"}}',
        b'{"method":"tools/list","METHOD":"tools/call","params":{}}',
        b'{"method":"tools/call","params":{"name":"safe","arguments":{"a":1,"a":2}}}',
        b'[{"method":"tools/list"}]',
        b"{",
        b"\xff",
        b"[" * 5000,
        b'{"id":1,"Method":"tools/call","Params":{"name":"danger"}}',
        b'{"method":"tools/call","Params":{"name":"danger"}}',
        b'{"method":"tools/call","params":{"Name":"danger"}}',
        b'{"method":"tools/call","params":{"name":"get","Arguments":{"a":1}}}',
        b'{"method":"tools/call","param\xc5\xbf":{"name":"danger"}}',
        b'{"method":"resources/read","params":{"name":"docs://open","uri":"docs://secret"}}',
        b'{"method":"resources/read","params":{"name":"","uri":"docs://secret"}}',
        b'{"method":"tools/list","params":[1]}',
        b'{"method":"tools/call","params":{"name":"get","arguments":[1]}}',
        b'{"method":"tools/call","params":{"name":"get","arguments":"all"}}',
        b'{"method":"tools/call","params":{"name":"get","arguments":false}}',
        b'{"method":"tools/call","params":{"name":"get","arguments":{"a":18446744073709551616}}}',
        b'{"method":"tools/call","params":{"name":"get","arguments":{"a":'
        + b"[" * 400
        + b"]" * 400
        + b"}}}",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_unreadable(body: bytes) -> None:
    assert told(body) == UNREADABLE


@pytest.mark.parametrize("params", [b"{}", b'{"arguments":null}', b"null"])
def test_no_arguments_are_none(params: bytes) -> None:
    assert told(b'{"method":"tools/list","params":' + params + b"}") == {"method": "tools/list"}


def test_an_object_that_is_read_is_told_by_its_uri() -> None:
    body = b'{"method":"resources/read","params":{"uri":"docs://one"}}'
    assert told(body) == {"method": "resources/read", "name": "docs://one"}


@pytest.mark.parametrize(
    ("one", "other"),
    [(b'{"taskId":"a"}', b'{"taskId":"b"}'), (b'{"name":"a","task":{"ttl":1}}', b'{"name":"a"}')],
)
def test_what_else_a_method_goes_by_tells_calls_apart(one: bytes, other: bytes) -> None:
    bodies = (b'{"method":"tasks/cancel","params":' + params + b"}" for params in (one, other))
    assert told(next(bodies)) != told(next(bodies))


def test_what_is_another_at_each_attempt_does_not() -> None:
    body = b'{"method":"tools/call","params":{"name":"get","_meta":{"progressToken":1}}}'
    assert told(body) == {"method": "tools/call", "name": "get"}


def of_path(raw: bytes) -> dict[str, str]:
    text = call_context("GET", unquote(raw.decode()), None, mcp=False, raw_path=raw)
    found: dict[str, str] = orjson.loads(text)["http"]
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"/projects/a/b", b"/projects/a%2Fb"),
        (b"/projects/a/b", b"/projects/a%2fb"),
        (b"/a;b", b"/a%3Bb"),
        (b"/a&b", b"/a%26b"),
        (b"/a@b", b"/a%40b"),
        (b"/a[b", b"/a%5Bb"),
        (b"/a", b"//a"),
    ],
)
def test_paths_that_an_upstream_may_tell_apart_are_told_apart(one: bytes, other: bytes) -> None:
    assert of_path(one)["path"] == of_path(other)["path"]
    assert of_path(one) != of_path(other)


@pytest.mark.parametrize("raw", [b"/caf%C3%A9", b"/a%20b", b"/%7Ea", b"/a%25b", b"/a", b"/"])
def test_a_path_that_means_one_thing_is_told_once(raw: bytes) -> None:
    assert "raw_path" not in of_path(raw)


JSON = (b"content-type", b"application/json")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [JSON],
        [JSON, (b"content-encoding", b"identity")],
        [(b"content-type", b"application/json; charset=utf-8")],
        [(b"content-type", b'application/json;charset="UTF-8"; a=b')],
    ],
)
def test_a_body_in_utf_8_is_what_it_looks_like(headers: list[tuple[bytes, bytes]]) -> None:
    assert is_plain(headers)


@pytest.mark.parametrize(
    "header",
    [
        (b"content-type", b"application/json; charset=utf-7"),
        (b"content-type", b"application/json; Charset = 'UTF-16'"),
        (b"content-type", b"application/json; charset=utf-8; charset=utf-7"),
        (b"content-type", b"application/json; charset*=utf-8''utf-7"),
        (b"content-encoding", b"deflate"),
    ],
)
def test_a_body_that_may_be_read_otherwise_is_not(header: tuple[bytes, bytes]) -> None:
    assert not is_plain([JSON, header])
