"""Negations that OPA leaves undefined and this engine takes for true.

The tables were compared with OPA 1.20: whatever the engine allows and OPA does not is refused.
"""

import json

import pytest
import regorus

from caracal.policy.module import Module
from caracal.policy.negation import permissive

RULES = """package caracal.authz
import rego.v1
import input.context as ctx
default fallback := "none"
fixed := {"a", "b"}
maybe := input.missing
many contains x if some x in input.missing
table[x] := 1 if some x in input.missing
is_a(x) if x == "a"
twice(x) := x * 2
result := 1 if {
	here := input.context
	name := "a"
	list := [1, 2]
	STATEMENT
}
"""


def spans(statement: str) -> list[str]:
    engine = regorus.Engine()
    engine.add_policy("p", RULES.replace("STATEMENT", statement))
    (ast,) = json.loads(engine.get_ast_as_json())
    module = Module(ast)
    return [module.at(span) for span in permissive(module)]


@pytest.mark.parametrize(
    "statement",
    [
        'not "a" in input.roles',
        'not ("a" in input.roles)',
        'not input.role in ["a"]',
        'not "k", "v" in input.table',
        'not startswith(input.name, "a")',
        "not is_a(input.name)",
        "not is_a(here.name)",
        'not startswith(here["name"], "a")',
        "not is_a(data.caracal.authz.maybe)",
        "not is_a(maybe)",
        "not is_a(ctx)",
        "not is_a(ctx.name)",
        "not is_a(twice(name))",
        'not startswith(twice(name), "a")',
        "not count(input.list) == 1",
        "not count(input.list)",
        "not max(list) == 3",
        "not input.n < 3",
        "not input.n != 3",
        "not input.n + 1 == 3",
        "not input.n + 1",
        "not input.set | fixed",
        "not input.table[input.name]",
        "not input.table[lower(input.name)]",
        "not input.table[input.name].x == 1",
        "not input.table[maybe]",
        "not input.list[_]",
        "not input.list[_] == 1",
        "not [input.name]",
        'not {"a": input.name}',
        "not {input.name} == here",
        "not list == [input.name]",
        'not object.get(here, "a", input.name) == 1',
        "not object.get(input.table, name, 1) == 1",
        "not table[input.name]",
        "not name in table",
        "not many[input.name]",
        "not data",
        "not data.caracal",
        "not data.caracal.authz",
        "not data.caracal.authz[name]",
        "some i; not input.list[i]",
        "some i; not i == 3",
        "some i; not is_a(i)",
        "not input.list[unbound] == 1",
        "not x := 3",
        # inside other things
        'x := [1 | not "a" in input.roles]',
        'x := {1 | not "a" in input.roles}',
        'x := {1: 2 | not "a" in input.roles}',
        'x := count([y | y := [z | z := 1; not "a" in input.roles]])',
        'every y in list { not "a" in input.roles }',
        'every y in [z | z := 1; not "a" in input.roles] { y }',
        "not count([1 | not is_a(input.name)]) == 0",
        'name with input.x as [1 | not "a" in input.roles]',
        "x := [i | some i in list]; not input.list[i] == 1",
    ],
)
def test_refused(statement: str) -> None:
    assert len(spans(statement)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "not input.name",
        "not input.a.b.c",
        'not input["a"].b',
        "not input.list[0]",
        "not input.table[name]",
        "not here.name",
        "not ctx.name",
        "not maybe",
        "not data.caracal.authz.maybe",
        "not table.x",
        "not many[name]",
        'not input.name == "a"',
        'not input.name = "a"',
        "not input.name == here.name",
        "not maybe == name",
        "not input.list == [1, 2]",
        'not startswith(name, "a")',
        "not is_a(name)",
        "not is_a(fallback)",
        "not name in fixed",
        "not name in many",
        "not name in list",
        "not name in {x | some x in input.roles}",
        "not name != fallback",
        "not count(list) > 1",
        "not count(many) == 0",
        "not lower(name) == upper(fallback)",
        'not object.get(here, "a", 1) == 1',
        "not input.flag == count(list)",
        "not fixed - many == {name}",
        "not false",
        "x := {y | some y in input.roles; not y in fixed}; x",
        "some i; list[i] == 1; not input.list[i]",
        "every k, y in input.roles { not y in fixed; not input.table[k] }",
        "some y in input.roles; not is_a(y)",
        "not is_a(name) with input.x as 1",
    ],
)
def test_accepted(statement: str) -> None:
    assert spans(statement) == []


@pytest.mark.parametrize(
    "definition",
    [
        "r := 1 if not is_a(input.name)",
        "r := 1 if false else := 2 if not is_a(input.name)",
        "r := 1 if false else := [1 | not is_a(input.name)]",
        "r := [1 | not is_a(input.name)]",
        "r contains [1 | not is_a(input.name)] if true",
        "r[count([1 | not is_a(input.name)])] := 1",
        "r(x) := 1 if not is_a(x.name)",
        "default r := [1 | not is_a(input.name)]",
    ],
)
def test_refused_in_any_definition(definition: str) -> None:
    assert len(spans("true\n}\n" + definition + "\nend if {\n\ttrue")) == 1


def test_arguments_are_bound() -> None:
    assert spans("true\n}\nr(x, [y]) := 1 if { not is_a(x); not y in x }\nend if {\n\ttrue") == []


def test_what_the_check_is_for() -> None:
    """If the engine learns to agree with OPA, this fails and the check can go."""
    engine = regorus.Engine()
    engine.add_policy("p", RULES.replace("STATEMENT", "not is_a(input.name)"))
    engine.set_input_json('{"context": {}}')
    assert engine.eval_rule("data.caracal.authz.result") == 1


def test_place_counts_tabs_as_one() -> None:
    assert spans('name == "é"; not is_a(input.name)') == ["15:15"]
