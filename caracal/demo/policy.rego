# The agent may read the register. Writing to it takes a person, whatever was granted.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["incidents/default"],
	"diagnostics": [{"reason": "name the scope you need, and call one tool that reads"}],
}

open := {"incidents:read", "agent:lifecycle"}

reading := {"search", "get", "summarize", "replay"}

requested contains scope if some scope in input.context.requested_scopes

refused contains scope if {
	some scope in requested
	not scope in open
}

# A scope is what the agent says it needs; which tool it calls is what it does.
refused contains "annotate" if input.context.mcp.name == "annotate"

harmless if input.context.mcp == null

harmless if {
	input.context.mcp.method != ""
	input.context.mcp.method != "tools/call"
}

harmless if input.context.mcp.name in reading

result := answer("allow", "incidents/read", []) if {
	input.action.id == "TokenExchange"
	count(requested) > 0
	count(refused) == 0
	harmless
}

result := answer("deny", "incidents/writing-takes-a-person", [{
	"reason": "an agent may not write to the register",
	"refused": refused,
}]) if {
	count(refused) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
