"""Negations that this engine takes for true and OPA for undefined.

OPA computes the arguments of a negated call, operator or composite *before* the negation:
``not startswith(input.x, "a")`` means ``v := input.x; not startswith(v, "a")`` and so fails when
``input.x`` is missing. This engine negates the whole and succeeds. The same holds for variables
nothing binds, which OPA refuses to compile. Both are permissive: such a policy is refused, and
the author writes the assignment out.

Left alone, because both engines agree, are ``not input.a.b``, ``not input.a == input.b`` and
negations whose operands always have a value: variables bound by another statement, constants,
rules with a default, sets, comprehensions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Set
from typing import Any

from caracal.policy.builtins import TOTAL
from caracal.policy.module import Module, Rule
from caracal.policy.syntax import Node, Ref, is_ref, kind, ref, walk
from caracal.policy.text import PACKAGE

_LITERALS = {"String", "RawString", "Number", "Bool", "Null"}
_COMPREHENSIONS = {"ArrayCompr", "SetCompr", "ObjectCompr"}
_QUERIES = _COMPREHENSIONS | {"Every"}


def permissive(module: Module) -> Iterator[Node]:
    """Spans of all such negations in ``module``."""
    for rule in module.rules:
        yield from _in_rule(module, rule)


def _in_rule(module: Module, rule: Rule) -> Iterator[Node]:
    arguments = _variables(rule.head.get("args", []))
    bound = arguments
    for body in rule.body.get("bodies", []):
        inner = yield from _in_query(module, arguments, body["query"])
        yield from _in_expressions(module, inner, body["assign"])
        bound = bound | inner
    yield from _in_expressions(module, bound, rule.head)


def _in_query(module: Module, outer: Set[str], query: Node) -> Generator[Node, None, Set[str]]:
    """Negations of one body. Returns the names bound in it."""
    statements = query["stmts"]
    bound = outer | _bound_by(statements)
    for statement in statements:
        tag, literal = kind(statement["literal"])
        if tag == "NotExpr" and not _Operand(module, bound).agrees(literal["expr"]):
            yield literal["span"]
        yield from _in_expressions(module, bound, statement)
    return bound


def _in_expressions(module: Module, bound: Set[str], root: Any) -> Iterator[Node]:
    """Negations in the queries nested directly below ``root``."""
    for tag, body in walk(root, into_queries=False):
        if tag in _QUERIES:
            inner = bound
            if tag == "Every":
                spans = [body["key"], body["value"]]
                inner = bound | {module.text(span) for span in spans if span}
            inner = yield from _in_query(module, inner, body["query"])
            terms = [body[name] for name in ("term", "key", "value") if name in body]
            if tag in _COMPREHENSIONS:
                yield from _in_expressions(module, inner, terms)


def _bound_by(statements: list[Node]) -> set[str]:
    """Variables that a statement other than a negation mentions; a bare ``some`` only names."""
    literals = (statement["literal"] for statement in statements)
    return _variables([literal for literal in literals if kind(literal)[0] != "NotExpr"])


def _variables(root: Any) -> set[str]:
    return {
        str(body["ref"].head)
        for tag, body in walk(root, into_queries=False)
        if tag == "Ref" and body["ref"].head not in (None, "_", "input", "data")
    }


def _names_a_rule(found: Ref) -> bool:
    """Not the package, which OPA refuses within itself, nor a name computed at run time."""
    depth = len(PACKAGE.split(".")) + 1
    return len(found.path) >= depth and None not in found.path[:depth]


class _Operand:
    """Judges expressions under a negation."""

    def __init__(self, module: Module, bound: Set[str]) -> None:
        self._module = module
        self._bound = bound

    def agrees(self, node: Node) -> bool:
        """Whether ``not node`` means the same in both engines."""
        if self._plain(node) or self._solid(node):
            return True
        tag, body = kind(node)
        if tag == "Call":
            return all(map(self._solid, body["params"]))
        if tag == "Membership":
            parts = (body["key"], body["value"], body["collection"])
            return all(self._solid(part) for part in parts if part)
        if tag in ("BoolExpr", "AssignExpr"):
            same = self._compared if body["op"] == "Eq" else self._solid
            return body["op"] != "ColEq" and same(body["lhs"]) and same(body["rhs"])
        return False

    def _compared(self, node: Node) -> bool:
        return self._plain(node) or self._solid(node)

    def _plain(self, node: Node) -> bool:
        """A path, all its steps literal or bound: OPA leaves it inside the negation."""
        if not is_ref(kind(node)[0]):
            return False
        found = ref(node)
        if found.head == "data" and not _names_a_rule(found):
            return False
        return self._known(found.head) and all(
            kind(index)[0] in _LITERALS or self._solid(index) for index in found.indexes
        )

    def _known(self, name: str | None) -> bool:
        if name is None or name in ("input", "data"):
            return name is not None
        return name in self._bound or name in self._module.names or name in self._module.imports

    def _solid(self, node: Node) -> bool:
        """An operand that always has a value."""
        tag, body = kind(node)
        if tag == "Var":
            return self._has_value(body["value"])
        if tag in ("Array", "Set"):
            return all(map(self._solid, body["items"]))
        if tag == "Object":
            return all(self._solid(key) and self._solid(value) for _, key, value in body["fields"])
        if tag in ("ArithExpr", "BinExpr"):
            return self._solid(body["lhs"]) and self._solid(body["rhs"])
        if tag == "Call":
            return self._total_call(body)
        return tag in _LITERALS or tag in _COMPREHENSIONS

    def _has_value(self, name: str) -> bool:
        if name in self._module.names:
            return name in self._module.total
        return name in self._bound and name not in self._module.imports

    def _total_call(self, body: Node) -> bool:
        name = ref(body["fcn"]).name
        return name in TOTAL and all(map(self._solid, body["params"]))
