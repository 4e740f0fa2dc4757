# What the policy templates have in common: named scopes for one application, a person's consent
# for some of them, roles of the subject, nothing across zones.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["template/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

granted := {"read", "list", "search", "agent:lifecycle"}

consented := {"write", "delete"}

refused contains scope if {
	some scope in input.context.requested_scopes
	not scope in granted
	not scope in consented
}

waiting contains scope if {
	some scope in input.context.requested_scopes
	scope in consented
	not input.context.challenge_resolved
}

known if {
	input.principal.type == "Application"
	input.principal.credential_type in {"token", "password", "public-key", "url"}
	input.action.id == "TokenExchange"
	every scope in input.context.requested_scopes { scope in input.resource.scopes }
}

result := answer("allow", "template/allow", []) if {
	known
	count(refused) == 0
	count(waiting) == 0
}

result := answer("deny", "template/refused", [{"reason": "scope_refused", "scopes": refused}]) if {
	known
	count(refused) > 0
}

result := answer("deny", "template/consent", [{"step_up_required": "human_approval"}]) if {
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
