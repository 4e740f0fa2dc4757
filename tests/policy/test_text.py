"""What the text of a policy alone tells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.errors import Unprocessable
from caracal.policy.text import MAX_BYTES, MAX_DEPTH, sanity, strip

HEAD = "package caracal.authz\n"


def reason(content: str | bytes) -> str | None:
    try:
        sanity(content)
    except Unprocessable as refusal:
        return f"{refusal.extras['detail']}"
    return None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty_policy"),
        (" \n\t ", "empty_policy"),
        ("# only a remark", "empty_policy"),
        (HEAD + "#" * MAX_BYTES, "policy_too_large"),
        (HEAD + "é" * (MAX_BYTES // 2), "policy_too_large"),
        (HEAD + "x := " + "[" * 20 + "]" * 20, "nesting_too_deep"),
        (HEAD + "x := " + "[" * 11 + "]" * 11, "nesting_too_deep"),
        (HEAD + "x := " + "{([" * 40, "nesting_too_deep"),
        (HEAD + 'x := "open', "unterminated_string"),
        (HEAD + 'x := "two\nlines"', "unterminated_string"),
        (HEAD + 'x := "escaped \\"', "unterminated_string"),
        (HEAD + "x := `open", "unterminated_string"),
        (HEAD + "x := [1", "unbalanced_delimiters"),
        (HEAD + "x := [1)", "unbalanced_delimiters"),
        (HEAD + "x := 1}", "unbalanced_delimiters"),
        ("result := 1", "missing_package_declaration"),
        ("packages caracal.authz", "missing_package_declaration"),
        ("# package caracal.authz\nresult := 1", "missing_package_declaration"),
        ("package", "invalid_package_name"),
        ("package\ncaracal.authz", "invalid_package_name"),
        ("package 1caracal", "invalid_package_name"),
        ("package caracal..authz", "invalid_package_name"),
        ('package caracal["authz"]', "invalid_package_name"),
        ("package caracal.authz2", "must_use_package_caracal_authz"),
        ("package caracal", "must_use_package_caracal_authz"),
        ("package caracal.authz.more", "must_use_package_caracal_authz"),
        (b"package caracal.authz\nx := \xff", "syntax_error:2:6"),
        (HEAD + "x := \ud800", "syntax_error:2:6"),
    ],
)
def test_refused_without_a_parser(content: str | bytes, expected: str) -> None:
    assert reason(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        "# first\npackage caracal.authz # why\nresult := 1",
        HEAD + "x := " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        HEAD + 'x := "[[[[[[[[[[[[[[ \\" ((" # }}}}',
        HEAD + 'x := `[[[[[[[[[[[[[[ " \\\n`\ny := 1',
        HEAD + "#" * (MAX_BYTES - len(HEAD)),
    ],
)
def test_brackets_in_strings_and_comments_do_not_count(content: str) -> None:
    assert reason(content) is None
    assert sanity(content.encode()) == content


def test_stripping_keeps_places() -> None:
    assert strip('a "b[" # c\n`\n}`d') == "a" + " " * 9 + "\n \n  d"


def test_a_line_of_quotes_takes_no_time() -> None:
    assert reason(HEAD + '"\\' * 32_000) == "unterminated_string"


@given(st.one_of(st.text(), st.binary(), st.text(alphabet='package .\n\t"\\`#[]{}()ax')))
def test_nothing_but_a_refusal_is_raised(content: str | bytes) -> None:
    reason(content)


OPAQUE = st.one_of(
    st.text(alphabet="[](){}#` a\\", max_size=8).map(
        lambda text: '"' + text.replace("\\", "\\\\") + '"'
    ),
    st.text(alphabet='[](){}#" \\\n', max_size=8).map(lambda text: f"`{text}`"),
    st.text(alphabet='[](){}#"` \\', max_size=8).map(lambda text: f"#{text}\n"),
)
PLAIN = st.text(alphabet="ab=: \n", min_size=1, max_size=4)


@st.composite
def nested(draw: st.DrawFn) -> tuple[str, int]:
    """A balanced text, with the depth of its brackets known from how it was made."""
    parts, depth, deepest = [], 0, 0
    closers: list[str] = []
    for part in draw(st.lists(st.one_of(st.sampled_from("([{<"), OPAQUE, PLAIN), max_size=60)):
        if part == "<" and closers:
            parts.append(closers.pop())
            depth -= 1
        elif part in ("(", "[", "{"):
            closers.append({"(": ")", "[": "]", "{": "}"}[part])
            parts.append(part)
            depth += 1
            deepest = max(deepest, depth)
        elif part != "<":
            parts.append(part)
    return "".join(parts + closers[::-1]), deepest


@given(nested())
def test_depth_is_what_a_naive_count_gives(made: tuple[str, int]) -> None:
    text, depth = made
    if depth > MAX_DEPTH:
        with pytest.raises(Unprocessable) as refused:
            strip(text)
        assert refused.value.extras["detail"] == "nesting_too_deep"
        return
    code = strip(text)
    assert len(code) == len(text)
    assert not re.search(r"[\"`#]", code)
    deepest = now = 0
    for char in code:
        now += (char in "([{") - (char in ")]}")
        deepest = max(deepest, now)
    assert (deepest, now) == (depth, 0)
