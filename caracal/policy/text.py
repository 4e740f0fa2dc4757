"""What can be said of a policy from its text alone, before any parser sees it.

The engine's parser takes time exponential in the depth of brackets, so depth is counted here
first, by a scanner that is linear and knows only strings, comments and brackets.
"""

from __future__ import annotations

import re

from caracal.policy.reasons import invalid

MAX_BYTES = 64 * 1024
MAX_DEPTH = 10
MAX_NESTING = 1 << 18
"""Of all brackets that double the parser's work: a tenth of a second, where 64 KiB could take two.
"""
PACKAGE = "caracal.authz"

_TOKEN = re.compile(
    r'(?P<opaque>"(?:[^"\\\n]|\\[^\n])*+"|`[^`]*+`|#[^\n]*+)|(?P<open>[(\[{])|(?P<close>[)\]}])|["`]'
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_IDENT = r"[A-Za-z_][A-Za-z0-9_]*"
_PACKAGE = re.compile(r"\s*package(?![A-Za-z0-9_])[^\S\n]*([^\s;]*)")
_PACKAGE_NAME = re.compile(rf"{_IDENT}(?:\.{_IDENT})*")


def sanity(content: str | bytes) -> str:
    """The text of a policy that is worth parsing.

    Raises Unprocessable ``invalid_rego`` for what needs no parser: size, encoding, strings,
    brackets, package.
    """
    text = _decode(content)
    code = strip(text)
    if not code.strip():
        raise invalid("empty_policy")
    _require_package(code)
    return text


def strip(text: str) -> str:
    """``text`` with strings and comments blanked, same length and lines.

    Raises Unprocessable for an open string, brackets that do not match, or too many of them
    inside each other.
    """
    parts: list[str] = []
    open_brackets: list[str] = []
    end = nesting = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        if token.lastgroup == "opaque":
            parts.append(_blank(token[0]))
            continue
        if token.lastgroup is None:
            raise invalid("unterminated_string")
        _follow(open_brackets, token[0])
        nesting += token[0] in "[{" and 1 << len(open_brackets)
        parts.append(token[0])
    if open_brackets:
        raise invalid("unbalanced_delimiters")
    if nesting > MAX_NESTING:
        raise invalid("nesting_too_deep")
    return "".join((*parts, text[end:]))


def _blank(text: str) -> str:
    return "\n".join(" " * len(line) for line in text.split("\n"))


def _follow(open_brackets: list[str], bracket: str) -> None:
    opener = _CLOSES.get(bracket)
    if opener is None:
        open_brackets.append(bracket)
        if len(open_brackets) > MAX_DEPTH:
            raise invalid("nesting_too_deep")
    elif not open_brackets or open_brackets.pop() != opener:
        raise invalid("unbalanced_delimiters")


def _decode(content: str | bytes) -> str:
    """Strict UTF-8: the engine dies of a lone surrogate instead of refusing it."""
    try:
        data = content.encode() if isinstance(content, str) else bytes(content)
        if len(data) > MAX_BYTES:
            raise invalid("policy_too_large")
        return data.decode()
    except UnicodeEncodeError as error:
        before = error.object[: error.start]
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
    raise invalid(
        f"syntax_error:{before.count(chr(10)) + 1}:{len(before.rpartition(chr(10))[2]) + 1}"
    )


def _require_package(code: str) -> None:
    found = _PACKAGE.match(code)
    if found is None:
        raise invalid("missing_package_declaration")
    if not _PACKAGE_NAME.fullmatch(found[1]):
        raise invalid("invalid_package_name")
    if found[1] != PACKAGE:
        raise invalid("must_use_package_caracal_authz")
