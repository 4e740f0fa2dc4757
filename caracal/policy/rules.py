"""What a policy may not do, found in its syntax tree.

Each check yields or raises the reasons of control-plane.md section 6.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import chain

from caracal.policy.builtins import ALLOWED, is_builtin
from caracal.policy.module import Module, Rule, local
from caracal.policy.negation import permissive
from caracal.policy.reasons import invalid
from caracal.policy.syntax import Ref, kind, ref, walk
from caracal.policy.text import PACKAGE

MAX_CHAIN = 64
_WIDE = re.compile(r"%[^A-Za-z%]*\d{3}")


def inspect(modules: Sequence[Module]) -> None:
    """Raises Unprocessable for the first thing the modules, evaluated together, may not do."""
    for module in modules:
        _require_contract(module)
        _refuse_calls(module)
        _refuse_formats(module)
        _refuse_with(module)
    _refuse_second_defaults(modules)
    _refuse_long_chains(modules)
    for module in modules:
        for span in permissive(module):
            raise invalid(f"permissive_negation:{module.at(span)}")


def _require_contract(module: Module) -> None:
    if module.package != PACKAGE:
        raise invalid("must_use_package_caracal_authz")
    if not any(rule.name == "result" and not rule.is_function for rule in module.rules):
        raise invalid("must_define_result_rule")


def _refuse_calls(module: Module) -> None:
    """Only allowed builtins and functions of the same module; neither may hide the other."""
    for name in sorted(module.functions):
        if is_builtin(name):
            raise invalid(f"forbidden_builtin:{name}")
    for alias in sorted(module.imports):
        if is_builtin(alias) or alias in module.functions:
            raise invalid(f"unknown_function:{alias}")
    for called in chain.from_iterable(rule.calls for rule in module.rules):
        if called.name in ALLOWED or local(called).name in module.functions:
            continue
        what = "forbidden_builtin" if is_builtin(str(called)) else "unknown_function"
        raise invalid(f"{what}:{called}")


def _refuse_formats(module: Module) -> None:
    """``sprintf`` makes as much text as its format says: one call could take all memory.

    So the format is written out, where its widths can be read.
    """
    for rule in module.rules:
        for tag, body in rule.nodes:
            if tag != "Call" or ref(body["fcn"]).name != "sprintf":
                continue
            format_kind, text = kind(body["params"][0]) if body["params"] else ("", {})
            if format_kind not in ("String", "RawString") or _WIDE.search(text["value"]):
                raise invalid(
                    "forbidden_builtin:sprintf",
                    "with a format that is not written out or has a width of three digits",
                )


def _refuse_with(module: Module) -> None:
    """``with`` may replace parts of ``input`` only.

    A builtin as target or value would escape the list of calls, and there is no data to replace.
    """
    for rule in module.rules:
        for tag, modifier in rule.nodes:
            if tag == "With" and ref(modifier["refr"]).head != "input":
                raise invalid(f"forbidden_with:{ref(modifier['refr'])}")


def _refuse_second_defaults(modules: Sequence[Module]) -> None:
    """OPA refuses to compile them; this engine silently takes one."""
    seen: set[str] = set()
    for module in modules:
        for rule in module.rules:
            if rule.kind == "Default" and rule.name in seen:
                raise invalid(f"syntax_error:{module.at(rule.span)}")
            if rule.kind == "Default":
                seen.add(rule.name)


def _refuse_long_chains(modules: Sequence[Module]) -> None:
    """The engine's stack grows with each rule or function evaluated inside another.

    It notices rules that need themselves, but functions that call themselves, or very many
    in a row, end the process.
    """
    needs = _needs(modules)
    depth: dict[str, int] = {}
    try:
        for name in TopologicalSorter(needs).static_order():
            depth[name] = 1 + max((depth[needed] for needed in needs[name]), default=0)
    except CycleError as error:
        raise invalid(_where(modules, error.args[1][0])) from None
    if max(depth.values(), default=0) > MAX_CHAIN:
        raise invalid("nesting_too_deep")


def _where(modules: Sequence[Module], name: str) -> str:
    found = ((m, rule) for m in modules for rule in m.rules if rule.ref.head == name)
    module, rule = next(found)
    return f"syntax_error:{module.at(rule.span)}"


def _needs(modules: Sequence[Module]) -> dict[str, set[str]]:
    """First name of each definition, with those of the definitions it is computed from."""
    needs: dict[str, set[str]] = {rule.ref.head or "": set() for m in modules for rule in m.rules}
    for module in modules:
        for rule in module.rules:
            needs[rule.ref.head or ""] |= _needed_by(module, rule, needs)
    return needs


def _needed_by(module: Module, rule: Rule, names: Collection[str]) -> set[str]:
    """Calls always count; a bare word does unless the rule declares a variable of that name."""
    needed: set[str] = set()
    declared = _declared(module, rule)
    for tag, body in rule.nodes:
        if tag == "Ref" and body["ref"].head not in declared:
            needed.update(_read(module, body["ref"], names))
    needed.discard(rule.ref.head or "")
    needed.update(str(local(called).head) for called in rule.calls)
    return {name for name in needed if name in names}


def _read(module: Module, found: Ref, names: Collection[str]) -> Collection[str]:
    """Definitions that ``found`` may mean; all of them if it computes its way through ``data``."""
    imported = module.imports.get(found.head or "")
    target = local(imported or found)
    if target.head != "data":
        return (str(target.head),)
    own = PACKAGE.split(".")
    shared = zip(target.path, own, strict=False)
    return names if all(step in (part, None) for step, part in shared) else ()


def _declared(module: Module, rule: Rule) -> set[str]:
    declared = _heads(rule.head.get("args", []))
    for tag, body in rule.nodes:
        if tag == "AssignExpr" and body["op"] == "ColEq":
            declared |= _heads(body["lhs"])
        elif tag == "SomeIn":
            declared |= _heads([body["key"], body["value"]])
        elif tag == "SomeVars":
            declared |= {module.text(span) for span in body["vars"]}
        elif tag == "Every":
            declared |= {module.text(body[part]) for part in ("key", "value") if body[part]}
    return declared


def _heads(root: object) -> set[str]:
    return {str(body["ref"].head) for tag, body in walk(root) if tag == "Ref"}
