"""What a person is told about a refused policy; ``detail`` is for programs."""

from __future__ import annotations

from caracal.errors import Unprocessable

_MAX_SAID = 200
_SENTENCES = {
    "empty_policy": "the policy holds no code",
    "policy_too_large": "a policy has at most 64 KiB",
    "nesting_too_deep": "too much nesting: at most 10 brackets inside each other, few of them deep",
    "unterminated_string": "a string is not closed",
    "unbalanced_delimiters": "brackets do not match: one is missing, too many, or of another kind",
    "missing_package_declaration": "the policy must begin with: package caracal.authz",
    "invalid_package_name": "the package must be caracal.authz",
    "must_use_package_caracal_authz": "the package must be caracal.authz",
    "must_define_result_rule": "the policy must define a rule that is called result",
    "forbidden_builtin": "policies may not call or replace {}",
    "unknown_function": "there is no function {}",
    "forbidden_with": "with may replace parts of input only, not {}",
    "permissive_negation": "line {}, column {}: not would allow here when input is missing;"
    " compare the call with false instead",
    "evaluation_timeout": "evaluating the policy takes too much time or memory",
    "syntax_error": "line {}, column {}: this cannot be compiled or evaluated",
}


def invalid(reason: str, said: str = "") -> Unprocessable:
    """422 ``invalid_rego`` with its reason in ``detail`` (control-plane.md section 6).

    ``said`` is the engine's own word on what stands at the place that ``reason`` names.
    """
    return Unprocessable("invalid_rego", sentence(reason, said), detail=reason)


def sentence(reason: str, said: str = "") -> str:
    """Return ``reason``, e.g. ``syntax_error:4:13``, as people say it."""
    name, *parts = reason.split(":")
    text = _SENTENCES[name].format(*parts)
    return f"{text}: {said[:_MAX_SAID]}" if said else text
