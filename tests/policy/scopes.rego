# Allows an application the scopes listed for it, nothing else. Writing takes a person's consent.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["scopes/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

granted := {"read", "list"}

consented := {"write"}

requested contains scope if some scope in input.context.requested_scopes

refused contains scope if {
	some scope in requested
	not scope in granted
	not scope in consented
}

waiting contains scope if {
	some scope in requested
	scope in consented
	not input.context.challenge_resolved
}

known if {
	input.principal.type == "Application"
	input.action.id == "TokenExchange"
	every scope in requested { scope in input.resource.scopes }
}

result := answer("allow", "scopes/allow", []) if {
	known
	count(refused) == 0
	count(waiting) == 0
}

result := answer("deny", "scopes/refused", [{"reason": "scope_refused", "scopes": refused}]) if {
	known
	count(refused) > 0
}

result := answer("deny", "scopes/consent", [{"step_up_required": "human_approval"}]) if {
	known
	count(refused) == 0
	count(waiting) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
