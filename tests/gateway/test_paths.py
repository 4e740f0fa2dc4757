"""Paths and queries: nothing climbs, nothing is decoded on the way."""

from __future__ import annotations

import contextlib
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from caracal.errors import BadInput
from caracal.services.gateway.paths import check_path, join_path, upstream_url
from caracal.services.gateway.refusals import Denied

CLIMBING = ["/..", "/.", "/../x", "/a/../b", "/a/..", "/./a", "/a/.", "..", "/a/../../b"]
CLIMBING += ["/%2e%2e/x", "/%2E%2e", "/.%2e/x", "/%2e./x", "/%2e", "/a/%2e/b", "/..%2fx"]
CLIMBING += ["/%252e%252e/x", "/%25252e%25252e/x", "/a%2f..%2fb", "/a%252f%252e%252e", "/%2%65"]
CLIMBING += ["/a\\b", "/..\\x", "/%5c..", "/a%5cb", "/a%255cb", "/a%00", "/a%2500b", "/\x00"]
CLIMBING += ["/%", "/%2", "/%zz", "/a%g0b", "/100%", "/..;/x", "/..;a=1/x", "/.;x", "/%2e%2e;/x"]
CLIMBING += ["/%c0%ae%c0%ae/x", "/%ff", "/%25c0%25ae/x", "/%e9t%e9", "/%" + "25" * 3 + "2e/x"]
CLIMBING += ["/%25/%252e%252e/x", "/" + "%25" * 9 + "41/%2e%2e", "/%" + "25" * 9 + "2e"]

PLAIN = ["/", "", "/a", "/a/b/", "//a//b", "/.well-known/x", "/a.b", "/...", "/a..b", "/..a"]
PLAIN += ["/%20", "/%C3%A9", "/100%25", "/a%25b", "/a%2520b", "/a%2fb", "/a;v=1", "/%25zz"]
PLAIN += ["/a%3B..b", "/a..", "/~u/*'(),!$&+=:@"]


@pytest.mark.parametrize("path", CLIMBING)
def test_climbing_paths_are_refused(path: str) -> None:
    with pytest.raises(Denied) as refused:
        check_path(path.encode())
    assert (refused.value.status, refused.value.code) == (400, "invalid_token")
    assert refused.value.description == "path traversal not permitted"
    assert refused.value.counter == "denials_path_traversal"


@pytest.mark.parametrize("path", PLAIN)
def test_plain_paths_pass(path: str) -> None:
    check_path(path.encode())


@given(st.lists(st.sampled_from(["..", ".", "a", "b.c", "é", "x y", "%"])), st.integers(0, 5))
def test_segments_climb_or_not_however_often_encoded(segments: list[str], rounds: int) -> None:
    path = "/" + "/".join(segments)
    encoded = path if rounds else quote(path)
    for _ in range(rounds):
        encoded = quote(encoded, safe="").replace(".", "%2E")
    if {".", ".."} & set(segments):
        with pytest.raises(Denied):
            check_path(encoded.encode())
    else:
        check_path(encoded.encode())


@pytest.mark.parametrize(
    ("base", "inbound", "joined"),
    [
        ("", "/a", "/a"),
        ("/", "/a", "/a"),
        ("/", "//a", "//a"),
        ("", "", "/"),
        ("/", "/", "/"),
        ("/api", "", "/api"),
        ("/api", "/", "/api"),
        ("/api/", "/", "/api/"),
        ("/api/", "", "/api/"),
        ("/api", "/a", "/api/a"),
        ("/api/", "/a", "/api/a"),
        ("/api", "/a/", "/api/a/"),
        ("/api/v1", "/a%2Fb/c%20d", "/api/v1/a%2Fb/c%20d"),
        ("/a%2Fb", "/%C3%A9", "/a%2Fb/%C3%A9"),
        ("/api", "//evil.example/x", "/api/evil.example/x"),
        ("/api", "a", "/api/a"),
    ],
)
def test_join_path(base: str, inbound: str, joined: str) -> None:
    assert join_path(base, inbound) == joined


SEGMENT = st.from_regex(r"([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2}){1,6}", fullmatch=True)


@given(st.lists(SEGMENT), st.lists(SEGMENT, min_size=1), st.booleans(), st.booleans())
def test_join_keeps_every_segment_and_the_trailing_slash(
    base: list[str], inbound: list[str], base_slash: bool, slash: bool
) -> None:
    left = "/".join(["", *base]) + "/" * base_slash
    right = "/".join(["", *inbound]) + "/" * slash
    joined = join_path(left, right)
    assert joined == "/" + "/".join([*base, *inbound]) + "/" * slash
    url = upstream_url(f"http://up.example:8000{left}#gone", right.encode(), b"")
    assert url.raw_path == joined
    assert str(url.origin()) == "http://up.example:8000"
    assert not url.fragment


@pytest.mark.parametrize(
    ("own", "sent", "merged"),
    [
        ("", "", ""),
        ("", "a=1&a=2&&b", "a=1&a=2&&b"),
        ("", "a=%2B+%20", "a=%2B+%20"),
        ("k=1", "", "k=1"),
        ("k=1", "a=2", "k=1&a=2"),
        ("k=1", "k=2", "k=1"),
        ("k=1&k=3", "k=2&a=2&k=4", "k=1&k=3&a=2"),
        ("k=1", "%6b=2&%6B&K=3", "k=1&K=3"),
        ("a b=1", "a+b=2&a%20b=3&c=4", "a b=1&c=4"),
        ("a+b=1", "a%20b=3", "a+b=1"),
        ("k=1", "a=2;k=3&b", "k=1&b"),
        ("k=1", "&&a&&", "k=1&a"),
        ("k", "k=2&kk=1", "k&kk=1"),
        ("k=1", "=2&x", "k=1&=2&x"),
        ("=1", "=2&x", "=1&=2&x"),
        ("k=%2F", "a=%2f", "k=%2F&a=%2f"),
    ],
)
def test_query_of_the_upstream_wins_by_name(own: str, sent: str, merged: str) -> None:
    url = upstream_url(f"https://up.example/x?{own}", b"/y", sent.encode())
    assert url.raw_query_string == merged


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.text(max_size=4), min_size=1),
    st.lists(st.tuples(st.text("abc%", min_size=1, max_size=2), st.text(max_size=4))),
)
def test_no_client_value_takes_the_place_of_the_upstream_s(
    own: dict[str, str], sent: list[tuple[str, str]]
) -> None:
    def encode(pairs: list[tuple[str, str]]) -> str:
        return "&".join(f"{quote(k)}={quote(v, safe='')}" for k, v in pairs)

    base = f"http://up.example/?{encode(list(own.items()))}"
    url = upstream_url(base, b"/", encode(sent).encode())
    merged = parse_qsl(url.raw_query_string, keep_blank_values=True)
    assert merged == [*own.items(), *((k, v) for k, v in sent if k not in own)]


@pytest.mark.parametrize("query", [b"a=%", b"a=%zz", b"%2", b"a=\xc3\xa9"])
@pytest.mark.parametrize("base", ["http://up.example/", "http://up.example/?k=1"])
def test_query_that_does_not_parse_is_refused(base: str, query: bytes) -> None:
    with pytest.raises(BadInput) as refused:
        upstream_url(base, b"/", query)
    assert (refused.value.status, refused.value.code) == (400, "internal_error")
    assert refused.value.description == "upstream request build failed"


@pytest.mark.parametrize("base", ["", "/x", "http:///x", "http://[::1", "http://h:99999/", "x y"])
def test_unbuildable_url_is_refused(base: str) -> None:
    with pytest.raises(BadInput):
        upstream_url(base, b"/", b"")


def test_target_without_a_path_is_refused() -> None:
    with pytest.raises(BadInput):
        upstream_url("http://up.example/", b"*", b"")


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_only_refusals_come_out(path: bytes, query: bytes) -> None:
    assume(b"?" not in path)
    with contextlib.suppress(Denied, BadInput):
        check_path(path)
        url = upstream_url("http://up.example/base", path, query)
        tail = path.lstrip(b"/")
        assert url.raw_path.encode() == (b"/base/" + tail if path not in (b"", b"/") else b"/base")
        assert url.raw_query_string.encode() == query
