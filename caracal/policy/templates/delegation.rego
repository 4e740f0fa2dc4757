# METADATA
# title: Delegation
# description: >-
#   Agents act on what was delegated to them and on nothing else: the delegation names scopes and
#   resource, and must be the one of this very agent. Applications act for themselves.

# As it stands applications may ask for what a resource declares, agents for what their
# delegation covers.
# Adapt: what applications may do for themselves (`own_scopes`).
package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["delegation/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

# Scopes that an application has without a delegation. Narrow it to, for instance, {"read"}.
own_scopes := declared

edge := input.delegation_edge if is_object(input.delegation_edge)

# No agent and no delegation: three places say so, and all must.
for_itself if {
	input.principal.agent_session_id == null
	input.context.delegation_edge_id == null
	input.delegation_edge == null
}

# An agent needs agent:lifecycle to take up its work, before anything is delegated to it.
starting if {
	is_string(input.principal.agent_session_id)
	input.delegation_edge == null
	input.context.http == null
}

# The edge was given to this agent of this application.
by_delegation if {
	edge.id == input.context.delegation_edge_id
	edge.receiver_application_id == input.principal.id
	edge.target_session_id == input.principal.agent_session_id
	is_string(input.principal.agent_session_id)
	covered
}

# By its id, by its identifier, or by an edge that names no resource at all: that is authority
# over all that the delegator reaches. Leave the last rule out to refuse such edges.
covered if edge.resource_id == input.resource.id

covered if {
	edge.resource_id == null
	input.resource.identifier in edge.constraints_json.resources
}

covered if {
	edge.resource_id == null
	is_object(edge.constraints_json)
	count(object.get(edge.constraints_json, "resources", [])) == 0
}

requested := {scope | some scope in input.context.requested_scopes}

declared := {scope | some scope in input.resource.scopes}

beyond := requested - own_scopes if for_itself

beyond := requested - {"agent:lifecycle"} if starting

beyond := requested - {scope | some scope in edge.scopes} if by_delegation

known if {
	input.action.id == "TokenExchange"
	input.principal.type == "Application"
	is_array(input.context.requested_scopes)
	count(requested - declared) == 0
}

way := "delegation/own-authority" if for_itself

way := "delegation/starting" if starting

way := "delegation/delegated" if by_delegation

result := answer("allow", way, []) if {
	known
	count(beyond) == 0
}

result := answer("deny", "delegation/beyond", [{"reason": "not_delegated", "scopes": beyond}]) if {
	known
	is_string(way)
	count(beyond) > 0
}

answer(decision, policy, diagnostics) := {
	"decision": decision,
	"evaluation_status": "complete",
	"determining_policies": [policy],
	"diagnostics": diagnostics,
}
