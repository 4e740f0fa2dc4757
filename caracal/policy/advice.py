"""What a policy may do and hardly means to: warnings of ``POST /v1/policies/validate``.

Nothing here refuses. Each warning is a word for programs, some with the place after a colon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from caracal.policy.engine import STEP_UP_TYPES, decision_of
from caracal.policy.module import Module
from caracal.policy.syntax import Node, kind

_ALLOW, _DENY = "allow", "deny"
_SCOPES = "requested_scopes"


def advice(module: Module, results: Sequence[str]) -> list[str]:
    """Return the warnings on ``module``.

    Args:
        module: a policy that passed the check.
        results: the engine's answers on the samples, as JSON, in their order.
    """
    return [*_on_rules(module), *_on_objects(module), *_on_results(results)]


def _on_rules(module: Module) -> Iterator[str]:
    if not any(rule.kind == "Default" and rule.name == "result" for rule in module.rules):
        yield "no_default_result"
    words = set(_words(module))
    if _ALLOW not in words:
        yield "decision_never_allow"
    elif _SCOPES not in words:
        yield "requested_scopes_not_checked"


def _words(module: Module) -> Iterator[str]:
    """Texts and names of steps: whatever the policy may mean stands among them."""
    for rule in module.rules:
        for tag, body in rule.nodes:
            if tag in ("String", "RawString"):
                yield body["value"]
            elif tag == "Ref":
                yield from filter(None, body["ref"].path)
    yield from (step for found in module.imports.values() for step in found.path if step)


def _on_objects(module: Module) -> Iterator[str]:
    for rule in module.rules:
        for tag, body in rule.nodes:
            if tag == "Object":
                yield from (f"{word}:{module.at(span)}" for word, span in _on_object(body))


def _on_object(body: Node) -> Iterator[tuple[str, Node]]:
    """Warnings, each with the place of the member: an object's own is not told right."""
    members = {_text(key): (kind(key)[1]["span"], value) for _, key, value in body["fields"]}
    if "decision" in members:
        span, value = members["decision"]
        if "evaluation_status" not in members:
            yield "result_without_evaluation_status", span
        if _is_other(value, {_ALLOW, _DENY}):
            yield "decision_neither_allow_nor_deny", span
    if "diagnostics" in members:
        span, value = members["diagnostics"]
        if kind(value)[0] == "Object" or _is_other(value, frozenset()):
            yield "diagnostics_not_a_list", span
    if "step_up_required" in members:
        span, value = members["step_up_required"]
        if _is_other(value, STEP_UP_TYPES):
            yield "step_up_without_type", span


def _is_other(value: Node, known: set[str] | frozenset[str]) -> bool:
    """Whether a constant is none of ``known``; what is computed may be anything."""
    tag, _ = kind(value)
    return tag in ("Bool", "Null", "Number", "String", "RawString") and _text(value) not in known


def _text(node: Node) -> str | None:
    tag, body = kind(node)
    return body["value"] if tag in ("String", "RawString") else None


def _on_results(results: Sequence[str]) -> Iterator[str]:
    """The first sample is an input without anything in it."""
    allowed = [_is_allowed(text) for text in results]
    if allowed[0]:
        yield "allows_empty_input"
    elif all(allowed[1:]):
        yield "allows_all_samples"


def _is_allowed(text: str) -> bool:
    try:
        found: Any = decision_of(text)
    except ValueError:
        return False
    return bool(found.allowed)
