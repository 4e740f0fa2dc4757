"""Policies that pass the check at upload, and stall or eat memory on one input."""

from __future__ import annotations

ALLOWS = """package caracal.authz

import rego.v1

default result := {"decision": "allow", "evaluation_status": "complete"}
"""

STALLS = f"""{ALLOWS}
result := {{"decision": "deny", "evaluation_status": "complete"}} if {{
	"odd" in input.context.requested_scopes
	xs := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
	ys := [y | some a in xs; some b in xs; y := a * b]
	count([1 | some a in ys; some b in ys; some c in xs; a + b + c == 0]) > 0
}}
"""
"""Three million steps and more: seconds, and little memory."""

_DOUBLED = "\n".join(f"\tx{n} := array.concat(x{n - 1}, x{n - 1})" for n in range(1, 30))
EATS = f"""{ALLOWS}
result := {{"decision": "deny", "evaluation_status": "complete"}} if {{
	"odd" in input.context.requested_scopes
	x0 := ["a", "b", "c", "d"]
{_DOUBLED}
	count(x29) == 0
}}
"""
"""Two thousand million elements, by doubling."""


def slow(size: int) -> str:
    """One that takes ``size`` cubed steps, and allows."""
    numbers = ", ".join(str(number) for number in range(size))
    return f"""{ALLOWS}
result := {{"decision": "deny", "evaluation_status": "complete"}} if {{
	xs := [{numbers}]
	count([1 | some a in xs; some b in xs; some c in xs; a + b + c < 0]) > 0
}}
"""


def variant(content: str, number: int) -> str:
    """The same policy as another text."""
    return f"{content}# {number}\n"
