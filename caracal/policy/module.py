"""One parsed policy: what it defines, imports and calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from caracal.policy.syntax import Node, Ref, kind, ref, walk
from caracal.policy.text import PACKAGE

_CONSTANTS = {"String", "RawString", "Number", "Bool", "Null"}


class Rule:
    """A definition; several may share one name."""

    def __init__(self, node: Node) -> None:
        self.kind, self.body = kind(node)
        self.head_kind, self.head = (
            ("Default", self.body) if self.kind == "Default" else kind(self.body["head"])
        )
        self.ref: Ref = ref(self.head["refr"])
        self.name = self.ref.name or str(self.ref)
        self.span: Node = self.body["span"]

    @cached_property
    def nodes(self) -> list[tuple[str, Node]]:
        """All that ``walk`` finds in it."""
        return [*walk(self.body)]

    @property
    def calls(self) -> Iterator[Ref]:
        """Names it calls."""
        return (ref(body["fcn"]) for tag, body in self.nodes if tag == "Call")

    @property
    def is_function(self) -> bool:
        """Whether it takes arguments."""
        return self.head_kind == "Func" or bool(self.head.get("args"))

    @property
    def is_total(self) -> bool:
        """Whether its name has a value whatever the input is: a set, a default or a constant."""
        if self.is_function or self.ref.path:
            return False
        if self.head_kind in ("Set", "Default"):
            return True
        assign = self.head.get("assign")
        return not self.body.get("bodies") and assign is not None and _is_constant(assign["value"])


def _is_constant(expression: Node) -> bool:
    allowed = _CONSTANTS | {"Array", "Set", "Object"}
    return all(tag in allowed for tag, _ in walk(expression))


class Module:
    """``ast`` is one element of the engine's syntax tree."""

    def __init__(self, ast: Node) -> None:
        self._bytes: bytes = ast["source"]["contents"].encode()
        tree = ast["ast"]
        self.package = ref(tree["package"]["refr"]).name
        self.rules = [Rule(node) for node in tree["rules"]]
        self.imports = {self._alias(node): ref(node["refr"]) for node in tree["imports"]}

    @cached_property
    def functions(self) -> set[str]:
        """Names of the functions defined here."""
        return {rule.name for rule in self.rules if rule.is_function}

    @cached_property
    def names(self) -> set[str]:
        """First names of all definitions: these, not variables, are meant by a bare word."""
        return {rule.ref.head or "" for rule in self.rules}

    @cached_property
    def total(self) -> set[str]:
        """Rules that always have a value."""
        return {rule.name for rule in self.rules if rule.is_total}

    def text(self, span: Node) -> str:
        """Source text; spans count bytes."""
        return self._bytes[span["start"] : span["end"]].decode()

    def at(self, span: Node) -> str:
        """``line:column`` of its start, in characters."""
        line_start = self._bytes.rfind(b"\n", 0, span["start"]) + 1
        return f"{span['line']}:{len(self._bytes[line_start : span['start']].decode()) + 1}"

    def _alias(self, node: Node) -> str:
        if node.get("as"):
            return self.text(node["as"])
        found = ref(node["refr"])
        if found.head in ("rego", "future"):
            return ""
        return str(found.path[-1] if found.path else found.head)


def local(name: Ref) -> Ref:
    """``data.caracal.authz.f`` as ``f``."""
    prefix = tuple(PACKAGE.split("."))
    if name.head == "data" and name.path[: len(prefix)] == prefix and len(name.path) > len(prefix):
        rest = name.path[len(prefix) :]
        return Ref(rest[0], rest[1:], name.indexes, name.base)
    return name
