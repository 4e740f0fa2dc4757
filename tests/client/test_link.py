"""``Link`` headers (RFC 8288)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.client.link import MAX_LINK, cursor_of, next_link


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('</a>; rel="next"', "/a"),
        ("</a>; rel=next", "/a"),
        ("</a>;rel=next", "/a"),
        ("  </a> ; Rel = NEXT", "/a"),
        ('</a>; rel="prev next"', "/a"),
        ('</a>; title="x, <y>; rel=next"; rel="next"', "/a"),
        ('</a>; title="\\"; rel=\\"prev"; rel="next"', "/a"),
        ('</p>; rel="prev", </n>; rel="next"', "/n"),
        ('</p>; rel="prev",</n,;>; rel="next"', "/n,;"),
        (', </n>; rel="next"', "/n"),
        ("</n>; rel*=UTF-8''x; rel=next; hreflang=en", "/n"),
        ("</n>; crossorigin; rel=next", "/n"),
        ('</n>; rel="next"; rel="prev"', "/n"),
        ('</n>; rel="prev"; rel="next"', None),
        ('</n>; rel="next"; anchor="#other"', None),
        ('</n>; rel="nextish"', None),
        ("</n>", None),
        ("/n; rel=next", None),
        ("<>; rel=next", ""),
        ("", None),
        (None, None),
        ("</n>; rel=next" + " " * MAX_LINK, None),
    ],
)
def test_the_next_link(header: str | None, target: str | None) -> None:
    assert next_link(header) == target


TARGETS = st.from_regex(r"/[a-z0-9?=&,;%]{0,20}", fullmatch=True)
RELATIONS = st.sampled_from(["prev", "next", "self", "first", "up next", "NEXT"])
TITLES = st.sampled_from(["", '; title="a, b"', "; x=y", '; title="<>; rel=next"'])


@given(st.lists(st.tuples(TARGETS, RELATIONS, TITLES)), st.sampled_from([",", ", ", " , "]))
def test_the_first_next_of_many(links: list[tuple[str, str, str]], comma: str) -> None:
    header = comma.join(f'<{target}>{title}; rel="{rel}"' for target, rel, title in links)
    found = [target for target, rel, _ in links if "next" in rel.lower().split()]
    assert next_link(header) == (found[0] if found else None)


@given(st.text(max_size=300) | st.text('<>;,="\\ relnxt', max_size=300))
def test_no_header_breaks_the_reader(header: str) -> None:
    next_link(header)


@pytest.mark.parametrize("part", ["<", "<>", "<>;", ';a="', '<>;a="\\', "<>;a ", ", ", "<>;a=b "])
def test_long_headers_take_no_time(part: str) -> None:
    began = time.process_time()
    next_link(part * (MAX_LINK // len(part)))
    assert time.process_time() - began < 1


def test_the_cursor_of_a_link() -> None:
    assert cursor_of("/v1/zones?limit=1&cursor=a%2Fb") == "a/b"
    assert cursor_of("/v1/zones?limit=1") is None
