"""Reading the engine's syntax tree.

The tree is JSON: an expression is an object with one capitalised key, its kind. Text from the
policy stands only in values, never in keys, so a walk by keys cannot be misled by a policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Node = dict[str, Any]

_HEADS = {"Compr", "Set", "Func", "Default"}
_COMPREHENSIONS = {"ArrayCompr", "SetCompr", "ObjectCompr"}


class Ref(NamedTuple):
    """``input.a["b"][c]``: head, then per step a literal name or None, and the bracket terms."""

    head: str | None
    path: tuple[str | None, ...]
    indexes: tuple[Node, ...]
    base: Node

    @property
    def name(self) -> str | None:
        """Dotted name, None when some part is computed."""
        if self.head is None or None in self.path:
            return None
        return ".".join((self.head, *(step or "" for step in self.path)))

    def __str__(self) -> str:
        return ".".join((self.head or "?", *(step or "?" for step in self.path)))


def kind(node: Node) -> tuple[str, Node]:
    """The one kind of an expression or literal, and its fields."""
    return next(((tag, body) for tag, body in node.items() if tag[0].isupper()), ("", {}))


def is_ref(tag: str) -> bool:
    """Whether this kind names something: a variable or a path from one."""
    return tag in ("Var", "RefDot", "RefBrack")


def ref(node: Node) -> Ref:
    """``node`` as a reference; anything but a variable at its head is left in ``base``."""
    path: list[str | None] = []
    indexes: list[Node] = []
    tag, body = kind(node)
    while tag in ("RefDot", "RefBrack"):
        if tag == "RefDot":
            path.append(body["field"][1])
        else:
            inner, index = kind(body["index"])
            path.append(index["value"] if inner in ("String", "RawString") else None)
            indexes.append(body["index"])
        node = body["refr"]
        tag, body = kind(node)
    head = body["value"] if tag == "Var" else None
    return Ref(head, tuple(reversed(path)), tuple(reversed(indexes)), node)


def walk(root: Any, *, into_queries: bool = True) -> Iterator[tuple[str, Node]]:
    """Every kind below ``root`` with its fields, in no order.

    References come whole, once, under the kind ``Ref`` as ``{"ref": Ref}``. Names being defined
    and names being called are not references; ``with`` comes under the kind ``With``. Without
    ``into_queries`` the bodies of comprehensions and of ``every`` are left out.
    """
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        tag, node = stack.pop()
        if isinstance(node, list):
            if tag == "with_mods":
                yield from (("With", modifier) for modifier in node)
            stack.extend(("", item) for item in node)
        elif isinstance(node, dict):
            if is_ref(tag):
                found = ref({tag: node})
                yield "Ref", {"ref": found}
                stack.extend(_below(found))
                continue
            if tag[:1].isupper():
                yield tag, node
            stack.extend(_children(tag, node, into_queries))


def _below(found: Ref) -> list[tuple[str, Any]]:
    base = [] if found.head is not None else [found.base]
    return [("", node) for node in (*found.indexes, *base)]


def _children(tag: str, body: Node, into_queries: bool) -> list[tuple[str, Any]]:
    named: list[tuple[str, Any]] = []
    hidden = ""
    if tag == "Call":
        hidden, named = "fcn", _below(ref(body["fcn"]))
    elif tag in _HEADS and "refr" in body:
        hidden, named = "refr", _below(ref(body["refr"]))
    elif not into_queries and tag in _COMPREHENSIONS:
        return []
    elif not into_queries and tag == "Every":
        hidden = "query"
    shown = ((name, part) for name, part in body.items() if name not in (hidden, "span"))
    return named + [item for item in shown if isinstance(item[1], dict | list)]
