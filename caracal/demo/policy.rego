# The agent may read the register. Writing to it takes a person, whatever was granted.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["incidents/default"],
	"diagnostics": [{"reason": "name the scope you need"}],
}

open := {"incidents:read"}

requested contains scope if some scope in input.context.requested_scopes

refused contains scope if {
	some scope in requested
	not scope in open
}

result := answer("allow", "incidents/read", []) if {
	input.action.id == "TokenExchange"
	count(requested) > 0
	count(refused) == 0
}

result := answer("deny", "incidents/writing-takes-a-person", [{
	"reason": "an agent may not write to the register",
	"scopes": refused,
}]) if {
	count(refused) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
