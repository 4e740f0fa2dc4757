"""The upload check as its callers see it: real engine, real process."""

import asyncio
import os
from pathlib import Path

import pytest
import regorus

from caracal.errors import Unprocessable
from caracal.policy.builtins import ALLOWED
from caracal.policy.check import check_manifest, check_policy

HEAD = "package caracal.authz\nimport rego.v1\n"
SCOPES = (Path(__file__).parent / "scopes.rego").read_text()

LONG_COMPREHENSION = (
    f"xs := [{', '.join(map(str, range(100)))}]\n"
    "result := count([1 | some a in xs; some b in xs; some c in xs; some d in xs; some e in xs])"
)
STUCK_ON_LONG_SCOPES = """
letters := split(concat("", [s | some s in input.context.requested_scopes]), "")
result := 1 if count([1 | some a in letters; some b in letters; a == b]) >= 0
"""
STUCK_ON_A_TOOL_CALL = (
    f"xs := [{', '.join(map(str, range(100)))}]\n"
    "result := n if {\n\tinput.context.mcp.method\n"
    "\tn := count([1 | some a in xs; some b in xs; some c in xs; some d in xs])\n}"
)
MEMORY = 'result := count(v9) if {\n\tv0 := "aaaaaaaa"\n' + "".join(
    f'\tv{i} := concat("", [{", ".join([f"v{i - 1}"] * 20)}])\n' for i in range(1, 10)
)
FUNCTIONS_IN_A_ROW = "result := f0(1)\nf70(x) := x\n" + "".join(
    f"f{i}(x) := f{i + 1}(x)\n" for i in range(70)
)
RULES_IN_A_ROW = "result := r0\nr70 := 1\n" + "".join(f"r{i} := r{i + 1}\n" for i in range(70))
NESTED = "result := 1 if false\n" + "".join(f"a{i} := {'[' * 10}1{']' * 10}\n" for i in range(120))
LONG_TO_PARSE = NESTED * 2
LONG_SUM = "result := " + "+\n".join(["1"] * 600)


async def reason(content: str, **options: float) -> str | None:
    try:
        await check_policy(HEAD + content, **options)
    except Unprocessable as refusal:
        return f"{refusal.code} {refusal.extras['detail']}"
    return None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # contract
        ("allow := true", "must_define_result_rule"),
        ("result(x) := x", "must_define_result_rule"),
        ("other.result := 1", "must_define_result_rule"),
        # syntax, with columns as an editor shows them
        ("result := !", "syntax_error:3:11"),
        ("result := 1 if {\n\tx :=\n\t}", "syntax_error:4:4"),
        ("result := 1 if {\n\t\ttrue; !\n}", "syntax_error:4:9"),
        ("result { true }", "syntax_error:3:8"),
        ("result := nowhere", "syntax_error:3:11"),
        ("result := 1\nresult := 2", "syntax_error:4:1"),
        ("result := a\na := result", "syntax_error:3:1"),
        ("default result := 1\ndefault result := 2", "syntax_error:4:1"),
        ("result := count(1)", "syntax_error:3:17"),
        # functions that reach themselves kill the engine
        ("result := 1\nf(x) := f(x)", "syntax_error:4:1"),
        ("result := 1\nf(x) := data.caracal.authz.f(x)", "syntax_error:4:1"),
        ("result := 1\nf(x) := [y | y := g(x)]\ng(x) := 1 if f(x)", "syntax_error:"),
        ("result := 1\nf(x) := x if { every y in x { f(y) } }", "syntax_error:4:1"),
        (FUNCTIONS_IN_A_ROW, "nesting_too_deep"),
        (RULES_IN_A_ROW, "nesting_too_deep"),
        (LONG_SUM, "nesting_too_deep"),
        # builtins
        ('result := http.send({"url": "http://localhost"})', "forbidden_builtin:http.send"),
        ("result := opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := time.now_ns()", "forbidden_builtin:time.now_ns"),
        ('result := rand.intn("a", 3)', "forbidden_builtin:rand.intn"),
        ('result := uuid.rfc4122("a")', "forbidden_builtin:uuid.rfc4122"),
        ('result := net.lookup_ip_addr("a")', "forbidden_builtin:net.lookup_ip_addr"),
        ('result := net.cidr_contains("10.0.0.0/8", "10.0.0.1")', "forbidden_builtin:net.cidr_"),
        ('result := net.cidr_expand("10.0.0.0/8")', "forbidden_builtin:net.cidr_expand"),
        ("result := numbers.range(1, 1000000000)", "forbidden_builtin:numbers.range"),
        ("result := 1 if print(1)", "forbidden_builtin:print"),
        ('result := 1 if trace("x")', "forbidden_builtin:trace"),
        ("result := 1 if walk(input, [p, v])", "forbidden_builtin:walk"),
        ('result := 1 if opa["runtime"]()', "forbidden_builtin:opa.runtime"),
        ("result := shout(1)", "unknown_function:shout"),
        ("result := data.caracal.authz.shout(1)", "unknown_function:data.caracal.authz.shout"),
        ("rule := 1\nresult := rule(1)", "unknown_function:rule"),
        ("result := input.f(1)", "unknown_function:input.f"),
        ("result := input[input.f](1)", "syntax_error:3:25"),
        ("lower(x) := 1\nresult := 1", "forbidden_builtin:lower"),
        ("http.send(x) := 1\nresult := 1", "forbidden_builtin:http.send"),
        ("import data.caracal.authz.f as lower\nresult := 1", "unknown_function:lower"),
        ("import data.other.lower\nresult := 1", "unknown_function:lower"),
        # wherever they hide
        ("result := [x | x := opa.runtime()]", "forbidden_builtin:opa.runtime"),
        ("result := {opa.runtime() | true}", "forbidden_builtin:opa.runtime"),
        ('result := {"a": opa.runtime()}', "forbidden_builtin:opa.runtime"),
        ("result := {opa.runtime(): 1 | true}", "forbidden_builtin:opa.runtime"),
        ("result := 1 if false else := opa.runtime() if true", "forbidden_builtin:opa.runtime"),
        ("result := 1 if false else := 2 if opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := 1 if every x in [opa.runtime()] { x }", "forbidden_builtin:opa.runtime"),
        ("result := 1 if every x in [1] { opa.runtime() }", "forbidden_builtin:opa.runtime"),
        ("result := 1 if some x in opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := 1 if input.x[opa.runtime()]", "forbidden_builtin:opa.runtime"),
        ("result := 1 if opa.runtime().env", "forbidden_builtin:opa.runtime"),
        ("result := 1 if not opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := lower(upper(opa.runtime()))", "forbidden_builtin:opa.runtime"),
        ("result := 1\nr[opa.runtime()] := 1", "forbidden_builtin:opa.runtime"),
        ("result := 1\nr contains opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := 1\nf(opa.runtime()) := 1", "forbidden_builtin:opa.runtime"),
        ("default result := opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := 1 if input.x with input.y as opa.runtime()", "forbidden_builtin:opa.runtime"),
        ("result := 1 if true in [1 in opa.runtime()]", "forbidden_builtin:opa.runtime"),
        # with
        ("result := 1 if lower(1) with lower as opa.runtime", "forbidden_with:lower"),
        ("result := 1 if true with opa.runtime as 3", "forbidden_with:opa.runtime"),
        ("f(x) := 1\nresult := 1 if f(1) with f as upper", "forbidden_with:f"),
        ("result := 1 if data.x with data.x as 3", "forbidden_with:data.x"),
        ("r := 1\nresult := 1 if r with data.caracal.authz.r as 2", "forbidden_with:data.caracal"),
        ("result := [1 | true with lower as upper]", "forbidden_with:lower"),
        ("result := 1 if every x in [1] { x with lower as upper }", "forbidden_with:lower"),
        # negation: more in test_negation.py
        ('result := 1 if {\n\tnot "a" in input.roles\n}', "permissive_negation:4:2"),
        # time and memory
        (LONG_TO_PARSE, "nesting_too_deep"),
        ('result := sprintf("%999999999d", [1])', "forbidden_builtin:sprintf"),
        ("result := sprintf(`%-+#0100d`, [1])", "forbidden_builtin:sprintf"),
        ('result := sprintf("%s %.100f", [1, 2])', "forbidden_builtin:sprintf"),
        ("result := sprintf(input.format, [1])", "forbidden_builtin:sprintf"),
        ('f := "%d"\nresult := sprintf(f, [1])', "forbidden_builtin:sprintf"),
        ('result := 1 if sprintf(concat("", ["%9", "99d"]), [1])', "forbidden_builtin:sprintf"),
        (LONG_COMPREHENSION, "evaluation_timeout"),
        (STUCK_ON_A_TOOL_CALL, "evaluation_timeout"),
        (STUCK_ON_LONG_SCOPES, "evaluation_timeout"),
        (MEMORY + "}", "evaluation_timeout"),
    ],
)
async def test_refused(content: str, expected: str) -> None:
    found = await reason(content)
    assert found is not None
    assert found.startswith(f"invalid_rego {expected}")


@pytest.mark.parametrize(
    "content",
    [
        "result := {}",
        NESTED,
        'result := sprintf("%d of 1000%% %s %-20s %v", [1, "a", "b", {}])',
        'result := {"decision": "allow"} if input.principal.type == "Application"',
        "f(x) := x + 1\nresult := f(1) + data.caracal.authz.f(2)",
        "result := x if { x := r with input.a as 3 }\nr := input.a",
        "result := x if { x := r with input as {} }\nr := input",
        'result := "http.send(opa.runtime())" # time.now_ns() with time.now_ns as rand.intn',
        "result := `not startswith(input.x, [[[[[[[[[[[[`",
        'result := regex.match("^a+$", input.resource.identifier)',
        "default result := 1\nresult := 2 if input.never",
        "result := 1 if false else := 2 if false else := 3",
        "names contains x if some x in input.context.requested_scopes\nresult := count(names)",
        "result := f(3)\nf(result) := result",
    ],
)
async def test_accepted(content: str) -> None:
    assert await reason(content) is None


async def test_the_sample_policy_is_accepted() -> None:
    await check_policy(SCOPES)


async def test_future_keywords_are_accepted() -> None:
    await check_policy(b"package caracal.authz\nimport future.keywords.if\nresult := 1 if true")


@pytest.mark.parametrize("name", sorted(ALLOWED))
async def test_the_engine_has_each_allowed_builtin(name: str) -> None:
    """A wrong number of arguments is noticed, so the function was found."""
    engine = regorus.Engine()
    engine.add_policy("p", f"{HEAD}result := {name}(1, 2, 3, 4, 5, 6, 7)")
    with pytest.raises(RuntimeError, match="expects"):
        engine.eval_rule("data.caracal.authz.result")


async def test_time_is_bounded_also_before_the_engine_starts() -> None:
    assert await reason("result := 1", timeout=0.0) == "invalid_rego evaluation_timeout"


async def test_a_stuck_check_is_killed_and_leaves_no_process() -> None:
    before = _children()
    assert await reason(LONG_COMPREHENSION, timeout=0.5) == "invalid_rego evaluation_timeout"
    assert _children() == before


async def test_a_cancelled_check_leaves_no_process() -> None:
    before = _children()
    task = asyncio.create_task(check_policy(HEAD + LONG_COMPREHENSION))
    while _children() == before:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _children() == before


async def test_two_checks_run_at_a_time() -> None:
    before = len(_children())
    tasks = [asyncio.create_task(check_policy(SCOPES)) for _ in range(6)]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, len(_children()) - before)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    assert most == 2


async def test_the_process_sees_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("ZONE_KEK", "secret")
    await check_policy(SCOPES)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (["default result := 1", "default result := 1"], "syntax_error:3:1"),
        (["result := 1", "result := 2"], "syntax_error:3:1"),
        (
            ["result := 1\nf(x) := g(x)\ng(x) := x", "result := 1\ng(x) := f(x)\nf(x) := x"],
            "syntax_error:",
        ),
        (["result := 1", "allow := 1"], "must_define_result_rule"),
        # each may be stored; together they would keep a process that serves from serving
        ([NESTED] * 50, "evaluation_timeout"),
    ],
)
async def test_refused_together(contents: list[str], expected: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        await check_manifest([HEAD + content for content in contents])
    assert refused.value.extras["detail"].startswith(expected)


async def test_accepted_together() -> None:
    extra = 'result := {"decision": "deny"} if input.principal.id == "blocked"'
    await check_manifest([SCOPES, HEAD + extra])


def _children() -> set[str]:
    pid = os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
