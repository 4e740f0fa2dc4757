"""``caracal policy test`` and ``validate``: on this machine, with no server anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.caracal import Caracal

POLICY = """package caracal.authz
import rego.v1
default result := {"decision": "deny", "evaluation_status": "complete",
    "determining_policies": ["p/default"], "diagnostics": [{"reason": "name a scope"}]}
result := {"decision": "allow", "evaluation_status": "complete",
    "determining_policies": ["p/read"], "diagnostics": []} if {
    input.context.requested_scopes == ["read"]
}
"""
READ = {"context": {"requested_scopes": ["read"]}}
WRITE = {"context": {"requested_scopes": ["write"]}}

caracal = Caracal({})


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.rego").write_text(POLICY)
    Path("read.json").write_text(json.dumps(READ))
    Path("write.json").write_text(json.dumps(WRITE))


def test_several_inputs() -> None:
    document = caracal.json("policy", "test", "p.rego", "-i", "read.json", "-i", "write.json")
    assert document["policies"] == ["p.rego"]
    told = [
        (each["input"], each["decision"], each["determining_policies"], each["diagnostics"])
        for each in document["results"]
    ]
    assert told == [
        ("read.json", "allow", ["p/read"], []),
        ("write.json", "deny", ["p/default"], [{"reason": "name a scope"}]),
    ]


def test_shown_for_people() -> None:
    shown = caracal.run("policy", "test", "p.rego", "-i", "write.json").stdout
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "input write.json",
        "decision deny",
        "evaluation status complete",
        "determining policies p/default",
        "diagnostics reason=name a scope",
    ]


@pytest.mark.parametrize(
    ("expect", "inputs", "code"),
    [
        ("allow", ["read.json"], 0),
        ("deny", ["write.json"], 0),
        ("deny", ["read.json"], 1),
        ("allow", ["read.json", "write.json"], 1),
    ],
)
def test_an_expectation(expect: str, inputs: list[str], code: int) -> None:
    given = [word for name in inputs for word in ("-i", name)]
    arguments = ("policy", "test", "p.rego", *given, "--expect", expect)
    document = caracal.json(*arguments, code=code)
    assert all(each["as_expected"] for each in document["results"]) is (code == 0)
    assert ("expected" in caracal.run(*arguments, code=code).stdout) is bool(code)


def test_policies_decide_together() -> None:
    Path("more.rego").write_text(
        'package caracal.authz\nimport rego.v1\nresult := {"decision": "allow",'
        ' "evaluation_status": "complete", "determining_policies": ["more"], "diagnostics": []} if'
        ' input.context.requested_scopes == ["write"]\n'
    )
    (told,) = caracal.json("policy", "test", "p.rego", "more.rego", "-i", "write.json")["results"]
    assert told["determining_policies"] == ["more"]


def test_input_from_standard_input() -> None:
    (told,) = caracal.json("policy", "test", "p.rego", "-i", "-", given=json.dumps(READ))["results"]
    assert told["allowed"] is True


def test_no_usable_decision_is_a_failure() -> None:
    Path("odd.rego").write_text(
        "package caracal.authz\nimport rego.v1\n"
        'result := {"decision": "allow", "evaluation_status": "partial"}\n'
    )
    document = caracal.json("policy", "test", "odd.rego", "-i", "read.json", code=1)
    assert document["results"][0]["allowed"] is False


def test_an_evaluation_that_does_not_end() -> None:
    xs = "input.context.xs"
    Path("slow.rego").write_text(
        "package caracal.authz\nimport rego.v1\n"
        'default result := {"decision": "deny", "evaluation_status": "complete"}\n'
        'result := {"decision": "allow", "evaluation_status": "complete"} if {\n'
        f"    some a in {xs}\n    some b in {xs}\n    some c in {xs}\n    a + b + c < 0\n}}\n"
    )
    Path("n.json").write_text(json.dumps({"context": {"xs": list(range(1000))}}))
    (told,) = caracal.json("policy", "test", "slow.rego", "-i", "n.json", code=1)["results"]
    assert (told["allowed"], told["evaluation_status"]) == (False, "error")
    assert told["diagnostics"] == [{"reason": "evaluation_timeout"}]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("package other\n", "invalid_rego: the package must be caracal.authz"),
        ("", "invalid_rego: "),
        ("package caracal.authz\nresult := http.send({})\n", "invalid_rego: "),
    ],
)
def test_what_an_upload_would_refuse(content: str, line: str) -> None:
    Path("bad.rego").write_text(content)
    for arguments in (("validate", "bad.rego"), ("test", "bad.rego", "-i", "read.json")):
        assert caracal.refused("policy", *arguments).startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[]", "invalid_input: odd.json is no JSON object"),
        ("{", "invalid_input: odd.json: this is no JSON"),
        ('{"a": NaN}', "invalid_input: odd.json: this is no JSON"),
        ("[" * 100_000, "invalid_input: odd.json: this is no JSON"),
        (b"\xff", "invalid_input: odd.json: odd.json is not UTF-8"),
        (b"x" * (1 << 20) + b"x", "invalid_input: odd.json: more than 1048576 bytes"),
    ],
)
def test_an_input_that_is_none(content: Any, line: str) -> None:
    Path("odd.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert caracal.refused("policy", "test", "p.rego", "-i", "odd.json", code=2) == line


def test_advice() -> None:
    assert caracal.json("policy", "validate", "p.rego") == {"valid": True, "warnings": []}
    Path("odd.rego").write_text(
        "package caracal.authz\nimport rego.v1\n"
        'result := {"decision": "allow", "evaluation_status": "complete"}\n'
    )
    shown = caracal.run("policy", "validate", "odd.rego").stdout
    assert shown.startswith("odd.rego is valid\n  warning: ")
    assert caracal.json("policy", "validate", "-", given=POLICY)["valid"] is True
