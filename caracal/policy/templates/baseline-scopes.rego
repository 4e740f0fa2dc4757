# METADATA
# title: Baseline of scopes
# description: >-
#   A list of the scopes that may be asked for, the same everywhere or a resource's own; all else
#   is refused, and the answer says which.

# As it stands reading is open on every resource.
# Adapt: `open` for the zone, `open_at` where a resource needs more or less.
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["baseline-scopes/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

open := {"read", "list", "search", "agent:lifecycle"}

# In place of `open`, by the resource's identifier. An empty set closes a resource.
open_at := {
	"resource://notes": {"read", "write", "agent:lifecycle"},
	"resource://vault": set(),
}

here := object.get(open_at, input.resource.identifier, open)

requested := {scope | some scope in input.context.requested_scopes}

refused := requested - here

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - {scope | some scope in input.resource.scopes}) == 0
	is_string(input.resource.identifier)
	count(here) > 0
	says_what_for
}

# A token may be asked for without scopes, for a call behind the Gateway one must be named.
says_what_for if input.context.http == null

says_what_for if {
	is_string(input.context.http.method)
	count(requested) > 0
}

result := answer("allow", "baseline-scopes/open", []) if {
	known
	count(refused) == 0
}

result := answer("deny", "baseline-scopes/refused", [{
	"reason": "scope_not_open",
	"scopes": refused,
}]) if {
	known
	count(refused) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
