"""What policy is told of a call, and what it must never be told less of."""

from __future__ import annotations

from hashlib import sha256

import orjson
import pytest

from caracal.services.gateway.call_context import UNREADABLE, call_context


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
