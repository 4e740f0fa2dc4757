"""Reads what we write for Graphviz, by the grammar of graphviz.org/doc/info/lang.html.

Graphs, nodes, edges and attribute lists with double-quoted ids; nothing that we do not write.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s*(?: (?P<comment> //[^\n]*) | (?P<arrow> ->) | (?P<mark> [{}\[\];,=])
        | "(?P<quoted> (?:[^"\\]|\\.)*)" | (?P<word> [A-Za-z_][A-Za-z_0-9]*))""",
    re.VERBOSE | re.DOTALL,
)
_DEFAULTS = ("graph", "node", "edge")
Attributes = dict[str, str]
Token = tuple[str, str]


@dataclass
class Digraph:
    """What a text says."""

    nodes: dict[str, Attributes] = field(default_factory=dict)
    edges: list[tuple[str, str, Attributes]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)


def read(text: str) -> Digraph:
    """Read a digraph.

    Raises:
        AssertionError: it is none.
    """
    found = Digraph()
    tokens = _tokens(text, found)
    assert [next(tokens)[1] for _ in range(3)] == ["digraph", "delegations", "{"]
    for kind, first in tokens:
        if first == "}" and kind == "mark":
            break
        token = next(tokens)
        if token[0] == "arrow":
            _, second = next(tokens)
            found.edges.append((first, second, _attributes(next(tokens), tokens)))
        elif kind == "word":
            assert first in _DEFAULTS
            _attributes(token, tokens)
        else:
            found.nodes[first] = _attributes(token, tokens)
    assert next(tokens, None) is None
    return found


def label(attributes: Attributes) -> list[str]:
    """Return the lines of a label as they are drawn."""
    lines = [""]
    for escape, char in re.findall(r"(\\?)(.)", attributes["label"]):
        assert not escape or char in "n\\", f"the escape {char} is none of ours"
        if escape and char == "n":
            lines.append("")
        else:
            lines[-1] += char
    return [html.unescape(line) for line in lines]


def _tokens(text: str, found: Digraph) -> Iterator[Token]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        assert match, text[at : at + 40]
        at, kind = match.end(), str(match.lastgroup)
        value = match[kind]
        if kind == "comment":
            found.comments.append(value)
        else:  # \\" is the only escape of a quoted id
            yield kind, value.replace('\\"', '"') if kind == "quoted" else value


def _attributes(token: Token, tokens: Iterator[Token]) -> Attributes:
    assert token == ("mark", "[")
    attributes: Attributes = {}
    while token != ("mark", "]"):
        (kind, name), equals, (quoted, value) = (next(tokens) for _ in range(3))
        assert (kind, equals, quoted) == ("word", ("mark", "="), "quoted")
        attributes[name] = value
        token = next(tokens)
        assert token[1] in ",]"
    assert next(tokens) == ("mark", ";")
    return attributes
